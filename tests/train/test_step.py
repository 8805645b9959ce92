"""The step: meshes agree, accumulation equals the big batch, weights and norms, a bad step changes
nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jalign import config
from jalign.errors import ConfigError
from jalign.train.mesh import MeshConfig, make_mesh
from jalign.train.optim import OptimConfig, make_optimizer
from jalign.train.run import RunConfig, make_run
from jalign.train.step import StepConfig, check_objectives, make_train_step
from jalign.types import Loss, Objective, TrainState
from tests.tiny import run_entries, write_tiny_dataset

MESHES = {"1": (1, 1, 1), "8x1": (8, 1, 1), "4x2": (4, 2, 1), "2x2x2": (2, 2, 2)}


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny") / "data")


def run_on(data, mesh=(8, 1, 1), **changes):
    sizes = dict(zip(("data", "fsdp", "tensor"), mesh, strict=True))
    cfg = config.build(RunConfig, run_entries(data, mesh=sizes, **changes))
    return make_run(cfg, jax.devices()[: int(np.prod(mesh))])


def steps_of(run, num=3):
    """Take steps; return the outputs and the last state."""
    import flax.linen as nn

    from jalign.train.mesh import RULES

    with jax.set_mesh(run.mesh), nn.logical_axis_rules(RULES):
        state, outs = run.init_state(), []
        for step in range(num):
            state, out = run.step(state, run.put(run.source[step]), jax.random.key(run.cfg.seed))
            outs.append(jax.device_get(out))
    return outs, state


@pytest.fixture(scope="session")
def one_device(data):
    return steps_of(run_on(data, MESHES["1"]))


# 2x2x2 splits over all that the others do
OTHERS = [pytest.param(mesh, marks=pytest.mark.slow) for mesh in ("8x1", "4x2")]


@pytest.mark.parametrize("mesh", [*OTHERS, "2x2x2"])
def test_every_mesh_gives_the_losses_of_one_device(data, one_device, mesh):
    outs, state = steps_of(run_on(data, MESHES[mesh]))
    for mine, theirs in zip(outs, one_device[0], strict=True):
        np.testing.assert_allclose(mine.loss, theirs.loss, rtol=1e-5)
        np.testing.assert_allclose(mine.grad_norm, theirs.grad_norm, rtol=1e-4)
        for name in theirs.losses:
            assert mine.losses[name].count == theirs.losses[name].count
    table = state.params["encoder"]["word_embeddings"]
    shards = {s.data.shape for s in table.addressable_shards}
    _, fsdp, tensor = MESHES[mesh]
    assert shards == {(table.shape[0] // tensor, table.shape[1] // fsdp)}
    moment = jax.tree.leaves(state.opt[0].mu["encoder"]["word_embeddings"])[0]
    assert moment.sharding == table.sharding


def test_losses_are_golden(one_device):
    """Three steps of a tiny run.

    A change means that data order, masks, initialisation, model or optimiser changed.
    """
    losses = [float(out.loss) for out in one_device[0]]
    np.testing.assert_allclose(losses, GOLDEN, rtol=2e-5)


GOLDEN = [6.500734, 6.435368, 6.345392]


@pytest.mark.parametrize(
    "norm", ["per_loss_mean", pytest.param("global_count", marks=pytest.mark.slow)]
)
def test_accumulation_equals_the_big_batch(data, one_device, norm):
    usual = norm == "per_loss_mean"
    whole, state = one_device if usual else steps_of(run_on(data, MESHES["1"], norm=norm))
    parts, other = steps_of(run_on(data, (4, 1, 1), norm=norm, accumulate=2))
    for mine, theirs in zip(parts, whole, strict=True):
        np.testing.assert_allclose(mine.loss, theirs.loss, rtol=1e-5)
        np.testing.assert_allclose(mine.grad_norm, theirs.grad_norm, rtol=1e-4)
    for mine, theirs in zip(
        jax.tree.leaves(other.params), jax.tree.leaves(state.params), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=2e-4)


def test_loss_falls_in_thirty_steps(data):
    outs, _ = steps_of(run_on(data, (1, 1, 1), steps=30), 30)
    assert outs[-1].loss < outs[0].loss - 0.8


def toy_step(total, count, *, norm="per_loss_mean", weight=2.0):
    """One step of a one-parameter objective with gradient `total`, in plain SGD of rate 1."""
    import optax

    def loss(params, aux, batches, key):
        return Loss(params["w"] * total, jnp.float32(count), {})

    objectives = {"one": Objective(("s",), (), loss), "two": Objective(("s",), (), loss)}
    weights = {"one": lambda s: jnp.float32(weight), "two": lambda s: jnp.float32(1.0)}
    optimizer = optax.sgd(1.0)
    params = {"w": jnp.float32(1.0)}
    state = TrainState(jnp.int32(0), params, optimizer.init(params), {"one": {}, "two": {}})
    step = make_train_step(objectives, optimizer, StepConfig(weights, norm=norm, clip_norm=0.0))
    return step(state, {}, jax.random.key(0))


def test_per_loss_mean_and_global_count_by_hand():
    # two losses of total 6 and count 3: 2 x 6/3 + 1 x 6/3 = 6; (2 x 6 + 1 x 6) / (3 + 3) = 3
    assert float(toy_step(6.0, 3.0)[1].loss) == 6.0
    assert float(toy_step(6.0, 3.0, norm="global_count")[1].loss) == 3.0
    assert float(toy_step(6.0, 3.0)[0].params["w"]) == 1.0 - 6.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_and_says_so(bad):
    state, out = toy_step(bad, 1.0)
    assert not bool(out.finite)
    assert float(state.params["w"]) == 1.0 and int(state.step) == 0


def test_an_empty_loss_is_zero_not_nan():
    state, out = toy_step(0.0, 0.0)
    assert float(out.loss) == 0.0 and bool(out.finite)


def test_objectives_are_checked_before_anything_compiles():
    objective = Objective(("pair",), ("ids", "links"), lambda *a: None, splits=False)
    with pytest.raises(ConfigError, match=r"reads stream 'pair'.*config.streams.pair"):
        check_objectives({"x": objective}, {"mono": {"ids"}}, 1)
    with pytest.raises(ConfigError, match=r"reads \['links'\]"):
        check_objectives({"x": objective}, {"pair": {"ids"}}, 1)
    with pytest.raises(ConfigError, match="accumulate=2 would change it"):
        check_objectives({"x": objective}, {"pair": {"ids", "links"}}, 2)


def test_a_mesh_that_does_not_fit_the_devices_says_what_to_set():
    with pytest.raises(ConfigError, match=r"3 x 1 x 1 = 3 devices, and there are 8"):
        make_mesh(MeshConfig(data=3))
    with pytest.raises(ConfigError, match="only data may be -1"):
        make_mesh(MeshConfig(fsdp=-1))


BAD = {
    "rows=6": (
        dict(streams=dict(mono=dict(layout="single", rows=6, row_length=64))),
        "multiple of 8",
    ),
    "unread stream": (dict(objectives=dict(mlm=dict())), r"no objective reads stream \['pair'\]"),
    "unknown objective": (dict(objectives=dict(mml=dict())), "Did you mean 'mlm'"),
    "unknown entry": (
        dict(objectives=dict(mlm=dict(rates=0.1), tlm=dict())),
        "Did you mean 'rate'",
    ),
    "positions": (dict(encoder=dict(hidden=16, heads=2, max_positions=40)), "max_unit=38"),
    "vocabulary": (
        dict(encoder=dict(hidden=16, heads=2, vocab_size=50)),
        "smaller than the tokenizer's",
    ),
    "decay rule": (
        dict(optimizer=dict(decay=((r"kernle", 0.1), (r".*", 0.0)))),
        "decides no parameter",
    ),
    "schedule": (dict(optimizer=dict(schedule="linaer")), "one of linear"),
    "warm-up": (dict(optimizer=dict(warmup_steps=9)), "longer than"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_config_names_entry_and_remedy(data, case):
    changes, message = BAD[case]
    with pytest.raises((ConfigError, ValueError), match=message):
        run_on(data, (8, 1, 1), **changes)


def test_a_rule_scales_the_learning_rate_of_the_parameters_it_finds():
    params = {name: jnp.ones(3) for name in ("word_embeddings", "bias", "other")}
    plain = OptimConfig(lr=0.1, decay=((".*", 0.0),))
    rules = (("word_embeddings$", 0.0), ("^b", 0.5))
    scaled = OptimConfig(lr=0.1, decay=((".*", 0.0),), lr_scale=rules)
    found = []
    for cfg in (plain, scaled):
        optimizer = make_optimizer(cfg, 10, params)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        found.append({name: np.asarray(x) for name, x in updates.items()})
    for name, factor in (("word_embeddings", 0.0), ("bias", 0.5), ("other", 1.0)):
        np.testing.assert_allclose(found[1][name], factor * found[0][name], rtol=1e-6)
    assert found[0]["word_embeddings"].max() < 0
    with pytest.raises(ConfigError, match="lr_scale decides no parameter"):
        make_optimizer(OptimConfig(lr_scale=(("none", 0.0),)), 10, params)
