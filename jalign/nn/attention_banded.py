"""Attend inside units with XLA alone, in blocks of queries, with a hand-written backward pass.

A block of queries sees the keys within reach of it, no others: `max_unit` - 1 slots, or the window
if that is less. Exact, because units are contiguous. The blocks are a loop of Python with static
slices, so the ones at a row's ends are not padded.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jalign.nn.dropout import keep_factor
from jalign.nn.packed import Order
from jalign.types import Array, Key

BIG_NEGATIVE = -1e30  # finite, as in attention.py
ALIGN = 16  # key ranges start and end at multiples of this many slots (vector width)


def reach_slots(length: int, max_unit: int | None, window: int | None = None) -> int:
    """Return how many slots away, on either side, a slot may see."""
    reach = min(max_unit or length, length) - 1
    return reach if window is None else min(reach, window)


def block_slots(length: int, max_unit: int | None, window: int | None = None) -> int:
    """Return how many queries a block holds; `length` means one block, the whole square."""
    # Forward + backward against "dense" (float32, units of 20..max_unit slots, ms of CPU time,
    # least of 10 interleaved, 2 cores AMD Zen 4):
    #   B   L  H  K max_unit  dense | block 64  128  256  512
    #  16 256  6 64      128  131.7 |    116.0 115.7  95.4
    #  16 256  8 32      128  137.9 |     97.8  99.3  79.3
    #   8 512  6 64      128  281.7 |    150.2 153.0 153.7 225.7
    #   8 512  8 32      128  312.8 |    123.7 130.0 140.5 227.6
    #   8 512  6 64      256  304.3 |    211.1 201.6 213.9 208.5
    # So: one block where a band saves under a tenth, else 128 (64 is no faster where it wins).
    block = max(128, -(-length // 16))  # at most 16 blocks: they are unrolled
    seen = sum((stop - start) * (last - first) for start, stop, first, last in
               _spans(length, block, reach_slots(length, max_unit, window)))  # fmt: skip
    return block if seen < 0.9 * length**2 else length


def banded_attention(
    q_BLHK: Array,
    k_BLHK: Array,
    v_BLHK: Array,
    unit_BL: Array,
    *,
    max_unit: int | None = None,
    window: int | None = None,
    order: Order | None = None,
    block: int | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key | None = None,
) -> Array:
    """Return attention inside units as [B, L, H, K]; `block` queries at a time.

    `max_unit` None means that a unit may fill the row, `window` and `order` None that a slot sees
    all of its unit.
    """
    length = q_BLHK.shape[1]
    block = block or block_slots(length, max_unit, window)
    scale = q_BLHK.shape[3] ** -0.5
    # heads before slots, once: every matmul below is then in the form that XLA's CPU backend runs
    # at full speed
    q_BHLK, k_BHLK, v_BHLK = (x.transpose(0, 2, 1, 3) for x in (q_BLHK * scale, k_BLHK, v_BLHK))
    reach = reach_slots(length, max_unit, window)
    windowed = reach < reach_slots(length, max_unit)
    cut = _Cut(block, reach, windowed, dropout_rate if dropout_key is not None else 0.0)
    out_BHLK = _attend(q_BHLK, k_BHLK, v_BHLK, unit_BL, order, dropout_key, cut)
    return out_BHLK.transpose(0, 2, 1, 3)


def _spans(length: int, block: int, reach: int) -> list[tuple[int, int, int, int]]:
    """Return (first query, end, first key, end) of each block."""
    spans = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        first = max(0, start - reach) // ALIGN * ALIGN
        last = min(length, -(-(stop + reach) // ALIGN) * ALIGN)
        spans.append((start, stop, first, last))
    return spans


class _Cut(NamedTuple):
    """What is static: queries a block holds, how far they see, whether a window ends that inside
    units, and the dropout rate.
    """

    block: int
    reach: int
    windowed: bool
    rate: float


def _dropped(x_BHCM: Array, key: Key | None, start: int, cut: _Cut) -> Array:
    """Apply the dropout of the block at `start`: the same in both passes, so it is not stored."""
    if key is None:
        return x_BHCM
    factor = keep_factor(jax.random.fold_in(key, start), x_BHCM.shape, cut.rate)
    return (x_BHCM * factor).astype(x_BHCM.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _attend(q_BHLK, k_BHLK, v_BHLK, unit_BL, order, key, cut):
    return _forward(q_BHLK, k_BHLK, v_BHLK, unit_BL, order, key, cut)[0]


def _forward(q_BHLK, k_BHLK, v_BHLK, unit_BL, order, key, cut):
    outs, probs = [], []
    for start, stop, first, last in _spans(q_BHLK.shape[2], cut.block, cut.reach):
        q_BHCK, k_BHMK = q_BHLK[:, :, start:stop], k_BHLK[:, :, first:last]
        sim_BHCM = _product("BHCK,BHMK->BHCM", q_BHCK, k_BHMK)
        seen_BCM = unit_BL[:, start:stop, None] == unit_BL[:, None, first:last]
        if cut.windowed:
            away_CM = jnp.arange(start, stop)[:, None] - jnp.arange(first, last)
            seen_BCM &= jnp.abs(away_CM) <= cut.reach
        if order is not None:
            seen_BCM &= order.key_BL[:, None, first:last] < order.query_BL[:, start:stop, None]
        sim_BHCM += jnp.where(seen_BCM, 0.0, BIG_NEGATIVE)[:, None]
        prob_BHCM = jax.nn.softmax(sim_BHCM).astype(v_BHLK.dtype)  # f32 inside
        probs.append(prob_BHCM)
        kept_BHCM = _dropped(prob_BHCM, key, start, cut)
        outs.append(_product("BHCM,BHMK->BHCK", kept_BHCM, v_BHLK[:, :, first:last]))
    out_BHLK = jnp.concatenate(outs, axis=2).astype(q_BHLK.dtype)
    return out_BHLK, (q_BHLK, k_BHLK, v_BHLK, out_BHLK, key, probs)


def _backward(cut, saved, g_BHLK):
    """Give the gradients from the saved probabilities.

    dk and dv come transposed, [K, M]: with the large [C, M] factor on the right and untransposed,
    these two matmuls took 12 ms instead of 18 (B 16, L 256, H 6, K 64, one core).
    """
    q_BHLK, k_BHLK, v_BHLK, out_BHLK, key, probs = saved
    dot_BHL1 = _product("BHLK,BHLK->BHL", g_BHLK, out_BHLK)[..., None]
    q_BHKL, g_BHKL = q_BHLK.swapaxes(2, 3), g_BHLK.swapaxes(2, 3)
    dqs = []
    dk_BHKL = jnp.zeros(q_BHKL.shape, jnp.float32)
    dv_BHKL = jnp.zeros(q_BHKL.shape, jnp.float32)
    spans = _spans(q_BHLK.shape[2], cut.block, cut.reach)
    for prob_BHCM, (start, stop, first, last) in zip(probs, spans, strict=True):
        ours, theirs = slice(start, stop), slice(first, last)
        dprob_BHCM = _product("BHCK,BHMK->BHCM", g_BHLK[:, :, ours], v_BHLK[:, :, theirs])
        dprob_BHCM = _dropped(dprob_BHCM, key, start, cut)
        dsim_BHCM = (prob_BHCM * (dprob_BHCM - dot_BHL1[:, :, ours])).astype(q_BHLK.dtype)
        kept_BHCM = _dropped(prob_BHCM, key, start, cut)
        dqs.append(_product("BHCM,BHMK->BHCK", dsim_BHCM, k_BHLK[:, :, theirs]))
        dk_BHKM = _product("BHKC,BHCM->BHKM", q_BHKL[..., ours], dsim_BHCM)
        dv_BHKM = _product("BHKC,BHCM->BHKM", g_BHKL[..., ours], kept_BHCM)
        dk_BHKL = dk_BHKL.at[..., theirs].add(dk_BHKM)
        dv_BHKL = dv_BHKL.at[..., theirs].add(dv_BHKM)
    dq_BHLK = jnp.concatenate(dqs, axis=2).astype(q_BHLK.dtype)
    dk_BHLK = dk_BHKL.swapaxes(2, 3).astype(k_BHLK.dtype)
    return dq_BHLK, dk_BHLK, dv_BHKL.swapaxes(2, 3).astype(v_BHLK.dtype), None, None, None


def _product(form: str, x: Array, y: Array) -> Array:
    return jnp.einsum(form, x, y, preferred_element_type=jnp.float32)


_attend.defvjp(_forward, _backward)
