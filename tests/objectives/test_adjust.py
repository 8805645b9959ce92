"""Cross-lingual adjustment: the worked numbers, loops over pairs, the frozen copy, and the
continual step.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jalign.align.transport import Entropic, sinkhorn_divergence
from jalign.encoders import bert
from jalign.objectives import adjust, mlm
from jalign.train.step import StepConfig, make_train_step, name_key
from jalign.types import Encoder, TrainState
from tests.linked import kept_links, linked_rows, pairs_alone, words_of
from tests.tiny import TOKENS, VOCAB

KEY = jax.random.key(1)
SHAPE = dict(hidden=16, layers=2, heads=2, mlp=32, max_positions=66, init_std=0.5)


def encoder_of(**changes):
    cfg = bert.Config(
        vocab_size=VOCAB, **SHAPE | dict(dropout=0.0, attention_dropout=0.0), **changes
    )
    return Encoder(bert.make(cfg), TOKENS, languages=("en", "de"))


@pytest.fixture(scope="module")
def encoder():
    return encoder_of()


@pytest.fixture(scope="module")
def others(encoder):
    """Give the parameters of another model: a frozen copy that has been left behind."""
    draw = jax.jit(lambda key: nn.unbox(bert.init_params(encoder.module, key)))
    return {"frozen": {"encoder": draw(jax.random.key(7))}}


def losses_of(encoder, params, aux, batch, key=None, **changes):
    objective = adjust.make(adjust.Config(**changes), encoder)
    return jax.jit(lambda p, a, b: objective.loss(p, a, {"pair": b}, key))(params, aux, batch)


def mean(loss):
    return float(loss.total / loss.count)


@pytest.mark.parametrize("reduction, expected", [("mse", 1.25), ("mean", 2.5), ("sum", 5.0)])
def test_the_reductions_give_the_worked_numbers(reduction, expected):
    # methods.md 10.5; a third pair is not kept
    a = jnp.array([[[1.0, 2], [0, 1], [9, 9]]])
    b = jnp.array([[[1.0, 0], [1, 1], [0, 0]]])
    loss = adjust.squares(a - b, jnp.array([[True, True, False]]), reduction)
    assert mean(loss) == pytest.approx(expected, rel=1e-6)


def word_vectors(h, words, pool):
    take = {"mean": lambda s: h[s].mean(0), "first": lambda s: h[s[0]], "last": lambda s: h[s[-1]]}
    return np.stack([take[pool](slots) for slots in words])


def by_loop(encoder, params, aux, batch, pool, frame=True):
    """Return the differences of kept pairs and of held words, pair by pair."""

    def states(of, fields):
        unit = np.where(fields["example"] > 0, 1, 0)
        starts = (fields["position"] == 0) & (fields["example"] > 0)
        unit = np.cumsum(starts, axis=1) * unit
        return np.asarray(
            encoder.module.apply({"params": of}, fields["ids"], fields["position"], unit)
        )

    alone, aligned, drifted = pairs_alone(batch), [], []
    h, h0 = (states(x["encoder"], alone) for x in (params, aux["frozen"]))
    for b in range(len(h)):
        kept, _ = kept_links(alone, b)
        if not kept:
            continue
        sides = [words_of(alone, b, side) for side in (1, 2)]
        src, trg = (word_vectors(h[b], words, pool) for words in sides)
        frozen = word_vectors(h0[b], sides[0], pool)
        aligned += [src[i] - trg[j] for i, j in kept]
        drifted += list(src - frozen)
        if frame:
            edge = [(s[0][0] - 1, s[-1][-1] + 1) for s in sides]
            aligned += [h[b][i] - h[b][j] for i, j in zip(*edge, strict=True)]
            drifted += [h[b][i] - h0[b][i] for i in edge[0]]
    return np.array(aligned), np.array(drifted)


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
def test_losses_are_those_of_a_loop_over_pairs_alone(encoder, params, others, pool):
    batch = linked_rows(swap=pool == "last").rows(0, 10)
    aligned, drifted = by_loop(encoder, params, others, batch, pool)
    found = losses_of(encoder, params, others, batch, pool=pool)
    for part, expected in (("align", aligned), ("drift", drifted)):
        assert found[part].count == len(expected) > 30
        np.testing.assert_allclose(mean(found[part]), np.mean(expected**2), rtol=1e-5)
    kept = found["align"].metrics["kept"]
    assert 0 < kept.total < kept.count
    takes = found["align"].metrics["examples"]
    assert 0 < takes.total < takes.count
    assert found["align"].count == kept.total + 2 * takes.total


@pytest.mark.parametrize(
    "changes, atol",
    [
        (dict(reduction="sum", pool="piece"), 0.0),
        # the difference of transport costs of 3 or so, in float32
        (dict(distance="wordot", mu=0.5, num_iters=50, frame=False), 2e-5),
    ],
    ids=["l2", "wordot"],
)
def test_packed_losses_are_those_of_one_pair_a_row(encoder, params, others, changes, atol):
    batch = linked_rows(pieces=100).rows(0, 10)
    packed, alone = (
        losses_of(encoder, params, others, b, **changes) for b in (batch, pairs_alone(batch))
    )
    for part in ("align", "drift"):
        assert packed[part].count == alone[part].count
        np.testing.assert_allclose(packed[part].total, alone[part].total, rtol=1e-5, atol=atol)
        assert packed[part].total > 0.1


def test_special_token_pairs_are_two_per_sentence_pair(encoder, params, others):
    batch = linked_rows().rows(0, 10)
    with_, without = (
        losses_of(encoder, params, others, batch, frame=frame)["align"] for frame in (True, False)
    )
    assert with_.count - without.count == 2 * with_.metrics["examples"].total > 20
    aligned, _ = by_loop(encoder, params, others, batch, "mean", frame=False)
    np.testing.assert_allclose(mean(without), np.mean(aligned**2), rtol=1e-5)


def test_filters_are_choices(encoder, params, others):
    batch = linked_rows().rows(0, 10)

    def num(**changes):
        found = losses_of(encoder, params, others, batch, frame=False, **changes)
        return float(found["align"].count)

    assert num() < num(skip_identical=False) < num(one_to_one=False, skip_identical=False)
    given = (batch["links"][..., 0] >= 0).sum()
    assert num(one_to_one=False, skip_identical=False) == given
    assert num(min_weight=1.0) == num()
    light = batch | {"link_weight": 0.5 * batch["link_weight"]}
    heavy = losses_of(encoder, params, others, light, min_weight=0.6)
    assert heavy["align"].count == heavy["drift"].count == 0 == heavy["align"].total


def test_long_sentences_take_no_part_and_are_counted(encoder, params, others):
    batch = linked_rows().rows(0, 10)
    alone = pairs_alone(batch)
    short = [b for b in range(len(alone["ids"])) if alone["word"][b].max() < 4]
    rest = {name: values[np.array(short)] for name, values in alone.items()}
    mine = losses_of(encoder, params, others, batch, max_words=4)
    theirs = losses_of(encoder, params, others, rest)
    whole = losses_of(encoder, params, others, batch)
    for part in ("align", "drift"):
        assert mine[part].count == theirs[part].count < whole[part].count
        np.testing.assert_allclose(mine[part].total, theirs[part].total, rtol=1e-5)
    takes = mine["align"].metrics["examples"]
    assert takes.count == len(alone["ids"]) and takes.total <= len(short) < len(alone["ids"])


def test_exchanging_the_sides_leaves_the_alignment_as_it_is(encoder, params, others):
    batch = linked_rows().rows(0, 10)
    other = batch | {
        "side": np.where(batch["side"] > 0, 3 - batch["side"], 0),
        "links": batch["links"][..., ::-1],
    }
    one, two = (losses_of(encoder, params, others, b) for b in (batch, other))
    np.testing.assert_allclose(one["align"].total, two["align"].total, rtol=1e-6)
    np.testing.assert_allclose(one["drift"].total, two["drift"].total, rtol=1e-6)  # by language


@pytest.mark.parametrize("drift", ["states", "parameters"])
def test_an_encoder_that_has_not_moved_does_not_drift(encoder, params, others, drift):
    batch = linked_rows().rows(0, 2)
    objective = adjust.make(adjust.Config(drift=drift), encoder)

    def total(p, aux):
        return objective.loss(p, aux, {"pair": batch}, KEY)["drift"].total

    (still, flat), (moved, steep) = (
        jax.jit(jax.value_and_grad(total))(params, aux)
        for aux in (objective.init_aux(params), others)
    )
    # 0 but for rounding: XLA may fuse the two passes differently
    assert still <= 1e-12 * moved
    size = [max(np.abs(g).max() for g in jax.tree.leaves(grad)) for grad in (flat, steep)]
    assert size[0] <= 1e-6 * size[1]
    if drift == "parameters":
        assert still == size[0] == 0


def test_dropout_is_on_in_the_encoder_and_off_in_its_frozen_copy(params):
    batch = linked_rows().rows(0, 10)
    cfg = bert.Config(vocab_size=VOCAB, **SHAPE, dropout=0.1, attention_dropout=0.0)
    dropping = Encoder(bert.make(cfg), TOKENS, languages=("en", "de"))
    aux = adjust.make(adjust.Config(), dropping).init_aux(params)
    one, two = (
        losses_of(dropping, params, aux, batch, jax.random.key(k))["drift"].total for k in (1, 2)
    )
    assert one > 0 and two > 0 and one != two
    assert losses_of(dropping, params, aux, batch)["drift"].total == 0


def test_drift_looks_at_its_side_only(encoder, params, others):
    batch = linked_rows().rows(0, 10)
    rng = np.random.default_rng(3)
    noise = rng.integers(4, VOCAB - 1, batch["ids"].shape)
    german = batch | {"ids": np.where(batch["side"] == 2, noise, batch["ids"]).astype(np.int32)}
    value = {}
    for side in ("en", "src", "de", "trg", "both"):
        value[side] = [
            losses_of(encoder, params, others, b, drift_side=side, skip_identical=False)["drift"]
            for b in (batch, german)
        ]
    for side in ("en", "src"):
        np.testing.assert_allclose(value[side][0].total, value[side][1].total, rtol=1e-6)
        assert value[side][0].total == value["en"][0].total
    for side in ("de", "trg", "both"):
        assert value[side][0].total != value[side][1].total
    assert value["de"][0].total == value["trg"][0].total
    both = value["both"][0]
    np.testing.assert_allclose(both.total, value["en"][0].total + value["de"][0].total, rtol=1e-5)
    assert both.count == value["en"][0].count + value["de"][0].count


def test_parameter_drift_is_the_norm_of_the_difference(encoder, params, others):
    found = losses_of(encoder, params, others, linked_rows().rows(0, 1), drift="parameters")
    pairs = zip(
        jax.tree.leaves(params["encoder"]),
        jax.tree.leaves(others["frozen"]["encoder"]),
        strict=True,
    )
    expected = np.sqrt(sum(np.square(np.asarray(x) - np.asarray(y)).sum() for x, y in pairs))
    assert mean(found["drift"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("drift", ["states", "parameters"])
def test_frozen_copy_gets_no_gradient(encoder, params, others, drift):
    batch = linked_rows().rows(0, 2)
    objective = adjust.make(adjust.Config(drift=drift), encoder)

    def total(p, aux):
        return objective.loss(p, aux, {"pair": batch}, KEY)["drift"].total

    mine, theirs = jax.jit(jax.grad(total, argnums=(0, 1)))(params, others)
    assert max(np.abs(g).max() for g in jax.tree.leaves(mine)) > 0
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(mine))
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, np.zeros_like(g)), theirs)


def test_alignment_reaches_both_sides(encoder, params, others):
    batch = linked_rows().rows(0, 2)
    words = adjust.w.read_words(batch)
    pairs = adjust.choose_pairs(adjust.Config(), batch, words).pairs

    def total(h_BLD):
        src, trg = adjust.w.pick(adjust.w.word_vectors(h_BLD, words), pairs)
        return adjust.squares(src - trg, pairs.keep_BA, "mse").total

    grad = np.asarray(jax.grad(total)(jax.random.normal(KEY, (*batch["ids"].shape, 4))))
    for side in (1, 2):
        touched = np.abs(grad).max(axis=2) > 0
        assert touched[np.asarray(words.side_BL) == side].sum() > 20
    assert not np.abs(grad[batch["example"] == 0]).any()


def test_wordot_is_the_divergence_of_all_words_of_the_batch(encoder, params, others):
    batch = linked_rows(pieces=100).rows(0, 2)
    rule = dict(mu=0.5, num_iters=30)
    changes = dict(distance="wordot", pool="last", frame=False, **rule)
    found = losses_of(encoder, params, others, batch, **changes)
    alone, sets = pairs_alone(batch), {1: [], 2: []}
    unit = np.cumsum((alone["position"] == 0) & (alone["example"] > 0), axis=1)
    h = np.asarray(
        encoder.module.apply(
            {"params": params["encoder"]},
            alone["ids"],
            alone["position"],
            unit * (alone["example"] > 0),
        )
    )
    for b in range(len(h)):
        for side in (1, 2):
            sets[side] += [h[b][slots[-1]] for slots in words_of(alone, b, side)]
    src, trg = (jnp.array(sets[side])[None] for side in (1, 2))
    masks = [jnp.ones(x.shape[:2], bool) for x in (src, trg)]
    expected = sinkhorn_divergence(src, trg, *masks, Entropic(**rule, anneal=True))
    # atol: float32 of the difference of transport costs of 3 or so
    np.testing.assert_allclose(mean(found["align"]), float(expected[0]), rtol=1e-5, atol=2e-5)
    unlinked = {name: x for name, x in batch.items() if name not in adjust.LINKS}
    without = losses_of(encoder, params, others, unlinked, **changes)
    assert without["align"].total == found["align"].total


@pytest.mark.slow
def test_the_continual_step_is_the_weighted_sum_of_its_gradients(params, others):
    encoder = encoder_of()
    pair, mono = linked_rows().rows(0, 2), linked_rows("joint").rows(0, 2)
    batches = {"pair": pair, "mono": mono}
    task, objective = mlm.make(mlm.Config(), encoder), adjust.make(adjust.Config(), encoder)
    weights = {"task": 1.0, "adjust.align": 0.01, "adjust.drift": 1.0}
    cfg = StepConfig(
        {n: lambda step, w=w: jnp.float32(w) for n, w in weights.items()}, clip_norm=1e9
    )
    optimizer = optax.sgd(1.0)
    objectives = {"task": task, "adjust": objective}
    step = make_train_step(objectives, optimizer, cfg)
    aux = {"task": {}, "adjust": others}
    state = TrainState(jnp.int32(0), params, optimizer.init(params), aux)
    new, _ = jax.jit(step)(state, batches, KEY)

    def grad_of(name, part):
        key = name_key(jax.random.fold_in(KEY, 0), name)

        def total(p):
            found = objectives[name].losses(name, p, aux[name], batches, key)[part]
            return found.total / found.count

        return jax.jit(jax.grad(total))(params)

    parts = {n: grad_of(n.partition(".")[0], n) for n in weights}
    moved = jax.tree.map(lambda x, y: x - y, params, new.params)
    expected = jax.tree.map(
        lambda *g: sum(w * x for w, x in zip(weights.values(), g, strict=True)), *parts.values()
    )
    for mine, theirs in zip(jax.tree.leaves(moved), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max() + 1e-7)
    for part in parts.values():
        assert max(np.abs(g).max() for g in jax.tree.leaves(part)) > 0
    jax.tree.map(np.testing.assert_array_equal, new.aux["adjust"], others)


@pytest.mark.parametrize(
    "entries, message",
    [
        (dict(distance="l1"), "distance='l1': need one of l2, wordot"),
        (dict(reduction="max"), "reduction='max': need one of mse, mean, sum"),
        (dict(pool="cls"), "pool='cls': need one of mean"),
        (dict(drift="hidden"), "drift='hidden': need one of states, parameters, none"),
        (dict(min_weight=2.0), "min_weight=2.0"),
        (dict(drift="none", frozen="models/x"), "not used with drift='none'"),
        (dict(drift_side="fr"), r"drift_side='fr': need a language of the data \(en, de\)"),
        (dict(stream="joint"), "a word's vector must not see the translation"),
    ],
)
def test_a_wrong_entry_says_what_is_needed(encoder, entries, message):
    joint = encoder._replace(layouts={"joint": "joint", "pair": "separate"})
    with pytest.raises(ValueError, match=message):
        adjust.make(adjust.Config(**entries), joint)
