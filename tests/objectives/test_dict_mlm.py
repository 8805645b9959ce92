"""DICT-MLM: the frequencies of methods.md 2.4 in both forms, targets and languages."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import linen as nn

from jalign.data.id_pairs import IdPairs, single_pairs, write_id_pairs
from jalign.encoders import bert
from jalign.errors import ConfigError
from jalign.objectives import dict_mlm, mlm
from jalign.types import Encoder, TokenIds
from tests.tiny import rows_of

V = 120  # of each half
MASK = V - 1
TOKENS = TokenIds(mask=MASK, specials=(0, 1, 2, 3, MASK))
KNOWN = np.arange(4, MASK)[::2]  # every other word is in the dictionary


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("pairs")
    pairs = np.stack([KNOWN, KNOWN + V], axis=1)
    train = np.ones(len(KNOWN), bool)
    written = single_pairs(pairs, train, langs=("en", "xx"), tokenizer_sha256="abc")
    write_id_pairs(base / "d.npz", written)
    return base


@pytest.fixture(scope="module")
def encoder():
    shape = dict(hidden=8, layers=1, heads=2, mlp=16, max_positions=130, type_vocab_size=2)
    cfg = bert.Config(vocab_size=2 * V, dropout=0.0, attention_dropout=0.0, **shape)
    return Encoder(bert.make(cfg), TOKENS, languages=("en", "xx"), tokenizer_sha256="abc")


def config_of(folder, **changes):
    return dict_mlm.Config(dictionary=str(folder / "d.npz"), **changes)


@pytest.fixture(scope="module")
def batch():
    """Return over 1e5 words, half of them in the second half of the vocabulary."""
    made = rows_of("joint", length=128, num=6000).rows(0, 1200)
    derived = made["side"] == 2
    plain = derived & ~np.isin(made["ids"], TOKENS.specials)
    made["ids"] = np.where(plain, made["ids"] + V, made["ids"])
    made["lang"] = np.where(derived, 1, 0).astype(np.int32)
    return made


def changed_of(cfg, encoder, batch):
    entries = dict_mlm.translations(
        dict_mlm.read_all(cfg.dictionary, "abc"), encoder.languages, 2 * V
    )
    masked = mlm.mask_batch(cfg, encoder, batch, jax.random.key(0), cfg.rate)
    found = dict_mlm.change_words(cfg, batch, masked, entries, jax.random.key(1))
    return np.asarray(masked.selected_BL), [np.asarray(x) for x in found]


def test_the_codes_form_has_the_frequencies_of_the_code(folder, encoder, batch):
    selected, (ids, target, lang, changed) = changed_of(config_of(folder), encoder, batch)
    old = batch["ids"]
    assert (batch["side"] > 0).sum() >= 100_000
    assert abs(selected[batch["side"] > 0].mean() - 0.15) < 0.004
    np.testing.assert_array_equal(target, old)  # the label is always the original
    known = np.isin(old % V, KNOWN)
    for of, synonym, kept in ((known, 0.50, 0.05), (~known, 0.0, 0.55)):
        new, was = ids[selected & of], old[selected & of]
        near = 4 * np.sqrt(0.25 / len(new))
        assert abs((np.abs(new - was) == V).mean() - synonym) < near
        assert abs((new == MASK).mean() - 0.40) < near
        assert abs((new == was).mean() - kept) < near
    np.testing.assert_array_equal(lang != batch["lang"], changed)  # flips exactly there
    np.testing.assert_array_equal(np.abs(ids - old)[changed], V)
    np.testing.assert_array_equal(ids[~selected], old[~selected])


def test_the_synonym_of_the_synonym_is_the_word(folder, encoder):
    cfg = config_of(folder)
    found = dict_mlm.translations(dict_mlm.read_all(cfg.dictionary, "abc"), ("en", "xx"), 2 * V)
    there = found["word"][found["first"][0, KNOWN]]
    np.testing.assert_array_equal(there, KNOWN + V)
    np.testing.assert_array_equal(found["word"][found["first"][1, there]], KNOWN)
    assert found["num"][0].sum() == found["num"][1].sum() == len(KNOWN)


def test_the_papers_form_masks_as_ever_and_asks_for_the_translation(folder, encoder, batch):
    cfg = config_of(folder, form="paper", language_embeddings=True)
    selected, (ids, target, lang, changed) = changed_of(cfg, encoder, batch)
    masked = mlm.mask_batch(cfg, encoder, batch, jax.random.key(0), cfg.rate)
    np.testing.assert_array_equal(ids, masked.ids_BL)
    np.testing.assert_array_equal(np.abs(target - batch["ids"]) == V, changed)
    np.testing.assert_array_equal(lang != batch["lang"], changed)
    known = np.isin(batch["ids"] % V, KNOWN) & selected
    assert abs(changed[known].mean() - 0.5) < 4 * np.sqrt(0.25 / known.sum())
    assert not changed[~known].any()


def test_a_word_of_many_translations_gets_each_of_them_alike(folder, encoder, batch, tmp_path):
    pairs = np.array([(10, 130), (10, 140), (10, 150), (20, 130)])
    written = single_pairs(pairs, [True] * 4, langs=("en", "xx"), tokenizer_sha256="abc")
    write_id_pairs(tmp_path / "d.npz", written)
    cfg = config_of(tmp_path, rate=0.9, change=1.0)
    _, (ids, _, _, changed) = changed_of(cfg, encoder, batch)
    for old, others in ((10, (130, 140, 150)), (130, (10, 20))):
        new = ids[changed & (batch["ids"] == old)]
        share = [(new == other).mean() for other in others]
        np.testing.assert_allclose(share, 1 / len(others), atol=4 * np.sqrt(0.25 / len(new)))


def test_entries_of_several_pieces_and_held_out_ones_are_not_used():
    pairs = IdPairs(
        np.array([[10, -1], [11, 12], [13, -1]], np.int32),
        np.array([[130], [131], [133]], np.int32),
        np.ones(3, np.float32), np.array([True, True, False]), ("en", "xx"), "abc",
    )  # fmt: skip
    found = dict_mlm.translations([pairs], ("en", "xx"), 2 * V)
    assert np.flatnonzero(found["num"][0]).tolist() == [10]
    with pytest.raises(ConfigError, match="no pair of single pieces is for training"):
        dict_mlm.translations([pairs.take(np.array([False, True, True]))], ("en", "xx"), 2 * V)


def test_a_third_language_is_left_alone(folder, encoder, batch):
    three = encoder._replace(languages=("en", "sw", "xx"))
    other = batch | {"lang": np.ones_like(batch["lang"])}  # all of it Swahili
    _, (ids, _, lang, changed) = changed_of(config_of(folder), three, other)
    assert not changed.any() and (lang == 1).all()


def test_a_dictionary_of_other_languages_is_refused(folder, encoder):
    with pytest.raises(ConfigError, match="of en-xx, and the data have en, de"):
        dict_mlm.make(config_of(folder), encoder._replace(languages=("en", "de")))


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (dict(form="print"), "form='print'"),
        (dict(change=0.0), "change=0.0"),
        (dict(form="paper"), "set language_embeddings=True"),
        (dict(rate={"begin": 0.1, "end": 0.2, "steps": 3}), "takes one number"),
        (dict(half="third"), "half='third'"),
    ],
)
def test_bad_entries_are_refused(entries, said):
    with pytest.raises(ValueError, match=said):
        dict_mlm.Config(dictionary="d.npz", **entries)


def test_language_embeddings_need_a_type_for_each_language(folder, encoder):
    with pytest.raises(ValueError, match="set config.encoder.type_vocab_size=3"):
        dict_mlm.make(
            config_of(folder, language_embeddings=True),
            encoder._replace(languages=("en", "sw", "xx")),
        )


def test_without_changes_the_loss_is_that_of_mlm_and_languages_matter(folder, encoder, batch):
    small = {name: values[:4] for name, values in batch.items()}
    draw = jax.jit(lambda key: nn.unbox(bert.init_params(encoder.module, key)))
    params = {"encoder": draw(jax.random.key(2))}
    params["encoder"]["type_embeddings"] = (
        params["encoder"]["type_embeddings"].at[1].set(np.arange(8.0))
    )

    def loss_of(objective):
        run = jax.jit(lambda aux: objective.loss(params, aux, {"mono": small}, None))
        return run(objective.init_aux(params))

    never = 1e-9
    plain = loss_of(mlm.make(mlm.Config(), encoder))
    mine = loss_of(dict_mlm.make(config_of(folder, change=never), encoder))
    np.testing.assert_allclose(mine.total, plain.total, rtol=1e-6)
    named = loss_of(mlm.make(mlm.Config(language_embeddings=True), encoder))
    both = loss_of(
        dict_mlm.make(config_of(folder, change=never, language_embeddings=True), encoder)
    )
    np.testing.assert_allclose(both.total, named.total, rtol=1e-6)
    assert abs(float(named.total - plain.total)) > 1e-3
    used = loss_of(dict_mlm.make(config_of(folder), encoder))
    assert 0 < used.metrics["changed"].total < used.metrics["changed"].count
