"""A tiny run that has not trained, and the same weights moved, for the evaluations of runs."""

from __future__ import annotations

import flax.linen as nn
import jax
import pytest

from jalign import config
from jalign.hf.folder import write_folder
from jalign.train.run import RunConfig, make_run
from tests.tiny import run_entries, write_tiny_dataset


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    data = write_tiny_dataset(tmp_path_factory.mktemp("tiny") / "data")
    return make_run(config.build(RunConfig, run_entries(data)))


@pytest.fixture(scope="session")
def params(run):
    """Random weights, larger than those a run starts from: every layer then links differently."""
    with jax.set_mesh(run.mesh):
        params = nn.unbox(run.init_state().params)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    moved = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


@pytest.fixture(scope="session")
def model_folder(run, params, tmp_path_factory):
    """The encoder of `params` as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("hf") / "model"
    tokenizer = run.manifest.folder / "tokenizer"
    encoder = jax.device_get(params["encoder"])
    write_folder(folder, "bert", "xlm-roberta", run.encoder_cfg, encoder, tokenizer)
    return folder
