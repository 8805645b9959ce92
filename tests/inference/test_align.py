"""Links come in order and do not depend on what they were packed with; what is long, empty or odd
comes out right; the defaults are the stored ones.
"""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import jalign
from jalign.align.methods import METHODS, Rule
from jalign.align.symmetrize import METHODS as COMBINED
from jalign.align.symmetrize import symmetrize
from jalign.errors import ConfigError
from jalign.hf.compare import SENTENCES
from jalign.inference.align import (
    Aligner,
    PairCounts,
    Setting,
    choose,
    read_stored,
    write_stored,
)
from jalign.inference.align_texts import PairTooLong

PAIRS = [*zip(SENTENCES, SENTENCES[3:] + SENTENCES[:3], strict=True), ("the house", "la maison")]


def sets(links):
    return [set(map(tuple, one.pairs_A2.tolist())) for one in links]


@pytest.mark.parametrize("level", ["piece", "word"])
@pytest.mark.parametrize("layout", ["separate", "joint"])
def test_packed_pairs_have_the_links_that_each_has_by_itself(xlmr, level, layout):
    rules = tuple(Rule(method, level=level) for method in METHODS)
    aligner = Aligner(xlmr.model, Setting(rules, (1, 3), layout))
    (together,) = aligner.stream(PAIRS)
    alone = [next(aligner.stream([pair])) for pair in PAIRS]
    assert set(together.links) == {(layer, rule) for layer in (1, 3) for rule in rules}
    for key, links in together.links.items():
        assert sets(links.split()) == [sets(one.links[key].split())[0] for one in alone], key
        assert all(len(one.pairs_A2) for one in links.split()) or key[1].method == "entmax"


def test_many_layers_at_once_are_each_layer_by_itself(xlmr):
    rule = Rule("itermax")
    (window,) = Aligner(xlmr.model, Setting((rule,), (0, 1, 2, 3), "separate")).stream(PAIRS)
    for layer in range(4):
        assert sets(window.links[layer, rule].split()) == sets(
            xlmr.model.align(PAIRS, method="itermax", layer=layer)
        )
    assert xlmr.model.align(PAIRS, layer=-1)[0].pairs_A2.tolist() == (
        window.links[3, rule].split()[0].pairs_A2.tolist()
    )


def test_order_is_kept_whatever_the_lengths_and_the_devices(xlmr):
    rng = np.random.default_rng(0)
    words = " ".join(SENTENCES).split()
    pairs = [
        tuple(" ".join(rng.choice(words, n)) for n in rng.integers(0, 25, 2)) for _ in range(100)
    ]
    together = sets(xlmr.model.align(pairs))
    shuffled = rng.permutation(len(pairs))
    assert sets(xlmr.model.align([pairs[i] for i in shuffled])) == [together[i] for i in shuffled]
    assert all(bool(links) == bool(a and b) for links, (a, b) in zip(together, pairs, strict=True))
    eight = jalign.load(xlmr.folder, slots=128)
    assert eight.engine.shapes.devices == 8 and sets(eight.align(pairs)) == together


