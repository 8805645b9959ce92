"""What the shards of a step say to each other, counted in the compiled program on eight simulated
devices: nothing that the layout does not need.
"""

from __future__ import annotations

import functools

import jax
import pytest

from jalign.plan.abstract import make_abstract_run
from jalign.plan.collectives import list_collectives
from jalign.plan.hlo import parse
from tests.plan.test_plan import tiny

VOCAB, HIDDEN, LAYERS = 1024, 64, 2
TABLE = VOCAB * HIDDEN * 4  # bytes of the word embeddings, the largest parameter by far
STREAMS = 2
SLOTS = 16 * 64  # of a stream's batch


@functools.cache
def collectives(family="bert", **mesh):
    """Compile the step of MLM + TLM once for a mesh."""
    cfg = tiny(encoder=dict(tiny().encoder) | dict(family=family), mesh=mesh)
    run = make_abstract_run(cfg, jax.devices())
    program = parse(run.lower().compile().as_text())
    return list_collectives(program, dict(run.mesh.shape), island=4), run


def of(found, operation):
    return [c for c in found if c.operation == operation]


def test_data_alone_only_sums_gradients():
    found, run = collectives(data=8)
    assert {(c.operation, c.axes) for c in found} == {("all-reduce", ("data",))}
    params = sum(x.size * 4 for x in jax.tree.leaves(run.state.params))
    # the table's gradient comes from two lookups and two softmaxes, the rest from two passes
    assert sum(c.payload for c in found) < 4 * params


def test_fsdp_gathers_weights_and_never_a_gradient_of_the_embeddings():
    found, run = collectives(data=2, fsdp=4)
    assert {c.operation for c in found} <= {
        "all-reduce", "all-gather", "reduce-scatter", "all-to-all"
    }  # fmt: skip
    gathers = of(found, "all-gather")
    assert {c.axes for c in gathers} == {("fsdp",)}
    # Each pass gathers each weight once forwards and once backwards; a gathered gradient of the
    # embeddings would come on top.
    assert max(c.largest for c in gathers) <= TABLE
    params = sum(x.size * 4 for x in jax.tree.leaves(run.state.params))
    assert sum(c.payload for c in gathers) <= 2 * STREAMS * params
    # the whole table's gradient is never summed over all chips: each sums its own columns
    everyone = [c for c in found if c.operation == "all-reduce" and set(c.axes) == {"data", "fsdp"}]
    assert sum(c.payload for c in everyone) < TABLE / 2


def test_looked_up_words_cross_the_network_not_the_table():
    found, _ = collectives(data=2, fsdp=4)
    (exchanged,) = of(found, "all-to-all")
    assert exchanged.axes == ("fsdp",)
    states = SLOTS // 8 * HIDDEN * 4
    assert exchanged.largest <= states
    assert exchanged.count <= 4 * STREAMS  # words and positions together, there and back


@pytest.mark.parametrize("family", ["bert", pytest.param("modernbert", marks=pytest.mark.slow)])
def test_tensor_sums_states_inside_its_own_axis(family):
    found, _ = collectives(family, data=2, fsdp=2, tensor=2)
    inside = [c for c in found if c.axes == ("tensor",)]
    assert of(inside, "all-reduce")
    # The softmax stays cut over the words; a lookup gathers the columns that fsdp left it.
    gathers = [c for c in of(found, "all-gather") if "tensor" in c.axes]
    assert all(c.axes == ("tensor",) and c.largest <= TABLE / 2 for c in gathers)
    assert sum(c.payload for c in gathers) <= 2 * STREAMS * TABLE / 2


@pytest.mark.slow
def test_only_gradients_cross_the_slices():
    found, run = collectives(dcn=2, data=2, fsdp=2)
    leaving = [c for c in found if c.leaves]
    assert {c.operation for c in leaving} == {"all-reduce"}
    shard = sum(
        x.dtype.itemsize * functools.reduce(int.__mul__, x.sharding.shard_shape(x.shape), 1)
        for x in jax.tree.leaves(run.state.params)
    )
    assert sum(c.payload for c in leaving) < 4 * shard
    assert all("dcn" in c.axes for c in leaving)
