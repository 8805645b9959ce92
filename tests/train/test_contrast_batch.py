"""The contrast of a whole batch in the engine: every mesh, process and number of microbatches gives
the losses and gradients of one big batch on one device; slow copies and queues come back.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from jalign import config
from jalign.errors import ConfigError
from jalign.train.checkpoint import Checkpoints
from jalign.train.loop import train
from jalign.train.mesh import RULES
from jalign.train.run import RunConfig, make_run
from tests.tiny import write_tiny_dataset
from tests.train import contrast_config
from tests.train.test_loop import finish, records


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("contrast") / "data")


def run_of(data, mesh=(1, 1, 1), accumulate=1, workdir=None, **changes):
    sizes = dict(zip(("data", "fsdp", "tensor"), mesh, strict=True))
    entries = contrast_config.entries(data) | dict(mesh=sizes, accumulate=accumulate) | changes
    cfg = config.build(RunConfig, entries)
    return make_run(cfg, jax.devices()[: int(np.prod(mesh))], workdir=workdir)


def two_steps(run):
    """Return the losses of two steps, and the gradients' running mean after them."""
    with jax.set_mesh(run.mesh), nn.logical_axis_rules(RULES):
        state, outs = run.init_state(), []
        for i in range(2):
            state, out = run.step(state, run.put(run.source[i]), jax.random.key(3))
            outs.append(jax.tree.map(np.asarray, (out.losses, out.metrics)))
    return outs, flatten_dict(jax.tree.map(np.asarray, state.opt[0].mu), sep="/"), state


@pytest.fixture(scope="module")
def big_batch(data):
    return two_steps(run_of(data))


def assert_same(found, expected):
    for (mine, _), (theirs, _) in zip(found[0], expected[0], strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), mine, theirs)
    for name, theirs in expected[1].items():
        # over the whole tensor: an entry is a difference of many terms, each with its own rounding
        distance = np.linalg.norm(found[1][name] - theirs)
        assert distance <= 1e-5 * np.linalg.norm(theirs), (name, distance)


@pytest.mark.slow
def test_every_objective_contrasts_and_reports(big_batch):
    losses, metrics = big_batch[0][1]
    names = {"mlm", "labse", "infoxlm", "dap.ranking", "dap.translation"}
    assert set(losses) == names and all(losses[n].total > 0.1 for n in names)
    assert losses["dap.ranking"].count == 2 * losses["labse"].count > 40
    assert metrics["labse/over"].total == metrics["dap.translation/over_cap"].total == 0
    assert 0 < metrics["infoxlm/filled"].total < metrics["infoxlm/filled"].count


CASES = [
    ((2, 2, 2), 2),
    ((8, 1, 1), 1),
    ((1, 1, 1), 4),
    ((4, 2, 1), 1),
    ((2, 2, 2), 1),
    ((8, 1, 1), 2),
    ((4, 2, 1), 2),
]


@pytest.mark.slow
@pytest.mark.parametrize("mesh, accumulate", CASES)
def test_every_mesh_and_split_gives_the_losses_and_gradients_of_the_big_batch(
    data, big_batch, mesh, accumulate
):
    run = run_of(data, mesh, accumulate)
    found = two_steps(run)
    assert_same(found, big_batch)
    slow = flatten_dict(found[2].aux["infoxlm"]["slow"])
    params = flatten_dict(found[2].params)
    for name, copy in slow.items():  # a copy lies where its parameter lies
        assert copy.sharding.spec == params[name].sharding.spec


@pytest.mark.slow
def test_two_processes_give_the_losses_of_the_big_batch(data, big_batch, tmp_path):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    config_file = Path(contrast_config.__file__)
    command = [sys.executable, "-m", "jalign", "pretrain", f"--config={config_file}:{data}"]
    command += [f"--workdir={tmp_path}", "--distributed", "--config.steps=2"]
    both = []
    for i in range(2):
        env = {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
            "JALIGN_COORDINATOR": f"localhost:{port}",
            "JALIGN_NUM_PROCESSES": "2",
            "JALIGN_PROCESS_ID": str(i),
        }
        pipes = dict(stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        both.append(subprocess.Popen(command, env=os.environ | env, **pipes))
    for process in both:
        finish(process)
    found = records(tmp_path)
    assert len(found) == 2
    for record, (losses, _) in zip(found, big_batch[0], strict=True):
        for name, mean in losses.items():
            expected = mean.total / max(mean.count, 1)
            np.testing.assert_allclose(record[f"loss/{name}"], expected, rtol=1e-5, atol=1e-6)


def test_the_slow_copy_and_the_queue_are_resumed(data, tmp_path):
    plain = dict(objectives=dict(infoxlm=dict(layer=1, queue=64, momentum=0.5)), checkpoint_every=1)
    entries = contrast_config.entries(data)
    plain["streams"] = dict(pair=entries["streams"]["pair"])
    states = []
    for folder in ("whole", "parts"):
        if folder == "parts":  # goes on after the first step of the whole run
            shutil.copytree(tmp_path / "whole", tmp_path / folder)
            shutil.rmtree(tmp_path / folder / "checkpoints/2")
        run = run_of(data, steps=2, workdir=tmp_path / folder, **plain)
        train(run, tmp_path / folder)
        checkpoints = Checkpoints(tmp_path / folder, 3)
        states.append(checkpoints.restore(2, run.abstract))
        checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, *states)  # bit for bit
    aux = states[1].aux["infoxlm"]
    assert 0 < aux["queue"].keep_Q.sum() and int(aux["queue"].pointer) > 0
    params = flatten_dict(states[1].params)
    for name, slow in flatten_dict(aux["slow"]).items():
        assert slow.shape[1:] == params[name].shape[1:]
    table = ("encoder", "word_embeddings")
    assert np.abs(flatten_dict(aux["slow"])[table] - params[table]).max() > 1e-5


def test_an_objective_that_does_not_split_itself_still_refuses_microbatches(data):
    entries = contrast_config.entries(data)
    streams = dict(pair=entries["streams"]["pair"])
    wordot = dict(adjust=dict(distance="wordot", weight=1.0, drift="none"))
    with pytest.raises(ConfigError, match="accumulate=1"):
        run_of(data, accumulate=2, streams=streams, objectives=wordot)
