"""Compute the cross-entropy over a large vocabulary, and gather the positions that need it.

Only masked positions meet the vocabulary (`gather_masked`, `gather_slots`), and
`vocab_cross_entropy` walks through the vocabulary in chunks, so that no [positions, vocabulary]
array need exist.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jalign.types import Array

METHODS = ("auto", "dense", "chunked")
CHUNK = 4096  # words per piece
KEEP_BYTES = 256 * 2**20  # logits that the forward pass may leave to the backward pass


def vocab_cross_entropy(
    h_ND: Array,
    table_VD: Array,
    bias_V: Array,
    target_N: Array,
    *,
    method: str = "auto",
    chunk: int = CHUNK,
    keep_bytes: int = KEEP_BYTES,
) -> tuple[Array, Array]:
    """Return (nll_N float32, correct_N bool) of a softmax over the rows of `table_VD`.

    logits = h table^T + bias, in float32 whatever the inputs' dtype. `correct_N` says that no
    logit is larger than the target's. Differentiable in `h_ND`, `table_VD` and `bias_V`, for any
    cotangent of `nll_N`. "dense" is plain autodiff. "chunked" (which "auto" takes) walks through
    the vocabulary `chunk` words at a time; the forward pass keeps at most `keep_bytes` of logits
    (over all devices) and the backward pass computes the others again.
    Raises: ValueError if `method` is unknown or `chunk` < 1.
    """
    if method not in METHODS:
        raise ValueError(f"unknown vocabulary loss {method!r}; use one of {', '.join(METHODS)}.")
    if chunk < 1:
        raise ValueError(f"chunk={chunk}; the vocabulary needs chunks of at least 1 word.")
    if method == "dense":
        return _dense(h_ND, table_VD, bias_V, target_N)
    runs = _num_runs(table_VD.shape[0])
    table_RMD = table_VD.reshape(runs, -1, table_VD.shape[1])
    piece = min(-(-chunk // runs), table_RMD.shape[1])
    keep = max(0, keep_bytes) // (4 * h_ND.shape[0] * runs * piece)
    cut = _Cut(piece, min(keep, table_RMD.shape[1] // piece))
    return _chunked(h_ND, table_RMD, bias_V.reshape(runs, -1), target_N, cut)


def _dense(h_ND: Array, table_VD: Array, bias_V: Array, target_N: Array) -> tuple[Array, Array]:
    logits_NV = jnp.einsum("ND,VD->NV", h_ND, table_VD, preferred_element_type=jnp.float32)
    logits_NV += bias_V.astype(jnp.float32)
    hit_N = jnp.take_along_axis(logits_NV, target_N[:, None], axis=1)[:, 0]
    nll_N = jax.nn.logsumexp(logits_NV, axis=1) - hit_N
    return nll_N, lax.stop_gradient(hit_N >= logits_NV.max(axis=1))


def _num_runs(vocab: int) -> int:
    """Return R, the largest power of two up to 64 that cuts the vocabulary into equal runs.

    A piece takes the same part of each run of M = V / R words, so where a table is sharded over its
    words, every shard works on its own part of every piece and no slice crosses shards (compiled
    for a v5e:2x2: no all-gather). M stays a multiple of 16 where it can: the view is then free on
    TPU, whose tiles hold 8 or 16 rows; 250,112 words in 64 runs cost a copy of the table.
    """
    return math.gcd(vocab if vocab % 16 else vocab // 16, 64)


class _Cut(NamedTuple):
    """How to walk through M words: pieces of `size`, of which `kept` keep their logits."""

    size: int
    kept: int


def _part(table_RMD: Array, start, size: int) -> Array:
    """Return words start .. start + size of every run, as one [R * size, D] matrix."""
    part_RCD = lax.dynamic_slice_in_dim(table_RMD, start, size, axis=1)
    return part_RCD.reshape(-1, part_RCD.shape[2])


def _logits(h_ND: Array, table_RMD: Array, bias_RM: Array, start, size: int) -> Array:
    # f32: a softmax over 250,002 words loses its small terms in bf16
    table_CD = _part(table_RMD, start, size)
    logits_NC = jnp.einsum("ND,CD->NC", h_ND, table_CD, preferred_element_type=jnp.float32)
    bias_RC = lax.dynamic_slice_in_dim(bias_RM, start, size, axis=1).astype(jnp.float32)
    return logits_NC.reshape(h_ND.shape[0], -1, size) + bias_RC


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _chunked(h_ND, table_RMD, bias_RM, target_N, cut):
    return _forward(h_ND, table_RMD, bias_RM, target_N, cut._replace(kept=0))[0]


def _forward(h_ND, table_RMD, bias_RM, target_N, cut):
    """Run the online logsumexp, one for each of the R runs: no step needs another shard's part."""
    (runs, words), num = bias_RM.shape, h_ND.shape[0]
    offset_N = target_N % words

    def absorb(carry, logits_NRC, start):
        top_NR, sum_NR, hit_NR = carry
        size = logits_NRC.shape[2]
        new_NR = jnp.maximum(top_NR, logits_NRC.max(axis=2))
        part_NR = jnp.exp(logits_NRC - new_NR[:, :, None]).sum(axis=2)
        sum_NR = sum_NR * jnp.exp(top_NR - new_NR) + part_NR
        at_N = offset_N - start
        at_NR1 = jnp.broadcast_to(jnp.clip(at_N, 0, size - 1)[:, None, None], (num, runs, 1))
        found_NR = jnp.take_along_axis(logits_NRC, at_NR1, axis=2)[:, :, 0]
        here_N1 = ((at_N >= 0) & (at_N < size))[:, None]
        return new_NR, sum_NR, jnp.where(here_N1, found_NR, hit_NR)

    def keeping(carry, i):
        logits_NRC = _logits(h_ND, table_RMD, bias_RM, i * cut.size, cut.size)
        return absorb(carry, logits_NRC, i * cut.size), logits_NRC

    def dropping(carry, start, size):
        return absorb(carry, _logits(h_ND, table_RMD, bias_RM, start, size), start)

    zero_NR = jnp.zeros((num, runs), jnp.float32)
    carry = _tail(dropping, (zero_NR + jnp.finfo(jnp.float32).min, zero_NR, zero_NR), words, cut)
    carry, kept_SNRC = lax.scan(keeping, carry, jnp.arange(cut.kept))
    top_NR, sum_NR, hit_NR = _rest(dropping, carry, words, cut)
    top_N = top_NR.max(axis=1)
    lse_N = jnp.log((sum_NR * jnp.exp(top_NR - top_N[:, None])).sum(axis=1)) + top_N
    mine_NR = (target_N // words)[:, None] == jnp.arange(runs)
    hit_N = jnp.where(mine_NR, hit_NR, 0.0).sum(axis=1)
    saved = (h_ND, table_RMD, bias_RM, target_N, lse_N, kept_SNRC)
    return (lse_N - hit_N, hit_N >= top_N), saved


def _tail(body, carry, words: int, cut: _Cut):
    """Run `body(carry, start, size)` over the words that no whole piece holds.

    Before the loops: after them XLA copied the whole gradient of the table for this one update.
    """
    short = words % cut.size
    return body(carry, words - short, short) if short else carry


def _rest(body, carry, words: int, cut: _Cut):
    """Run `body(carry, start, size)` over the whole pieces that are not kept."""
    pieces = (cut.kept, words // cut.size)
    return lax.fori_loop(*pieces, lambda i, c: body(c, i * cut.size, cut.size), carry)


def _backward(cut, saved, cotangents):
    h_ND, table_RMD, bias_RM, target_N, lse_N, kept_SNRC = saved
    g_N = cotangents[0]
    runs, words = bias_RM.shape
    run_NR1 = ((target_N // words)[:, None] == jnp.arange(runs))[:, :, None]

    def absorb(carry, logits_NRC, start):
        dh_ND, dtable_RMD, dbias_RM = carry
        size = logits_NRC.shape[2]
        at_N1C = ((target_N % words) - start)[:, None, None] == jnp.arange(size)
        d_NRC = jnp.exp(logits_NRC - lse_N[:, None, None]) - (run_NR1 & at_N1C)
        d_NRC *= g_N[:, None, None]
        dbias_RC = d_NRC.sum(axis=0).astype(dbias_RM.dtype)
        # the matmuls' operand takes the other operand's dtype, which may be bf16
        d_NC = d_NRC.reshape(d_NRC.shape[0], -1).astype(table_RMD.dtype)
        table_CD = _part(table_RMD, start, size)
        dh_ND += jnp.einsum("NC,CD->ND", d_NC, table_CD, preferred_element_type=jnp.float32)
        dtable_CD = jnp.einsum("NC,ND->CD", d_NC, h_ND, preferred_element_type=jnp.float32)
        # Here, not after the cast: the sum over shards of the batch then is a reduce-scatter.
        dtable_RCD = nn.with_logical_constraint(
            dtable_CD.reshape(runs, size, -1), ("vocab", None, "embed")
        )
        dtable_RCD = dtable_RCD.astype(dtable_RMD.dtype)
        dtable_RMD = lax.dynamic_update_slice_in_dim(dtable_RMD, dtable_RCD, start, axis=1)
        dbias_RM = lax.dynamic_update_slice_in_dim(dbias_RM, dbias_RC, start, axis=1)
        return dh_ND, dtable_RMD, dbias_RM

    def kept(carry, piece):
        logits_NRC, i = piece
        return absorb(carry, logits_NRC, i * cut.size), None

    def again(carry, start, size):
        return absorb(carry, _logits(h_ND, table_RMD, bias_RM, start, size), start)

    zero = (jnp.zeros(h_ND.shape, jnp.float32), jnp.zeros_like(table_RMD), jnp.zeros_like(bias_RM))
    carry = _tail(again, zero, words, cut)
    carry, _ = lax.scan(kept, carry, (kept_SNRC, jnp.arange(cut.kept)))
    dh_ND, dtable_RMD, dbias_RM = _rest(again, carry, words, cut)
    return dh_ND.astype(h_ND.dtype), dtable_RMD, dbias_RM, None


_chunked.defvjp(_forward, _backward)


def gather_cap(num_slots: int, rate: float, sigmas: float = 5.0) -> int:
    """Return for how many masked positions among `num_slots` to make room.

    Mean plus `sigmas` standard deviations of Binomial(num_slots, rate), rounded up to a multiple
    of 8, at most `num_slots`. With the default 5, one group in about a million overflows; the
    caller counts what does not fit.
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"rate={rate}; a masking rate lies between 0 and 1.")
    cap = num_slots * rate + sigmas * math.sqrt(num_slots * rate * (1.0 - rate))
    return min(num_slots, max(8, 8 * math.ceil(cap / 8)))


def gather_masked(selected_BL: Array, cap: int, num_groups: int) -> tuple[Array, Array]:
    """Return (index_GP int32, keep_GP bool): each group's first `cap` selected positions.

    A group is B / num_groups consecutive rows, an index one of its flattened slots; unused places
    hold index 0 and keep False. A batch sharded over its rows in `num_groups` shards needs no
    communication.
    Raises: ValueError if the rows do not divide into the groups.
    """
    rows, slots = selected_BL.shape
    if rows % num_groups:
        raise ValueError(
            f"{rows} rows do not divide into {num_groups} gather groups; "
            "choose a number of groups that divides the batch."
        )
    size = rows // num_groups * slots
    selected_GN = selected_BL.reshape(num_groups, size)
    place_GN = jnp.cumsum(selected_GN.astype(jnp.int32), axis=1) - 1
    place_GN = jnp.where(selected_GN, place_GN, cap)

    def scatter(place_N):
        slot_N = jnp.arange(size, dtype=jnp.int32)
        return jnp.zeros((cap,), jnp.int32).at[place_N].set(slot_N, mode="drop")

    index_GP = jax.vmap(scatter)(place_GN)
    keep_GP = jnp.arange(cap) < selected_GN.sum(axis=1, keepdims=True)
    return index_GP, keep_GP


def gather_slots(x_BLD: Array, index_GP: Array) -> Array:
    """Return the slots of `x_BLD` (or [B, L]) that `gather_masked` chose, as [G, P, ...]."""
    groups = index_GP.shape[0]
    x_GND = x_BLD.reshape(groups, -1, *x_BLD.shape[2:])
    index = index_GP.reshape(*index_GP.shape, *(1,) * (x_GND.ndim - 2))
    return jnp.take_along_axis(x_GND, index, axis=1)
