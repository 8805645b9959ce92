"""Reading a compiled program: loops count as often as they turn; FLOPs, bytes and collectives by
hand.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jalign.plan.collectives import list_collectives
from jalign.plan.flops import count_flops
from jalign.plan.hlo import Shape, parse, shapes_in
from jalign.plan.traffic import count_bytes

# In the form in which the TPU compiler prints: layouts with tiles, products as convolutions, a
# batch axis as a dilated window, an asynchronous collective, groups as a transposed iota.
TPU_TEXT = """\
HloModule jit_step, is_scheduled=true

%sum.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %add = f32[]{:T(128)} add(%a, %b)
}

%body.1 (p: (s32[], bf16[16,64]{1,0:T(8,128)(2,1)}, f32[3,32])) -> (s32[], bf16[16,64], f32[3,32]) {
  %p = (s32[]{:T(128)}, bf16[16,64]{1,0:T(8,128)(2,1)}, /*index=2*/f32[3,32]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = bf16[16,64]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %s = f32[3,32]{1,0} get-tuple-element(%p), index=2
  %w = bf16[64,32]{1,0:T(8,128)(2,1)} constant({...})
  %y = bf16[16,32]{1,0:T(8,128)(2,1)} convolution(%x, %w), dim_labels=bf_io->bf
  %r = bf16[16,32]{1,0} all-reduce(%y), channel_id=1, \
replica_groups=mesh['axis_0'=1,'axis_1'=4,'axis_2'=2], device_ids=([4,2]T(0,1)) {'axis_2'}, \
to_apply=%sum.1
  ROOT %t = (s32[], bf16[16,64], f32[3,32]) tuple(%i, %x, %s)
}

%condition.1 (q: (s32[], bf16[16,64], f32[3,32])) -> pred[] {
  %q = (s32[], bf16[16,64], f32[3,32]) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %limit = s32[] constant(3)
  ROOT %less = pred[] compare(%j, %limit), direction=LT
}

ENTRY %main (x.1: bf16[16,64]) -> bf16[8,16,16] {
  %x.1 = bf16[16,64]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %stack = f32[3,32]{1,0} constant({...})
  %t.1 = (s32[], bf16[16,64], f32[3,32]) tuple(%zero, %x.1, %stack)
  %loop = (s32[], bf16[16,64], f32[3,32]) while(%t.1), condition=%condition.1, body=%body.1
  %g = (bf16[2,64]{1,0}, bf16[16,64]{1,0}) all-gather-start(%part), replica_groups={{0,2,4,6},\
{1,3,5,7}}, dimensions={0}
  %q.1 = bf16[8,16,64]{2,1,0} constant({...})
  %k.1 = bf16[8,16,64]{2,1,0} constant({...})
  ROOT %o = bf16[8,16,16]{2,1,0} convolution(%q.1, %k.1), \
window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0oi->0bf
}
"""


@pytest.fixture(scope="module")
def program():
    return parse(TPU_TEXT)


def test_types_with_tiles_and_comments_are_read():
    text = "(s32[]{:T(128)}, bf16[16,64]{1,0:T(8,128)(2,1)}, /*index=2*/pred[3,32]{1,0})"
    found = shapes_in(text)
    assert found == (Shape("s32", ()), Shape("bf16", (16, 64)), Shape("pred", (3, 32)))
    assert [s.bytes for s in found] == [4, 2048, 96]


def test_a_loop_without_a_known_count_turns_up_to_its_constant(program):
    loop = program.entry.by_name["loop"]
    assert program.trips(loop) == 3
    times = {i.name: n for i, _, n, _ in program.walk()}
    assert times["y"] == 3 and times["o"] == 1


def test_flops_of_products_written_as_convolutions(program):
    in_the_loop = 3 * 2 * 16 * 64 * 32
    of_eight = 8 * 2 * 16 * 16 * 64  # each of the 8 outputs meets one of the 8 inputs
    assert count_flops(program) == {"products": in_the_loop + of_eight}


def test_an_attention_kernel_counts_its_queries_and_not_its_mask():
    text = """\
HloModule jit_step

ENTRY %main (q: bf16[2,64,4,16]) -> bf16[2,64,4,16] {
  %q = bf16[2,64,4,16]{3,2,1,0} parameter(0)
  %mask = bf16[2,4,64,64]{3,2,1,0} constant({...})
  %a = (bf16[2,64,4,16]{3,2,1,0}, u8[0]{0}) custom-call(%q, %q, %q, %mask), \
custom_call_target="__cudnn$fmhaScaleBiasSoftmax"
  ROOT %o = bf16[2,64,4,16]{3,2,1,0} get-tuple-element(%a), index=0
}
"""
    one_product = 2 * (2 * 4) * 64 * 64 * 16
    assert count_flops(parse(text)) == {"attention kernels": 2 * one_product}
    backward = parse(text.replace("BiasSoftmax", "BiasSoftmaxBackward"))
    assert count_flops(backward) == {"attention kernels": 5 * one_product}


def test_collectives_name_axes_and_bytes_by_hand(program):
    found = {c.operation: c for c in list_collectives(program, {"data": 4, "fsdp": 2}, island=4)}
    reduce, gather = found["all-reduce"], found["all-gather"]
    assert (reduce.axes, reduce.group, reduce.count) == (("fsdp",), 2, 3)
    assert reduce.payload == 3 * 16 * 32 * 2 and reduce.wire == reduce.payload
    assert not reduce.leaves
    assert (gather.axes, gather.group, gather.count) == (("data",), 4, 1)
    assert gather.payload == 16 * 64 * 2 and gather.wire == gather.payload * 3 / 4
    assert gather.leaves


BESIDE_TEXT = """\
HloModule jit_step

%start (x: bf16[4,64]) -> (bf16[4,64], bf16[16,64], u32[]) {
  %x = bf16[4,64]{1,0:T(8,128)(2,1)} parameter(0)
  %g = bf16[16,64]{1,0:T(8,128)(2,1)} all-gather(%x), channel_id=1, \
replica_groups=[2,4]<=[8], dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %s = (bf16[4,64]{1,0}, bf16[16,64]{1,0}, u32[]{:S(2)}) custom-call(%g), \
custom_call_target="AsyncCollectiveStart"
}

%beside (x1: bf16[4,64], b1: bf16[16,64], y: f32[32,32]) -> (bf16[16,64], bf16[16,64], f32[32,32]) {
  %x1 = bf16[4,64]{1,0:T(8,128)(2,1)} parameter(0)
  %b1 = bf16[16,64]{1,0:T(8,128)(2,1)} parameter(1)
  %y = f32[32,32]{1,0:T(8,128)} parameter(2)
  %g1 = bf16[16,64]{1,0:T(8,128)(2,1)} all-gather(%x1), channel_id=1, \
replica_groups=[2,4]<=[8], dimensions={0}, frontend_attributes={chain_id="0"}
  %z = f32[32,32]{1,0:T(8,128)} add(%y, %y)
  ROOT %t = (bf16[16,64]{1,0}, bf16[16,64]{1,0}, f32[32,32]{1,0}) tuple(%b1, %g1, %z)
}

%done (x2: bf16[4,64], b2: bf16[16,64]) -> bf16[16,64] {
  %x2 = bf16[4,64]{1,0:T(8,128)(2,1)} parameter(0)
  %b2 = bf16[16,64]{1,0:T(8,128)(2,1)} parameter(1)
  %g2 = bf16[16,64]{1,0:T(8,128)(2,1)} all-gather(%x2), channel_id=1, \
replica_groups=[2,4]<=[8], dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %d = bf16[16,64]{1,0} custom-call(%x2, %b2, %g2), \
custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (p: bf16[4,64], q: f32[32,32]) -> bf16[16,64] {
  %p = bf16[4,64]{1,0:T(8,128)(2,1)} parameter(0)
  %q = f32[32,32]{1,0:T(8,128)} parameter(1)
  %a = (bf16[4,64]{1,0}, bf16[16,64]{1,0}, u32[]{:S(2)}) fusion(%p), kind=kCustom, calls=%start
  %a0 = bf16[4,64]{1,0} get-tuple-element(%a), index=0
  %a1 = bf16[16,64]{1,0} get-tuple-element(%a), index=1
  %f = (bf16[16,64]{1,0}, bf16[16,64]{1,0}, f32[32,32]{1,0}) fusion(%a0, %a1, %q), \
kind=kOutput, calls=%beside
  %f1 = bf16[16,64]{1,0} get-tuple-element(%f), index=1
  ROOT %e = bf16[16,64]{1,0} fusion(%a0, %f1), kind=kCustom, calls=%done
}
"""


def test_a_collective_that_runs_beside_a_fusion_counts_once():
    program = parse(BESIDE_TEXT)
    (gather,) = list_collectives(program, {"data": 2, "fsdp": 4})
    assert (gather.operation, gather.axes, gather.count) == ("all-gather", ("fsdp",), 1)
    assert gather.payload == 16 * 64 * 2
    gathered, added = (4 + 16) * 64 * 2, 2 * 32 * 32 * 4  # read and written
    assert count_bytes(program) == gathered + added


def test_a_scan_of_products_counts_every_turn():
    def run(x, w_3DD):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), h.sum()), x, w_3DD)

    compiled = jax.jit(run).lower(jnp.ones((1, 64)), jnp.ones((10, 64, 64))).compile()
    program = parse(compiled.as_text())
    assert sum(count_flops(program).values()) == 10 * 2 * 64 * 64
    weights = 10 * 64 * 64 * 4  # sliced, copied, read: never the whole stack every turn
    assert weights <= count_bytes(program) < 6 * weights


def test_the_sum_over_shards_is_one_all_reduce():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((8, 32), np.float32, sharding=rows)
    whole = NamedSharding(mesh, PartitionSpec())
    compiled = jax.jit(lambda x: x.sum(axis=0), out_shardings=whole).lower(x).compile()
    (found,) = list_collectives(parse(compiled.as_text()), dict(mesh.shape))
    assert (found.operation, found.axes, found.group) == ("all-reduce", ("data",), 4)
    assert found.payload == 32 * 4
