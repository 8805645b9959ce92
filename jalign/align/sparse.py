"""Sparse relatives of softmax: 1.5-entmax and sparsemax, masked, over one axis.

Both are max(x / c - t, 0)^p with the threshold t that makes the sum 1. The sum is convex and falls
in t, so Newton's method from the left end reaches t from below, without a sort (which is slow on
accelerators and slower on a CPU). Sources: Martins & Astudillo 2016; Peters et al. 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jalign.types import Array

# Each round of Newton's method on a convex function divides value x slope by 4 at least, so 32
# rounds are enough for float32 and a million entries; the loop ends when no threshold moves.
_ROUNDS = 32
_LOW = -1e30


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def entmax15(x: Array, mask: Array, axis: int = -1) -> Array:
    """Return the 1.5-entmax of the kept entries along an axis, float32; others get exactly 0."""
    gap = _gap(x.astype(jnp.float32) / 2.0, mask, axis)
    low = jnp.full_like(jnp.max(gap, axis=axis, keepdims=True), -1.0)

    def newton(low):
        over = jnp.maximum(gap - low, 0.0)
        slope = 2.0 * jnp.sum(over, axis=axis, keepdims=True)
        rise = jnp.sum(jnp.square(over), axis=axis, keepdims=True) - 1.0
        return low + jnp.maximum(rise, 0.0) / jnp.maximum(slope, 1e-6)

    low = _settle(newton, low)
    return jnp.where(mask, jnp.square(jnp.maximum(gap - low, 0.0)), 0.0)


@entmax15.defjvp
def _entmax15_jvp(axis, primals, tangents):
    x, mask = primals
    out = entmax15(x, mask, axis)
    root = jnp.sqrt(out)
    slope = root * tangents[0].astype(jnp.float32)
    total = jnp.maximum(jnp.sum(root, axis=axis, keepdims=True), 1e-6)
    return out, slope - root * jnp.sum(slope, axis=axis, keepdims=True) / total


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def sparsemax(x: Array, mask: Array, axis: int = -1) -> Array:
    """Return the Euclidean projection of the kept entries along an axis onto the simplex, float32;
    others get exactly 0.
    """
    gap = _gap(x.astype(jnp.float32), mask, axis)
    low = jnp.full_like(jnp.max(gap, axis=axis, keepdims=True), -1.0)

    def newton(low):
        kept = gap > low
        num = jnp.maximum(jnp.sum(kept, axis=axis, keepdims=True), 1)
        rise = jnp.sum(jnp.where(kept, gap - low, 0.0), axis=axis, keepdims=True) - 1.0
        return low + jnp.maximum(rise, 0.0) / num

    low = _settle(newton, low)
    return jnp.where(mask, jnp.maximum(gap - low, 0.0), 0.0)


@sparsemax.defjvp
def _sparsemax_jvp(axis, primals, tangents):
    x, mask = primals
    out = sparsemax(x, mask, axis)
    kept = out > 0
    slope = jnp.where(kept, tangents[0].astype(jnp.float32), 0.0)
    num = jnp.maximum(jnp.sum(kept, axis=axis, keepdims=True), 1)
    return out, jnp.where(kept, slope - jnp.sum(slope, axis=axis, keepdims=True) / num, 0.0)


def _settle(newton: Callable[[Array], Array], low: Array) -> Array:
    """Repeat a step until it changes nothing."""

    def moves(state):
        round_, before, low = state
        return (round_ < _ROUNDS) & jnp.any(before != low)

    def step(state):
        round_, _, low = state
        return round_ + 1, low, newton(low)

    return jax.lax.while_loop(moves, step, (1, low, newton(low)))[2]


def _gap(x: Array, mask: Array, axis: int) -> Array:
    """Return the distance of every kept entry to the largest, <= 0."""
    x = jnp.where(mask, x, _LOW)
    top = jnp.max(x, axis=axis, keepdims=True)
    return jnp.where(mask, x - top, _LOW)
