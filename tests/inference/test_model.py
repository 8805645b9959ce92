"""A model gives PyTorch's vectors, states and words, however texts were packed, cut and spread."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

import jalign
from jalign.encoders import bert
from jalign.errors import ConfigError, UserError
from jalign.hf.compare import SENTENCES
from jalign.inference.model import Counts, Model
from jalign.inference.texts import TextTooLong
from tests.inference.conftest import TEXTS, torch

KINDS = ["xlm-roberta", "roberta", "bert", "modernbert"]


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("kind", KINDS)
def test_mean_and_cls_vectors_equal_torch_in_many_scripts(both, kind):
    pair = both(kind, 1)
    states = [pair.states(pair.ids(text))[-1] for text in TEXTS]
    assert max(map(len, states)) <= 128, "one window each"
    mean = pair.model.embed(TEXTS)
    assert mean.dtype == np.float32
    assert_close(mean, np.stack([h.mean(axis=0) for h in states]))
    assert_close(pair.model.embed(TEXTS, pooling="cls"), np.stack([h[0] for h in states]))


@pytest.mark.parametrize("kind", ["xlm-roberta", "modernbert"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_every_layer_equals_torch(both, kind, layer):
    pair = both(kind, 1)
    texts = TEXTS[:6]
    theirs = [pair.states(pair.ids(text))[layer] for text in texts]
    for mine, other in zip(pair.model.encode(texts, layer=layer), theirs, strict=True):
        assert_close(mine.states, other)
    assert_close(pair.model.embed(texts, layer=layer), np.stack([h.mean(0) for h in theirs]))


def test_a_family_that_cannot_stop_early_gives_the_same_layer(xlmr, monkeypatch):
    early = xlmr.model.embed(TEXTS, layer=1)
    monkeypatch.delattr(bert, "first_layers")
    late = jalign.load(xlmr.folder, devices=jax.devices()[:1], slots=128)
    assert_close(late.embed(TEXTS, layer=1), early)


def test_the_pooler_equals_torch(both):
    pair = both("bert", 0, head=False)
    with torch.no_grad():
        theirs = [
            pair.torch(torch.tensor([pair.ids(text)])).pooler_output[0].numpy() for text in TEXTS
        ]
    assert_close(pair.model.embed(TEXTS, pooling="pooler"), np.stack(theirs))


def test_normalised_vectors_have_length_1_and_the_same_direction(xlmr):
    plain, unit = (xlmr.model.embed(TEXTS, normalize=n) for n in (False, True))
    assert_close(unit * np.linalg.norm(plain, axis=1)[:, None], plain)
    assert_close(np.linalg.norm(unit, axis=1), np.ones(len(TEXTS)))


def test_order_is_kept_whatever_the_lengths(xlmr):
    rng = np.random.default_rng(0)
    words = " ".join(SENTENCES).split()
    texts = [" ".join(rng.choice(words, n)) for n in rng.integers(0, 30, 120)]
    together = xlmr.model.embed(texts)
    shuffled = rng.permutation(len(texts))
    assert_close(xlmr.model.embed([texts[i] for i in shuffled]), together[shuffled])
    for i in rng.choice(len(texts), 5):
        assert_close(xlmr.model.embed([texts[i]])[0], together[i])


def test_eight_devices_give_what_one_gives(xlmr):
    model = jalign.load(xlmr.folder, slots=128)
    assert model.engine.shapes.devices == 8
    assert_close(model.embed(TEXTS), xlmr.model.embed(TEXTS))
    for mine, one in zip(model.encode(TEXTS[:3]), xlmr.model.encode(TEXTS[:3]), strict=True):
        assert_close(mine.states, one.states)


def test_a_stream_gives_the_same_bits_and_reads_no_further_than_it_must(xlmr):
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield TEXTS[read % len(TEXTS)]

    counts = Counts()
    stream = xlmr.model.embed_stream(endless(), counts=counts)
    first = next(stream)
    size = xlmr.model.engine.window_texts
    assert len(first) == size and read <= 3 * size
    texts = [TEXTS[(i + 1) % len(TEXTS)] for i in range(size)]
    np.testing.assert_array_equal(xlmr.model.embed(texts), first)
    assert counts.tokens / counts.slots > 0.97


@pytest.mark.parametrize("kind", KINDS)
def test_encode_gives_hugging_faces_ids_and_the_characters_of_each_token(both, kind):
    pair = both(kind, 1)
    mask, end = pair.tokenizer.mask_token, pair.tokenizer.sep_token
    texts = [TEXTS[1], f"the {mask} is {end} big"]  # special tokens spelt out are these tokens
    for text, got in zip(texts, pair.model.encode(texts), strict=True):
        theirs = pair.tokenizer(text, return_offsets_mapping=True)
        assert got.ids.tolist() == theirs["input_ids"]
        np.testing.assert_array_equal(got.spans, theirs["offset_mapping"])
        assert_close(got.states, pair.states(theirs["input_ids"])[-1])
    assert pair.model.tokenizer.backend.encode_special_tokens, "training's is not touched"


def long_text(pair, tokens):
    """A text of exactly so many tokens, without the special ones."""
    words = " ".join(SENTENCES).split()
    text = ""
    while (left := tokens - len(pair.tokenizer(text)["input_ids"]) + 2) > 0:
        fitting = [w for w in words if 0 < len(pair.tokenizer(w)["input_ids"]) - 2 <= left]
        text = f"{text} {fitting[len(text) % len(fitting)]}".strip()
    assert len(pair.tokenizer(text)["input_ids"]) == tokens + 2
    return text


def windowed_states(pair, ids, limit):
    """Every window through PyTorch, every token from where it is most central: the slow way."""
    inner, room = ids[1:-1], limit - 2
    stride = room - room // 4
    num = 1 + -(-(len(inner) - room) // stride)
    starts = [w * (len(inner) - room) // (num - 1) for w in range(num)]
    runs = [pair.states([ids[0], *inner[s : s + room], ids[-1]])[-1] for s in starts]
    rows = [runs[0][0]]
    for token in range(len(inner)):
        depths = [min(token - s, s + room - 1 - token) for s in starts]
        best = int(np.argmax(depths))
        rows.append(runs[best][1 + token - starts[best]])
    return np.stack([*rows, runs[-1][-1]]), np.mean([run[0] for run in runs], axis=0)


@pytest.mark.parametrize("more", [1, 95, 300])
def test_a_text_over_the_limit_goes_through_in_windows(xlmr, more):
    text = long_text(xlmr, 126 + more)
    states, cls = windowed_states(xlmr, xlmr.tokenizer(text)["input_ids"], 128)
    texts = ["the house", text, TEXTS[0]]
    got = list(xlmr.model.encode(texts))[1]
    assert_close(got.states, states)
    assert got.ids.tolist() == xlmr.tokenizer(text)["input_ids"]
    assert got.spans[-2, 1] == len(text)
    mean = xlmr.model.embed(texts)
    assert_close(mean[1], states.mean(axis=0))
    assert_close(mean[[0, 2]], xlmr.model.embed([texts[0], texts[2]]))
    assert_close(xlmr.model.embed(texts, pooling="cls")[1], cls)


def test_a_text_at_the_limit_is_one_pass(xlmr):
    text = long_text(xlmr, 126)
    theirs = xlmr.states(xlmr.tokenizer(text)["input_ids"])[-1]
    for option in ("window", "error", "truncate"):
        assert_close(xlmr.model.embed([text], on_overflow=option)[0], theirs.mean(axis=0))


def test_truncation_equals_torchs_and_is_reported_once(xlmr):
    texts = ["the house", long_text(xlmr, 140), long_text(xlmr, 200)]
    with pytest.warns(UserWarning) as said:
        vectors = xlmr.model.embed(texts, on_overflow="truncate")
    assert [str(w.message) for w in said] == [
        "cut 2 of 3 texts, longer than the 128 tokens that this encoder takes"
    ]
    theirs = [xlmr.states(xlmr.ids(text))[-1].mean(axis=0) for text in texts]
    assert_close(vectors, np.stack(theirs))


def test_overflow_as_an_error_names_the_text(xlmr):
    with pytest.raises(TextTooLong, match="text 2 has 142 tokens .* takes 128"):
        xlmr.model.embed(["a", long_text(xlmr, 140)], on_overflow="error")


def test_masks_get_torchs_likeliest_tokens(xlmr):
    text = "the <mask> is big, la <mask> est grande"
    ids = xlmr.tokenizer(text)["input_ids"]
    with torch.no_grad():
        probs = xlmr.torch(torch.tensor([ids])).logits[0].softmax(-1)
    at = [i for i, token in enumerate(ids) if token == xlmr.tokenizer.mask_token_id]
    got = xlmr.model.fill_mask(text, top=4)
    assert len(got) == len(at) == 2
    for best, place in zip(got, at, strict=True):
        theirs = probs[place].topk(4)
        assert [p.id for p in best] == theirs.indices.tolist()
        np.testing.assert_allclose(
            [p.probability for p in best], theirs.values.numpy(), rtol=1e-4, atol=1e-7
        )
        assert [p.token for p in best] == xlmr.tokenizer.convert_ids_to_tokens([p.id for p in best])
        filled = [*ids[:place], best[0].id, *ids[place + 1 :]][1:-1]
        assert best[0].text == xlmr.tokenizer.decode(filled)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_masks_of_other_tokenizers_are_filled_too(both, kind):
    pair = both(kind, 1)
    mask = pair.tokenizer.mask_token
    ids = pair.tokenizer(f"All human {mask} are born")["input_ids"]
    with torch.no_grad():
        logits = pair.torch(torch.tensor([ids])).logits[0]
    best = int(logits[ids.index(pair.tokenizer.mask_token_id)].argmax())
    assert pair.model.fill_mask(f"All human {mask} are born", top=1)[0][0].id == best


def test_what_fill_mask_lacks_is_said(xlmr, both):
    with pytest.raises(UserError, match="no mask in 'hello'.* writes it <mask>"):
        xlmr.model.fill_mask("hello")
    with pytest.raises(UserError, match="top=0: need 1 to 285"):
        xlmr.model.fill_mask("<mask>", top=0)
    with pytest.raises(UserError, match="takes 128: give less of it"):
        xlmr.model.fill_mask("<mask> " + long_text(xlmr, 126))
    with pytest.raises(UserError, match="no masked-LM head"):
        both("bert", 0, head=False).model.fill_mask("[MASK]")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(pooling="max"), "pooling='max': need one of mean, cls, pooler"),
        (dict(pooling="pooler"), "this model has no pooler; type pooling='mean'"),
        (dict(layer=4), "layer=4: this encoder has 3 layers"),
        (dict(layer=-2), "need -1 .the last., 0 .the embeddings. to 3"),
        (dict(on_overflow="cut"), "on_overflow='cut': need one of window, error, truncate"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(xlmr, options, said):
    with pytest.raises(UserError, match=said):
        xlmr.model.embed_stream(iter(["a"]), **options)


def test_the_pooler_stands_on_the_last_layer(both):
    with pytest.raises(UserError, match="type layer=-1"):
        both("bert", 0, head=False).model.embed(["a"], pooling="pooler", layer=1)


def test_one_str_is_refused(xlmr):
    with pytest.raises(TypeError, match=r"type \[text\]"):
        xlmr.model.embed("hello")


def test_no_texts_are_no_rows(xlmr):
    assert xlmr.model.embed([]).shape == (0, 32)


def test_apply_is_pure_and_differentiable(xlmr):
    model, ids = xlmr.model, np.array([xlmr.ids("the house")])
    args = ids, np.arange(ids.size)[None], np.ones_like(ids)
    states = jax.jit(model.apply)(model.params, *args)
    assert_close(states[0], xlmr.states(ids[0])[-1])
    grads = jax.jit(jax.grad(lambda p: model.apply(p, *args)[0, 0, 0]))(model.params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert np.abs(grads["layers"]["qkv"]["kernel"]).max() > 0


def test_bfloat16_computes_near_float32(xlmr):
    low = jalign.load(xlmr.folder, dtype="bfloat16", devices=jax.devices()[:1], slots=128)
    mine, exact = (m.embed(TEXTS, normalize=True) for m in (low, xlmr.model))
    assert mine.dtype == np.float32
    assert (mine * exact).sum(axis=1).min() > 0.999 > np.abs(mine - exact).max() > 1e-5


def test_an_unknown_dtype_is_refused(xlmr):
    with pytest.raises(ConfigError, match="dtype='half'.*float32"):
        jalign.load(xlmr.folder, dtype="half")


def test_a_model_is_made_of_its_parts_too_and_they_must_fit(xlmr):
    model = xlmr.model
    again = Model("bert", model.cfg, model.params, model.tokenizer, devices=jax.devices()[:1])
    assert_close(again.embed(TEXTS), model.embed(TEXTS))
    with pytest.raises(UserError, match="has 285 ids and the encoder 200"):
        Model("bert", replace(model.cfg, vocab_size=200), model.params, model.tokenizer)


def test_the_hash_tells_models_apart(xlmr, both):
    model = xlmr.model
    assert model.sha256 == jalign.load(xlmr.folder, slots=128).sha256
    changed = jax.tree.map(np.asarray, model.params)
    kernel = changed["layers"]["out"]["kernel"].copy()
    kernel[0, 3, 4] += 0.5
    changed["layers"]["out"]["kernel"] = kernel
    other = Model("bert", model.cfg, changed, model.tokenizer, devices=jax.devices()[:1])
    assert other.sha256 != model.sha256
