"""XLM-Align: the pointer by hand and packed, labels that know neither the masks nor a gradient, and
the sources of labels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jalign import config
from jalign.encoders import bert
from jalign.errors import ConfigError
from jalign.objectives import xlm_align
from jalign.train.run import RunConfig, make_run
from jalign.types import Encoder
from tests.objectives.test_mlm import EVERYTHING, one_example_per_row
from tests.oracles import align as oracle
from tests.tiny import TOKENS, VOCAB, rows_of, run_entries, write_tiny_dataset

VALUES = {"prior": 0.0, "given": 0.0}
KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def encoder():
    shape = dict(hidden=16, layers=2, heads=2, mlp=32, max_positions=66, init_std=0.5)
    cfg = bert.Config(vocab_size=VOCAB, dropout=0.0, attention_dropout=0.0, **shape)

    def first_layers(params, num):
        cut, params = bert.first_layers(cfg, params, num)
        return bert.make(cut), params

    return Encoder(bert.make(cfg), TOKENS, first_layers=first_layers)


@pytest.fixture(scope="module")
def params(encoder):
    draw = jax.jit(lambda key: nn.unbox(bert.init_params(encoder.module, key)))
    head = nn.unbox(xlm_align.Pointer().init(KEY, jnp.zeros((1, 16))))["params"]
    return {"encoder": draw(jax.random.key(0)), "pointer": head}


def objective_of(encoder, **changes):
    return xlm_align.make(xlm_align.Config(layer=1, **changes), encoder)


def losses_of(objective, params, batch, key=None):
    run = jax.jit(lambda p, b: objective.loss(p, {"step": jnp.int32(0)}, {"pair": b}, key))
    return run(params, batch)


def labels_of(encoder, params, batch, values=VALUES, key=KEY, **changes):
    cfg = xlm_align.Config(layer=1, **changes)
    make = xlm_align.make_labels(cfg, encoder)
    return np.asarray(jax.jit(make)(params, batch, values, key))


def test_the_pointer_gives_the_worked_numbers():
    # methods.md 10.4: q = (1, 0, 0, 0) against three keys, d = 4, no projection
    query_1LD = jnp.zeros((1, 4, 4)).at[0, 0].set(jnp.array([1.0, 0, 0, 0]))
    keys = jnp.array([[0, 0, 0, 0], [0.5, 0.5, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]])
    batch = {"example": jnp.ones((1, 4), int), "side": jnp.array([[1, 2, 2, 2]])}
    for target, expected in ((1, 1.1193381), (2, 0.8693381)):
        target_1L = jnp.array([[target, -1, -1, -1]])
        loss = xlm_align.pointer_loss(query_1LD, keys[None], batch, target_1L)
        assert loss.total == pytest.approx(expected, rel=1e-6) and loss.count == 1
        assert loss.metrics["accuracy"].total == (target == 2)
    none = xlm_align.pointer_loss(query_1LD, keys[None], batch, jnp.full((1, 4), -1))
    assert none.total == 0 and none.count == 0
    same = jnp.zeros_like(keys)[None]
    uniform = xlm_align.pointer_loss(query_1LD, same, batch, jnp.array([[2, -1, -1, -1]]))
    assert uniform.total == pytest.approx(np.log(3), rel=1e-6)


def test_special_tokens_and_the_own_side_have_no_probability():
    side_1L, states = jnp.array([[0, 1, 1, 0, 2, 2, 0]]), jax.random.normal(KEY, (1, 7, 4))
    batch = {"example": jnp.array([[1, 1, 1, 1, 1, 1, 0]]), "side": side_1L}

    def seen(slot, target):
        """Name the slots whose keys a slot looks at: those with a gradient."""
        target_1L = jnp.full((1, 7), -1).at[0, slot].set(target)
        total = jax.grad(lambda k: xlm_align.pointer_loss(states, k, batch, target_1L).total)
        return np.flatnonzero(np.asarray(total(states)[0]).any(axis=1)).tolist()

    assert seen(1, 4) == [4, 5] and seen(5, 2) == [1, 2]


def test_no_labels_give_zero_loss_and_finite_gradients():
    batch = {"example": jnp.array([[1, 1, 0, 0]]), "side": jnp.array([[1, 1, 0, 0]])}

    def total(states):
        return xlm_align.pointer_loss(states, states, batch, jnp.full((1, 4), -1)).total

    value, grad = jax.value_and_grad(total)(jax.random.normal(KEY, (1, 4, 8)))
    assert value == 0 and np.array_equal(grad, np.zeros((1, 4, 8)))


def test_swapping_the_sides_leaves_the_pointer_loss_as_it_is():
    states = jax.random.normal(KEY, (2, 6, 8))
    side = jnp.array([[0, 1, 1, 2, 2, 2]] * 2)
    target = jnp.array([[-1, 3, -1, -1, 2, 1], [-1, -1, 5, 1, -1, -1]])
    batch = {"example": jnp.ones((2, 6), int), "side": side}
    one = xlm_align.pointer_loss(states, states, batch, target)
    other = xlm_align.pointer_loss(
        states, states, batch | {"side": jnp.where(side > 0, 3 - side, 0)}, target
    )
    np.testing.assert_allclose(one.total, other.total, rtol=1e-6)
    assert one.total > 0


def test_packed_losses_are_those_of_each_pair_alone(encoder, params):
    objective = objective_of(encoder, **EVERYTHING)
    packed = rows_of("joint").rows(2, 2)
    alone = one_example_per_row(packed)
    mine, theirs = (losses_of(objective, params, b) for b in (packed, alone))
    for part in xlm_align.PARTS:
        assert mine[part].count == theirs[part].count > 20
        np.testing.assert_allclose(mine[part].total, theirs[part].total, rtol=1e-5)
    labelled = mine["pointer"].metrics["labelled"]
    assert mine["pointer"].count == labelled.total < labelled.count


def test_labels_are_those_of_a_plain_loop_over_pairs(encoder, params):
    alone = one_example_per_row(rows_of("joint").rows(2, 2))
    mine = labels_of(encoder, params, alone)
    module, cut = encoder.first_layers(params["encoder"], 1)
    unit = (alone["example"] > 0).astype(np.int32)
    states = np.asarray(module.apply({"params": cut}, alone["ids"], alone["position"], unit))
    for h, side, found in zip(states, alone["side"], mine, strict=True):
        src, trg = np.flatnonzero(side == 1), np.flatnonzero(side == 2)
        pi, _ = oracle.sinkhorn(h[src] @ h[trg].T, num_iters=2)
        expected = np.full(64, -1)
        for i, j in sorted(zip(*np.nonzero(oracle.itermax(pi)), strict=True)):
            expected[src[i]], expected[trg[j]] = trg[j], src[i]
        np.testing.assert_array_equal(found, expected)


def test_labels_do_not_depend_on_the_masks(encoder, params):
    batch = rows_of("joint").rows(0, 2)
    first = labels_of(encoder, params, batch)
    assert (first >= 0).sum() > 20
    np.testing.assert_array_equal(first, labels_of(encoder, params, batch, key=jax.random.key(9)))
    np.testing.assert_array_equal(first, labels_of(encoder, params, batch, rate=0.9))


def test_no_gradient_flows_through_the_labels(encoder, params, monkeypatch):
    batch = rows_of("joint").rows(0, 2)

    def grads():
        objective = objective_of(encoder)

        def total(p):
            found = objective.loss(p, {"step": jnp.int32(0)}, {"pair": batch}, KEY)
            return found["pointer"].total

        return jax.jit(jax.grad(total))(params)

    whole, labels = grads(), labels_of(encoder, params, batch)
    monkeypatch.setattr(xlm_align, "make_labels", lambda cfg, encoder: lambda *args: labels)
    jax.tree.map(np.testing.assert_array_equal, whole, grads())
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(whole))
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(whole["pointer"]))

    def mass(h_BLD):  # what the labels are read off is a number with a gradient, if let
        return xlm_align.self_labels(xlm_align.Config(layer=1), h_BLD, batch)[1].sum()

    states = jax.random.uniform(KEY, (2, 64, 16))
    np.testing.assert_array_equal(jax.grad(mass)(states), np.zeros_like(states))


def with_links(batch, weight=1.0):
    """Link the first content slot of each source to the last of its target, and nothing else."""
    links = np.full((len(batch["ids"]), 8, 2), -1, np.int32)
    weights = np.zeros((len(batch["ids"]), 8), np.float32)
    for b, (example, side) in enumerate(zip(batch["example"], batch["side"], strict=True)):
        for number in range(1, min(example.max(), 8) + 1):
            src = np.flatnonzero((example == number) & (side == 1))
            trg = np.flatnonzero((example == number) & (side == 2))
            links[b, number - 1], weights[b, number - 1] = (src[0], trg[-1]), weight
    return {**batch, "links": links, "link_weight": weights}


def test_given_links_replace_self_labels_in_their_share_of_the_pairs(encoder, params):
    batch = with_links(rows_of("joint").rows(0, 2))
    own = labels_of(encoder, params, batch)
    given = labels_of(encoder, params, batch, values={"prior": 0.0, "given": 1.0})
    expected = np.full_like(own, -1)
    for b, links in enumerate(batch["links"]):
        for i, j in links[links[:, 0] >= 0]:
            expected[b, i], expected[b, j] = j, i
    np.testing.assert_array_equal(given, expected)
    half = labels_of(encoder, params, batch, values={"prior": 0.0, "given": 0.5})
    from_given = from_own = 0
    for b in range(len(own)):
        for number in range(1, batch["example"][b].max() + 1):
            at = batch["example"][b] == number
            is_given, is_own = (np.array_equal(half[b][at], x[b][at]) for x in (given, own))
            assert is_given or is_own, "a pair takes all of its labels from one source"
            from_given, from_own = from_given + is_given, from_own + is_own
    assert from_given > 0 and from_own > 0


def test_where_all_links_are_given_no_pair_is_encoded_for_its_labels(encoder, params):
    batch = with_links(rows_of("joint").rows(0, 2))
    given = labels_of(encoder, params, batch, values={"prior": 0.0, "given": 1.0})
    nothing = {"encoder": None}  # parameters that no encoder could use
    np.testing.assert_array_equal(labels_of(encoder, nothing, batch, given=1.0), given)


def test_a_strong_prior_decides_and_a_faded_one_changes_nothing(encoder, params):
    batch = with_links(rows_of("joint").rows(0, 2))
    without = {k: v for k, v in batch.items() if k not in ("links", "link_weight")}
    own = labels_of(encoder, params, without)
    np.testing.assert_array_equal(labels_of(encoder, params, batch), own)
    strong = labels_of(encoder, params, batch, values={"prior": 4.0, "given": 0.0})
    assert not np.array_equal(strong, own)
    for b, links in enumerate(batch["links"]):
        for i, j in links[links[:, 0] >= 0]:
            assert strong[b, i] == j and strong[b, j] == i


def test_confidence_filters_self_labels(encoder, params):
    batch = rows_of("joint").rows(0, 2)
    counts = [
        (labels_of(encoder, params, batch, min_confidence=least) >= 0).sum()
        for least in (0.0, 0.3, 1.1)
    ]
    assert counts[0] > counts[1] > counts[2] == 0


def test_all_labelled_pieces_point_where_that_is_asked_for(encoder, params):
    batch, counts = rows_of("joint").rows(0, 2), {}
    for points in ("masked", "all"):
        found = losses_of(objective_of(encoder, points=points), params, batch, KEY)
        counts[points] = float(found["pointer"].count)
    assert counts["all"] == (labels_of(encoder, params, batch) >= 0).sum() > counts["masked"] > 0


def test_in_evaluation_the_same_batch_gives_the_same_loss(encoder, params):
    objective, batch = objective_of(encoder), rows_of("joint").rows(0, 2)
    one, two = (losses_of(objective, params, batch) for _ in range(2))
    assert one["pointer"].total == two["pointer"].total
    assert one["pointer"].total != losses_of(objective, params, batch, KEY)["pointer"].total


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("xlm_align") / "data")


def run_of(data, mesh=(1, 1, 1), **changes):
    objectives = dict(
        mlm=dict(),
        xlm_align=dict(layer=1, weight=dict(tlm=0.5, pointer=dict(begin=0.5, end=1.0, steps=2))),
    )
    sizes = dict(zip(("data", "fsdp", "tensor"), mesh, strict=True))
    entries = run_entries(data, objectives=objectives, mesh=sizes, **changes)
    cfg = config.build(RunConfig, entries)
    return make_run(cfg, jax.devices()[: int(np.prod(mesh))])


def three_steps(run, num=3):
    with jax.set_mesh(run.mesh):
        state, outs = run.init_state(), []
        for i in range(num):
            state, out = run.step(state, run.put(run.source[i]), jax.random.key(3))
            outs.append(jax.tree.map(np.asarray, (out.loss, out.losses)))
    return outs, jax.tree.map(np.asarray, state.params)


@pytest.fixture(scope="module")
def one_device(data):
    return three_steps(run_of(data))


@pytest.mark.slow  # tests/train/test_step.py holds the meshes at every commit
@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 4, 1), (2, 2, 2)], ids=str)
def test_every_mesh_gives_the_losses_of_one_device(data, one_device, mesh):
    outs, _ = three_steps(run_of(data, mesh))
    for (loss, losses), (expected, theirs) in zip(outs, one_device[0], strict=True):
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), losses, theirs)


@pytest.mark.parametrize(
    "norm", [pytest.param("per_loss_mean", marks=pytest.mark.slow), "global_count"]
)
def test_accumulation_equals_the_big_batch(data, norm):
    whole, parts = (three_steps(run_of(data, norm=norm, accumulate=n), num=2) for n in (1, 4))
    for mine, theirs in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_the_pointer_learns(data):
    run = run_of(data, steps=40)
    outs, _ = three_steps(run, num=40)

    def mean(chosen):
        sums = [o[1]["xlm_align.pointer"] for o in chosen]
        return sum(m.total for m in sums) / sum(m.count for m in sums)

    assert mean(outs[-8:]) < 0.95 * mean(outs[:8])


def test_without_projections_the_last_states_point_and_no_head_is_trained(data):
    entries = run_entries(data, objectives=dict(xlm_align=dict(layer=2, projection=False)))
    del entries["streams"]["mono"]
    outs, params = three_steps(make_run(config.build(RunConfig, entries), jax.devices()[:1]), 2)
    assert set(params) == {"encoder"} and outs[-1][1]["xlm_align.pointer"].count > 0


@pytest.mark.parametrize(
    "entries, message",
    [
        (dict(layer=3), "layer=3: the encoder has 2 layers"),
        (dict(order="rows"), "order='rows': need one of code, paper, none"),
        (dict(given=1.5), "given=1.5: need 0 to 1"),
        (dict(weight=dict(tlm=1.0, points=2.0)), "need tlm, pointer"),
        (dict(layers=1), "Did you mean 'layer'"),
    ],
)
def test_a_wrong_entry_says_what_is_needed(data, entries, message):
    entries = run_entries(data, objectives=dict(mlm=dict(), xlm_align=dict(layer=1) | entries))
    with pytest.raises(ConfigError, match=message):
        make_run(config.build(RunConfig, entries))
