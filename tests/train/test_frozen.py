"""Frozen copies in the engine: where they lie, what they cost, that they come back, and whose they
are; adjustment on every mesh.
"""

from __future__ import annotations

import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jalign import config
from jalign.errors import ConfigError
from jalign.evals import heldout
from jalign.train.checkpoint import Checkpoints
from jalign.train.loop import train
from jalign.train.optim import OptimConfig, make_schedule
from jalign.train.pretrained import read_pretrained
from jalign.train.run import RunConfig, make_run
from tests.tiny import run_entries, sentences, write_tiny_dataset

PAIRS = {"en-de": (1, 200), "en-ru": (5, 100)}  # seeds and numbers of tests/tiny.py


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_tiny_dataset(tmp_path_factory.mktemp("frozen") / "data")
    (folder / "links").mkdir()
    for name, (seed, num) in PAIRS.items():
        rng, lines = np.random.default_rng(seed), []
        for pair in zip(sentences(seed, num), sentences(seed + 1, num), strict=True):
            sizes = [len(side.split()) for side in pair]
            order = [rng.permutation(size)[: min(sizes)] for size in sizes]
            lines.append(" ".join(f"{i}-{j}" for i, j in zip(*order, strict=True)))
        (folder / f"links/{name}.links").write_text("\n".join(lines) + "\n")
    return folder


def entries_of(data, mesh=(1, 1, 1), adjust=None, **changes):
    sizes = dict(zip(("data", "fsdp", "tensor"), mesh, strict=True))
    stream = dict(layout="separate", rows=8, row_length=64, links=str(data / "links"))
    objective = dict(weight=dict(align=1.0, drift=1.0)) | (adjust or {})
    entries = run_entries(data, streams=dict(pair=stream), mesh=sizes, **changes)
    return entries | dict(objectives=dict(adjust=objective))


def run_of(data, mesh=(1, 1, 1), workdir=None, **changes):
    cfg = config.build(RunConfig, entries_of(data, mesh, **changes))
    return make_run(cfg, jax.devices()[: int(np.prod(mesh))], workdir=workdir)


def steps_of(run, num=3):
    with jax.set_mesh(run.mesh):
        state, outs = run.init_state(), []
        for i in range(num):
            state, out = run.step(state, run.put(run.source[i]), jax.random.key(3))
            outs.append(jax.tree.map(np.asarray, out.losses))
    return outs, state


@pytest.fixture(scope="module")
def one_device(data):
    outs, state = steps_of(run_of(data))
    return outs, jax.tree.map(np.asarray, (state.params, state.aux))


@pytest.mark.slow  # tests/train/test_step.py holds the meshes at every commit
@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 4, 1), (2, 2, 2)], ids=str)
def test_every_mesh_gives_the_losses_of_one_device(data, one_device, mesh):
    outs, state = steps_of(run_of(data, mesh))
    for mine, theirs in zip(jax.tree.leaves(outs), jax.tree.leaves(one_device[0]), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    frozen, params = (
        flatten_dict(x) for x in (state.aux["adjust"]["frozen"]["encoder"], state.params["encoder"])
    )
    split = 0
    for name, copy in frozen.items():  # a copy lies where its parameter lies
        assert copy.sharding == params[name].sharding
        split += not copy.sharding.is_fully_replicated
    assert split > 0 or mesh == (8, 1, 1)


@pytest.mark.slow
def test_wordot_on_a_mesh_gives_the_losses_of_one_device(data):
    rule = dict(distance="wordot", mu=0.5, num_iters=20)
    outs = [steps_of(run_of(data, mesh, adjust=rule), 1)[0] for mesh in ((1, 1, 1), (2, 2, 2))]
    for mine, theirs in zip(*map(jax.tree.leaves, outs), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=2e-5)


def test_frozen_copy_stays_as_it_was_and_the_optimiser_has_no_moments_for_it(data, one_device):
    run = run_of(data)
    start = jax.tree.map(np.asarray, run.init_state().params)
    params, aux = one_device[1]
    frozen = aux["adjust"]["frozen"]
    jax.tree.map(np.testing.assert_array_equal, frozen["encoder"], start["encoder"])
    moved = [
        np.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, (params, start)), strict=True)
    ]
    assert max(moved) > 1e-3
    none = run_of(data, adjust=dict(drift="none", weight=1.0))
    for mine, theirs in zip(*(jax.tree.leaves(r.abstract.opt) for r in (run, none)), strict=True):
        assert mine.shape == theirs.shape
    assert jax.tree.leaves(none.abstract.aux) == []
    assert set(run.abstract.params) == {"encoder"}


def test_accumulation_equals_the_big_batch(data, one_device):
    outs, state = steps_of(run_of(data, accumulate=4))
    for mine, theirs in zip(jax.tree.leaves(outs), jax.tree.leaves(one_device[0]), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="accumulate=1"):
        run_of(data, accumulate=4, adjust=dict(reduction="sum"))


def test_linked_words_come_together_and_drift_holds_them_back(data):
    def ends(**adjust):
        outs, _ = steps_of(run_of(data, adjust=adjust, steps=30), 30)
        return [
            float(np.mean([o[f"adjust.{part}"].total / o[f"adjust.{part}"].count for o in some]))
            for part in ("align", "drift")
            for some in (outs[:3], outs[-3:])
        ]

    light, heavy = (ends(weight=dict(align=1.0, drift=w)) for w in (0.1, 10.0))
    assert light[1] < 0.6 * light[0]
    assert heavy[3] < 0.5 * light[3] and heavy[1] > light[1]


