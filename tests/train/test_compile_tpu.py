"""Compile real steps for TPUs that are not here, against the stored plans; slow, needs
`bash launch/install.sh test,quickstart,tpu`.
"""

from __future__ import annotations

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import plans
from jalign.nn.vocab_loss import gather_cap, vocab_cross_entropy
from jalign.plan.topology import GIB, open_topology
from jalign.train import mesh as mesh_lib

WORDS, HIDDEN, SLOTS = 250_002, 768, 64 * 512


@pytest.fixture(autouse=True)
def needs_libtpu(monkeypatch):
    pytest.importorskip("libtpu", reason="compiling for TPUs needs libtpu: pip install libtpu")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("topology", ["v5e:4x4", "v5e:16x16"])
def test_the_xlmr_base_step_is_as_stored(topology):
    cell = ("xlmr_base", topology, "xlmr-base", plans.WEAK_ROWS, 4)
    step = plans.compile_one(*cell)["step"]
    assert step["fits"] and step["memory_needed"] < 15.75 * GIB
    # no gather of the embeddings' gradient, whose columns are sharded: float32, the whole table
    table = WORDS * HIDDEN * 4
    assert all(c["largest"] < table for c in step["collectives"])
    assert sum(step["flops"].values()) == pytest.approx(step["flops_executed"], rel=0.1)
    if not plans.RESULTS.exists():
        pytest.skip(f"{plans.RESULTS.name} is not stored yet: python -m benchmarks.plans makes it")
    stored = json.loads(plans.RESULTS.read_text())[" ".join(map(str, cell))]["step"]
    assert step["memory_needed"] == pytest.approx(stored["memory_needed"], rel=0.02)
    assert step["flops"] == pytest.approx(stored["flops"], rel=0.01)
    kinds = {(c["operation"], tuple(c["axes"])): c["payload"] for c in step["collectives"]}
    assert kinds == pytest.approx(
        {(c["operation"], tuple(c["axes"])): c["payload"] for c in stored["collectives"]}, rel=0.01
    )


@pytest.mark.slow
def test_the_vocabulary_loss_of_64_rows_per_chip_needs_less_than_half_a_gib():
    """64 x 512 tokens per chip, of which 15 % are predicted: dense logits of them are 4.6 GiB.

    The table's columns are sharded over four chips, as fsdp has them. Whole on every chip, 250,002
    words cost a copy of the table and one of its gradient more (0.72 GiB in all).
    """
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(fsdp=4), open_topology("v5e:2x2").devices)
    places = 4 * gather_cap(SLOTS, 0.15)

    def argument(shape, dtype, *axes):
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def loss(h_ND, table_VD, bias_V, target_N):
        return vocab_cross_entropy(h_ND, table_VD, bias_V, target_N)[0].sum()

    arguments = (
        argument((places, HIDDEN), jnp.bfloat16, mesh_lib.BATCH_AXES),
        argument((WORDS, HIDDEN), jnp.bfloat16, None, "fsdp"),  # as Bert.output gives it
        argument((WORDS,), jnp.float32),
        argument((places,), jnp.int32, mesh_lib.BATCH_AXES),
    )
    shardings = tuple(x.sharding for x in arguments[:3])
    with jax.set_mesh(mesh), nn.logical_axis_rules(mesh_lib.RULES):
        gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), out_shardings=shardings)
        compiled = gradients.lower(*arguments).compile()
    stats = compiled.memory_analysis()
    needed = stats.temp_size_in_bytes
    dense = places // 4 * WORDS * 4
    assert dense > 4.6 * GIB
    assert 0 < needed < 0.5 * GIB