def test_windows_without_a_single_word_keep_their_place(xlmr, monkeypatch):
    monkeypatch.setattr("jalign.inference.align.PAIRS_PER_TEXT", 4096 // 2)  # windows of 2 pairs
    empty, full = ("", "x"), ("the house", "la maison")
    pairs = [empty, empty, full, full, empty, empty, empty, empty, full, empty, empty, empty, empty]
    counts = PairCounts()
    rule = choose(3, {})
    windows = list(Aligner(xlmr.model, rule).stream(pairs, counts))
    assert [w.one.num_pairs for w in windows] == [2] * 6 + [1]
    links = [bool(len(x.pairs_A2)) for w in windows for x in w.one.split()]
    assert links == [pair == full for pair in pairs]
    assert (counts.pairs, counts.empty, counts.long) == (13, 10, 0)
    assert Aligner(xlmr.model, rule).align([empty])[0].pairs_A2.shape == (0, 2)
    assert Aligner(xlmr.model, rule).align([]) == []


@pytest.mark.parametrize("method", COMBINED)
def test_combinations_join_the_word_links_of_both_directions(xlmr, method):
    forward, reverse = (sets(xlmr.model.align(PAIRS, method=m)) for m in ("forward", "reverse"))
    wanted = [symmetrize(f, r, method) for f, r in zip(forward, reverse, strict=True)]
    assert sets(xlmr.model.align(PAIRS, method=method)) == wanted


def test_intersection_of_words_is_argmax_of_words(xlmr):
    both = [xlmr.model.align(PAIRS, method=m, level="word") for m in ("intersection", "argmax")]
    assert sets(both[0]) == sets(both[1])


def test_scores_are_those_of_the_linked_cells(xlmr):
    for links in xlmr.model.align(PAIRS, level="word", scores=True):
        assert links.score_A.shape == (len(links.pairs_A2),)
        assert (links.score_A > 0.4).all() and (links.score_A <= 1).all()
    (one,) = xlmr.model.align([("the", "the")], method="argmax", scores=True)
    np.testing.assert_allclose(one.score_A, 1.0, atol=1e-6)
    pieces = xlmr.model.align(PAIRS, method="union", scores=True)
    for links in pieces:
        assert len(links.score_A) == len(links.pairs_A2)


def test_a_sentence_aligns_with_itself_word_by_word(xlmr):
    pairs = [(text, text) for text in SENTENCES]
    for method in ("argmax", "match"):
        for (text, _), links in zip(pairs, xlmr.model.align(pairs, method=method), strict=True):
            found = set(map(tuple, links.pairs_A2.tolist()))
            assert {(i, i) for i in range(len(text.split()))} <= found


def test_three_thousand_words_align_with_themselves_in_windows(xlmr):
    rng = np.random.default_rng(1)
    words = " ".join(SENTENCES).split()
    text = " ".join(rng.choice(words, 3000))
    counts = PairCounts()
    aligner = Aligner(xlmr.model, choose(3, {}, method="argmax"))
    before, long, after = aligner.align([("the", "the"), (text, text), ("la", "la")], counts)
    assert counts.long == 1
    np.testing.assert_array_equal(long.pairs_A2, np.stack([np.arange(3000)] * 2, axis=1))
    assert before.pairs_A2.tolist() == after.pairs_A2.tolist() == [[0, 0]]


def test_ten_thousand_identical_tokens_align_with_themselves(xlmr):
    """Only their positions tell them apart, and these repeat from window to window."""
    (links,) = xlmr.model.align([("the " * 10_000,) * 2], method="argmax")
    np.testing.assert_array_equal(links.pairs_A2, np.stack([np.arange(10_000)] * 2, axis=1))


def test_ten_thousand_tokens_on_one_side_reach_every_word(xlmr):
    (links,) = xlmr.model.align([("the " * 10_000, "la maison")], method="forward")
    assert set(links.pairs_A2[:, 0].tolist()) == set(range(10_000))


@pytest.mark.parametrize("method", ["softmax", "itermax", "ot", "match", "grow-diag-final-and"])
@pytest.mark.parametrize("layout", ["separate", "joint"])
def test_a_long_pair_is_stitched_for_every_method(xlmr, method, layout):
    text = " ".join(" ".join(s.split()[:4]) for s in SENTENCES * 3)
    (links,) = xlmr.model.align([(text, text)], method=method, layout=layout)
    pairs_A2, num = links.pairs_A2, len(text.split())
    assert len(pairs_A2) and pairs_A2.max() < num
    assert len(set(map(tuple, pairs_A2.tolist()))) == len(pairs_A2)
    assert pairs_A2[:, 0].max() > 0.9 * num > 10 * pairs_A2[:, 0].min()


def test_a_word_longer_than_the_encoder_is_one_word(xlmr):
    word = "科学家一直猜想" * 60
    (links,) = xlmr.model.align([(word, "la maison")], method="reverse")
    assert links.pairs_A2.tolist() == [[0, 0], [0, 1]]
    (links,) = xlmr.model.align([(word, word)], method="argmax", level="word")
    assert links.pairs_A2.tolist() == [[0, 0]]


def test_overflow_can_be_an_error_or_leave_the_pair_without_links(xlmr):
    pairs = [("the house", "la maison"), ("the " * 500, "la"), ("the", "la")]
    with pytest.raises(PairTooLong, match="pair 2 has 2000 and 3 pieces"):
        xlmr.model.align(pairs, on_overflow="error")
    skipped = xlmr.model.align(pairs, on_overflow="skip")
    assert [bool(len(x.pairs_A2)) for x in skipped] == [True, False, True]
    with pytest.raises(ConfigError, match="on_overflow='cut': need one of window, error, skip"):
        xlmr.model.align(pairs, on_overflow="cut")


@pytest.mark.parametrize(
    "text",
    [
        "😀 🎉 👍🏽",
        "\u200b",
        "البيت كبير جدا",
        "הבית גדול",
        "<s> </s> <mask>",
        "\ufffd",
        "a\u2028b\x0bc",
    ],
)
def test_odd_lines_align_with_themselves(xlmr, text):
    """Emoji, invisible characters, right to left, spelt-out special tokens: as many words as the
    text has, each linked with itself.
    """
    (links,) = xlmr.model.align([(text, text)], method="argmax")
    assert {(i, i) for i in range(len(text.split()))} <= set(map(tuple, links.pairs_A2.tolist()))


def test_another_method_brings_its_own_choices_but_not_the_layer():
    stored = dict(layer=5, method="softmax", similarity="cosine", layout="joint", threshold=0.1)
    kept = choose(12, stored)
    assert kept.rules == (Rule("softmax", "cosine", "piece", 0.1),)
    assert kept.layers == (5,) and kept.layout == "joint"
    assert choose(12, stored, method="softmax", layer=6).rules == kept.rules
    other = choose(12, stored, method="itermax")
    assert other.rules == (Rule("itermax", "simalign"),)
    assert other.layers == (5,) and other.layout == "separate"
    assert choose(12, stored, method="ot").layout == "joint"
    assert choose(12, {}).layers == (8,) and choose(6, {}).layers == (4,)
    assert choose(12, {}, layer=-1).layers == (12,) and choose(12, {}, layer=0).layers == (0,)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(layer=13), "layer=13: this encoder has 12 layers"),
        (dict(method="iter"), "method='iter': need one of argmax"),
        (dict(similarity="l2"), "similarity='l2': need one of dot, cosine, simalign"),
        (dict(layout="both"), "layout='both': need one of separate, joint"),
        (dict(level="char"), "level='char'"),
        (dict(method="argmax", threshold=0.1), "only softmax and entmax have one, not argmax"),
        (dict(method="softmax", threshold="x"), "threshold='x': need a number"),
        (dict(metod="argmax"), "metod is no option. Did you mean 'method'?"),
    ],
)
def test_wrong_options_say_what_there_is(given, said):
    with pytest.raises(ConfigError, match=said):
        choose(12, {}, **given)