def test_a_resumed_run_has_the_frozen_copy_that_it_began_with(data, tmp_path):
    states = []
    for folder in ("whole", "parts"):
        if folder == "parts":  # goes on after the second step of the whole run
            shutil.copytree(tmp_path / "whole", tmp_path / folder)
            shutil.rmtree(tmp_path / folder / "checkpoints/4")
        plain = dict(lr=1e-2, schedule="constant")
        run = run_of(data, steps=4, optimizer=plain, workdir=tmp_path / folder)
        train(run, tmp_path / folder)
        checkpoints = Checkpoints(tmp_path / folder, 3)
        states.append(checkpoints.restore(4, run.abstract))
        checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, *states)  # bit for bit
    start = run.init_state().params["encoder"]
    frozen = states[1].aux["adjust"]["frozen"]["encoder"]
    jax.tree.map(np.testing.assert_array_equal, frozen, start)
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), frozen, states[1].params["encoder"])
    assert max(jax.tree.leaves(moved)) > 1e-3


@pytest.fixture(scope="module")
def original(data, tmp_path_factory):
    """Give the workdir of another run, and its last parameters."""
    folder = tmp_path_factory.mktemp("original") / "run"
    entries = run_entries(data, steps=2, seed=9, objectives=dict(mlm=dict()))
    del entries["streams"]["pair"]
    train(make_run(config.build(RunConfig, entries), jax.devices()[:1]), folder)
    return folder


def test_a_named_model_is_the_frozen_copy(data, original):
    theirs = flatten_dict(read_pretrained(original).params)
    for mesh in ((1, 1, 1), (2, 2, 2)):
        run = run_of(data, mesh, adjust=dict(frozen=str(original)))
        outs, state = steps_of(run, 1)
        assert outs[0]["adjust.drift"].total > 1.0
        frozen = flatten_dict(jax.tree.map(np.asarray, state.aux["adjust"]["frozen"]["encoder"]))
        for name, value in frozen.items():
            np.testing.assert_array_equal(value, theirs[name])


def test_the_loop_starts_with_a_named_frozen_model(data, original, tmp_path):
    run = run_of(data, steps=3, adjust=dict(frozen=str(original)), workdir=tmp_path / "run")
    assert train(run, tmp_path / "run") == 0
    checkpoints = Checkpoints(tmp_path / "run", 3)
    frozen = checkpoints.restore(3, run.abstract).aux["adjust"]["frozen"]["encoder"]
    checkpoints.close()
    theirs = flatten_dict(read_pretrained(original).params)
    for name, value in flatten_dict(frozen).items():
        np.testing.assert_array_equal(value, theirs[name])


def test_a_frozen_model_of_another_shape_is_refused(data, original, tmp_path):
    entries = entries_of(data, adjust=dict(frozen=str(original)))
    entries["encoder"] |= dict(mlp=48)
    run = make_run(config.build(RunConfig, entries), jax.devices()[:1])
    with pytest.raises(ConfigError, match=r"mlp=32 \(this run: 48\): name a model of the same"):
        run.init_state()
    with pytest.raises(ConfigError, match="is no folder"):
        run_of(data, adjust=dict(frozen=str(tmp_path / "none"))).init_state()


def test_link_files_leave_nothing_to_evaluate_on_held_out_pairs(data):
    run = run_of(data)
    with (
        pytest.warns(UserWarning, match="left out adjust"),
        pytest.raises(ValueError, match="held-out pairs have no links"),
    ):
        heldout.make(heldout.Config(), run.setting)


def test_objectives_that_have_what_they_read_are_still_evaluated(data):
    entries = entries_of(data)
    entries["streams"]["mono"] = dict(layout="single", rows=8, row_length=64)
    entries["objectives"]["mlm"] = {}
    run = make_run(config.build(RunConfig, entries), jax.devices()[:1])
    with pytest.warns(UserWarning, match="left out adjust, for held-out pairs have no link_weight"):
        evaluate = heldout.make(heldout.Config(max_batches=1), run.setting)
    with jax.set_mesh(run.mesh):
        state = run.init_state()
        tasks = {result.task for result in evaluate(state.params, state.aux)}
    assert tasks == {"heldout/mlm"}


def test_joint_pairs_are_refused(data):
    entries = entries_of(data)
    entries["streams"]["pair"]["layout"] = "joint"
    with pytest.raises(ConfigError, match="layout 'joint'.*must not see the translation"):
        make_run(config.build(RunConfig, entries), jax.devices()[:1])


def test_the_rate_is_that_of_the_released_code():
    # methods.md 10.5: N = 1000 sentences, one a step, the first tenth warms up, then constant
    rate = make_schedule(OptimConfig(lr=5e-5, schedule="constant", warmup_share=0.1), 1000)
    for sentence, expected in ((50, 2.5e-5), (100, 5e-5), (999, 5e-5)):
        assert float(rate(sentence - 1)) == pytest.approx(expected, rel=1e-6)
