"""Runs with AMBER and VECO 2.0 on one dataset: every mesh gives the losses of one device, in any
number of microbatches, and all four losses learn.
"""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

from jalign import config
from jalign.train.run import RunConfig, make_run
from tests.tiny import WORDS, run_entries, write_tiny_dataset

LOSSES = ("amber.wa", "amber.sa", "veco2.s2s", "veco2.t2t")
NEXT = "\n".join(" ".join(pair) for pair in itertools.pairwise(dict.fromkeys(WORDS)))
STEPS = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_tiny_dataset(tmp_path_factory.mktemp("alignment") / "data")
    (folder.parent / "words.txt").write_text(NEXT, encoding="utf-8")
    return folder


def run_of(data, mesh=(1, 1, 1), **changes):
    words = data.parent / "words.txt"
    thesaurus = dict(files=(f"en-de={words}", f"en-ru={words}"), skip_frequent=0)
    separate = dict(layout="separate", rows=8, row_length=64, thesaurus=thesaurus)
    entries = dict(
        streams=dict(pair=dict(layout="joint", rows=8, row_length=64), separate=separate),
        objectives=dict(
            amber=dict(weight=dict(wa=1.0, sa=0.5)),
            veco2=dict(stream="separate", tau=0.2),
        ),
        mesh=dict(zip(("data", "fsdp", "tensor"), mesh, strict=True)),
        steps=STEPS,
    )
    cfg = config.build(RunConfig, run_entries(data, **(entries | changes)))
    return make_run(cfg, jax.devices()[: int(np.prod(mesh))])


def steps_of(run, num=2):
    with jax.set_mesh(run.mesh):
        state, outs = run.init_state(), []
        for i in range(num):
            # two batches in turn: the tiny pairs are no translations, nothing but them is learnt
            state, out = run.step(state, run.put(run.source[i % 2]), jax.random.key(3))
            outs.append(jax.tree.map(np.asarray, (out.loss, out.losses)))
    return outs, jax.tree.map(np.asarray, state.params)


@pytest.fixture(scope="module")
def one_device(data):
    return steps_of(run_of(data), STEPS)


def test_all_four_losses_learn(one_device):
    for name in LOSSES:
        losses = [out[1][name] for out in one_device[0]]
        means = [float(x.total / x.count) for x in losses]
        assert np.isfinite(means).all() and losses[0].count > 4
        assert np.mean(means[-4:]) < 0.97 * np.mean(means[:4]), name


@pytest.mark.slow  # tests/train/test_step.py holds the meshes at every commit
@pytest.mark.parametrize("mesh", [(8, 1, 1), (4, 2, 1), (2, 2, 2)], ids=str)
def test_every_mesh_gives_the_losses_of_one_device(data, one_device, mesh):
    outs, _ = steps_of(run_of(data, mesh))
    for (loss, losses), (expected, theirs) in zip(outs, one_device[0], strict=False):
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), losses, theirs)


@pytest.mark.slow
def test_microbatches_give_the_losses_of_the_whole_batch(data, one_device):
    outs, _ = steps_of(run_of(data, accumulate=4))
    for (loss, losses), (expected, theirs) in zip(outs, one_device[0], strict=False):
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), losses, theirs)
