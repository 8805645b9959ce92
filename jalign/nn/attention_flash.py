"""Attend inside units with the platform's flash kernel: cuDNN on GPU, splash on TPU."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jalign.nn.attention_banded import reach_slots
from jalign.nn.packed import Order
from jalign.types import Array


def seen_pairs(unit_BL: Array, window: int | None = None, order: Order | None = None) -> Array:
    """Return which slot [B, L, ...] sees which [..., L]: its own unit, at most `window` away, in
    `order`.
    """
    seen_BLL = unit_BL[:, :, None] == unit_BL[:, None, :]
    if order is not None:
        seen_BLL &= order.seen()
    if window is None:
        return seen_BLL
    slot_L = jnp.arange(unit_BL.shape[1])
    return seen_BLL & (jnp.abs(slot_L[:, None] - slot_L) <= window)


def cudnn_attention(
    q_BLHK: Array,
    k_BLHK: Array,
    v_BLHK: Array,
    unit_BL: Array,
    *,
    window: int | None = None,
    order: Order | None = None,
) -> Array:
    """Return attention inside units, by cuDNN (bfloat16 or float16, head size up to 128).

    The window is in the mask: cuDNN's own looks to the left only.
    """
    seen_B1LL = seen_pairs(unit_BL, window, order)[:, None]
    return jax.nn.dot_product_attention(
        q_BLHK, k_BLHK, v_BLHK, mask=seen_B1LL, implementation="cudnn"
    )


def splash_attention(
    q_BLHK: Array,
    k_BLHK: Array,
    v_BLHK: Array,
    unit_BL: Array,
    *,
    max_unit: int | None = None,
    window: int | None = None,
    interpret: bool = False,
) -> Array:
    """Return attention inside units, by the splash kernel with the units as its segments.

    Rows must be a multiple of 128 slots; heads are padded with zeros to a multiple of 128 numbers.
    `interpret` runs the kernel without a TPU, slowly, for tests.
    """
    length, size = q_BLHK.shape[1], q_BLHK.shape[3]
    reach = reach_slots(length, max_unit, window)
    pad = ((0, 0), (0, 0), (0, 0), (0, -size % 128))
    q_BLHK = q_BLHK * size**-0.5
    q_BHLK, k_BHLK, v_BHLK = (
        jnp.pad(x, pad).transpose(0, 2, 1, 3) for x in (q_BLHK, k_BLHK, v_BLHK)
    )
    attend = functools.partial(_splash, reach=reach, interpret=interpret)
    out_BHLK = _on_each_device(attend)(q_BHLK, k_BHLK, v_BHLK, unit_BL)
    return out_BHLK.transpose(0, 2, 1, 3)[..., :size]


def _on_each_device(attend):
    """Map over the mesh of `jax.set_mesh`: the compiler cannot partition a Pallas kernel itself."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return attend
    rows = tuple(name for name in ("dcn", "data", "fsdp") if name in mesh.axis_names) or None
    heads = "tensor" if "tensor" in mesh.axis_names else None
    spec = PartitionSpec(rows, heads)
    specs = (spec, spec, spec, PartitionSpec(rows))
    return jax.shard_map(attend, in_specs=specs, out_specs=spec, check_vma=False)


def _splash(q_BHLK, k_BHLK, v_BHLK, unit_BL, *, reach, interpret):
    from jax.experimental.pallas.ops.tpu.splash_attention import (  # Pallas: only where it is used
        splash_attention_kernel as kernels,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    heads, length = q_BHLK.shape[1:3]
    if reach < length - 1:  # a mask of single slots, not only of blocks: exact for a window too
        mask = masks.LocalMask((length, length), (reach, reach), 0)
    else:
        mask = masks.FullMask((length, length))
    block = next(size for size in (512, 384, 256, 128) if length % size == 0)  # not timed on a TPU
    sizes = kernels.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block,
        block_q_dkv=block, block_kv_dkv=block, block_kv_dkv_compute=block,
        block_q_dq=block, block_kv_dq=block,
    )  # fmt: skip
    attend = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    return jax.vmap(attend)(q_BHLK, k_BHLK, v_BHLK, kernels.SegmentIds(unit_BL, unit_BL))
