"""Compute the cross-entropy over a large vocabulary, and gather the positions that need it.

Only masked positions meet the vocabulary (`gather_masked`, `gather_slots`), and
`vocab_cross_entropy` walks through the vocabulary in chunks, so that no [positions, vocabulary]
array need exist.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jalign.types import Array

METHODS = ("auto", "dense", "chunked")


def vocab_cross_entropy(
    h_ND: Array, table_VD: Array, bias_V: Array, target_N: Array, *, method: str = "auto",
    chunk: int = 8192,
) -> tuple[Array, Array]:
    """Return (nll_N float32, correct_N bool) of a softmax over the rows of `table_VD`.

    logits = h table^T + bias, in float32 whatever the inputs' dtype. `correct_N` says that no
    logit is larger than the target's. Differentiable in `h_ND`, `table_VD` and `bias_V`, for any cotangent of `nll_N`.
    Raises: ValueError if `method` is unknown or `chunk` < 1.
    """
    if method not in METHODS:
        raise ValueError(f"unknown vocabulary loss {method!r}; use one of {', '.join(METHODS)}.")
    if chunk < 1:
        raise ValueError(f"chunk={chunk}; the vocabulary needs chunks of at least 1 row.")
    if method == "dense":
        return _dense(h_ND, table_VD, bias_V, target_N)
    return _chunked(h_ND, table_VD, bias_V, target_N, min(chunk, table_VD.shape[0]))


def _logits(h_ND: Array, table_CD: Array, bias_C: Array) -> Array:
    # f32: the softmax over up to 250,002 words loses its small terms in bf16
    logits_NC = jnp.einsum("ND,CD->NC", h_ND, table_CD, preferred_element_type=jnp.float32)
    return logits_NC + bias_C.astype(jnp.float32)


def _dense(h_ND: Array, table_VD: Array, bias_V: Array, target_N: Array) -> tuple[Array, Array]:
    logits_NV = _logits(h_ND, table_VD, bias_V)
    hit_N = jnp.take_along_axis(logits_NV, target_N[:, None], axis=1)[:, 0]
    nll_N = jax.nn.logsumexp(logits_NV, axis=1) - hit_N
    return nll_N, lax.stop_gradient(hit_N >= logits_NV.max(axis=1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _chunked(h_ND, table_VD, bias_V, target_N, chunk):
    return _chunked_fwd(h_ND, table_VD, bias_V, target_N, chunk)[0]


def _over_chunks(body, carry, size: int, chunk: int):
    """Run `body(carry, start, length)` over [0, size) by `chunk`, with a shorter last piece."""
    full = size // chunk
    carry = lax.fori_loop(0, full, lambda i, c: body(c, i * chunk, chunk), carry)
    return body(carry, full * chunk, size - full * chunk) if size % chunk else carry


def _chunked_fwd(h_ND, table_VD, bias_V, target_N, chunk):
    num, vocab = h_ND.shape[0], table_VD.shape[0]

    def body(carry, start, length):
        top_N, sum_N, hit_N = carry
        table_CD = lax.dynamic_slice_in_dim(table_VD, start, length)
        logits_NC = _logits(h_ND, table_CD, lax.dynamic_slice_in_dim(bias_V, start, length))
        new_N = jnp.maximum(top_N, logits_NC.max(axis=1))
        part_N = jnp.exp(logits_NC - new_N[:, None]).sum(axis=1)
        at_N = target_N - start
        here_N = (at_N >= 0) & (at_N < length)
        at_N = jnp.clip(at_N, 0, length - 1)
        found_N = jnp.take_along_axis(logits_NC, at_N[:, None], axis=1)[:, 0]
        sum_N = sum_N * jnp.exp(top_N - new_N) + part_N
        return new_N, sum_N, jnp.where(here_N, found_N, hit_N)

    low_N = jnp.full((num,), jnp.finfo(jnp.float32).min, jnp.float32)
    zero_N = jnp.zeros((num,), jnp.float32)
    top_N, sum_N, hit_N = _over_chunks(body, (low_N, zero_N, zero_N), vocab, chunk)
    lse_N = jnp.log(sum_N) + top_N
    return (lse_N - hit_N, hit_N >= top_N), (h_ND, table_VD, bias_V, target_N, lse_N)


def _chunked_bwd(chunk, saved, cotangents):
    h_ND, table_VD, bias_V, target_N, lse_N = saved
    g_N = cotangents[0]

    def body(carry, start, length):
        dh_ND, dtable_VD, dbias_V = carry
        table_CD = lax.dynamic_slice_in_dim(table_VD, start, length)
        logits_NC = _logits(h_ND, table_CD, lax.dynamic_slice_in_dim(bias_V, start, length))
        hot_NC = (target_N - start)[:, None] == jnp.arange(length)
        d_NC = (jnp.exp(logits_NC - lse_N[:, None]) - hot_NC) * g_N[:, None]
        d_low_NC = d_NC.astype(table_VD.dtype)
        dh_ND += jnp.einsum("NC,CD->ND", d_low_NC, table_CD, preferred_element_type=jnp.float32)
        dtable_CD = jnp.einsum("NC,ND->CD", d_low_NC, h_ND, preferred_element_type=jnp.float32)
        dtable_VD = lax.dynamic_update_slice_in_dim(
            dtable_VD, dtable_CD.astype(table_VD.dtype), start, 0)
        dbias_V = lax.dynamic_update_slice_in_dim(
            dbias_V, d_NC.sum(axis=0).astype(bias_V.dtype), start, 0)
        return dh_ND, dtable_VD, dbias_V

    carry = (jnp.zeros(h_ND.shape, jnp.float32), jnp.zeros_like(table_VD), jnp.zeros_like(bias_V))
    dh_ND, dtable_VD, dbias_V = _over_chunks(body, carry, table_VD.shape[0], chunk)
    return dh_ND.astype(h_ND.dtype), dtable_VD, dbias_V, None


_chunked.defvjp(_chunked_fwd, _chunked_bwd)


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
    hold index 0 and keep False. A batch sharded over its rows in `num_groups` shards needs no communication.
    Raises: ValueError if the rows do not divide into the groups.
    """
    rows, slots = selected_BL.shape
    if rows % num_groups:
        raise ValueError(f"{rows} rows do not divide into {num_groups} gather groups; "
                         "choose a number of groups that divides the batch.")
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