def test_a_model_folder_stores_defaults_and_a_broken_file_is_named(xlmr, tmp_path):
    assert read_stored(tmp_path) == {} and read_stored(None) == {}
    path = write_stored(tmp_path, 2, Rule("softmax", threshold=0.01), "separate", aer=0.1)
    stored = read_stored(tmp_path)
    assert choose(3, stored) == Setting((Rule("softmax", "dot", "piece", 0.01),), (2,), "separate")
    assert stored["aer"] == 0.1
    for broken in ("{", "[]", json.dumps(dict(method="x")), json.dumps(dict(layer="8"))):
        path.write_text(broken)
        with pytest.raises(ConfigError, match="aligner.json: .*delete it, or write it anew"):
            read_stored(tmp_path)


def test_the_model_aligns_with_what_its_folder_stores(xlmr):
    model = jalign.load(xlmr.folder, devices=jax.devices()[:1])
    plain = sets(model.align(PAIRS))
    assert plain == sets(model.align(PAIRS, method="itermax", layer=2))
    path = write_stored(xlmr.folder, 1, Rule("forward"), "separate")
    try:
        assert sets(model.align(PAIRS)) == sets(xlmr.model.align(PAIRS, method="forward", layer=1))
    finally:
        path.unlink()
    assert sets(model.align(PAIRS)) == plain


@pytest.mark.parametrize("kind", ["roberta", "bert", "modernbert"])
def test_every_family_aligns(both, kind):
    pairs = [(text, text) for text in SENTENCES[:4]]
    for (text, _), links in zip(
        pairs, both(kind, 1).model.align(pairs, method="argmax"), strict=True
    ):
        found = set(map(tuple, links.pairs_A2.tolist()))
        assert {(i, i) for i in range(len(text.split()))} <= found
