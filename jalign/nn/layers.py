"""Layers that the encoders share: dense with logical axes, layer norm, and a cheap dropout."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from jalign.nn.dropout import keep_factor
from jalign.types import Array, Key

INIT_STD = 0.02


def sharded(init, *axes: str | None):
    """Attach logical axis names to an initialiser; `train/mesh.py` maps them to the mesh."""
    return nn.with_logical_partitioning(init, axes)


class Dense(nn.Module):
    """Multiply the last axis by a kernel [in, *out] and add a bias, computed in `dtype`."""

    out: Sequence[int]
    axes: Sequence[str | None]
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return [..., *out]."""
        out, axes = tuple(self.out), tuple(self.axes)
        init = sharded(nn.initializers.normal(INIT_STD), *axes)
        kernel = self.param("kernel", init, (x.shape[-1], *out), jnp.float32).astype(self.dtype)
        y = jnp.tensordot(x.astype(self.dtype), kernel, axes=1)
        if self.use_bias:
            bias = self.param("bias", sharded(nn.initializers.zeros, *axes[1:]), out, jnp.float32)
            y += bias.astype(self.dtype)
        return y


class LayerNorm(nn.Module):
    """Normalise the last axis; statistics in float32 by two passes, as PyTorch does."""

    epsilon: float
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return x normalised, scaled and shifted, in `dtype`."""
        size = x.shape[-1:]
        scale = self.param("scale", sharded(nn.initializers.ones, "norm"), size, jnp.float32)
        bias = 0.0
        if self.use_bias:
            bias = self.param("bias", sharded(nn.initializers.zeros, "norm"), size, jnp.float32)
        x = x.astype(jnp.float32)
        x -= x.mean(-1, keepdims=True)
        y = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        return (y * scale + bias).astype(self.dtype)


def look_up(*lookups: tuple[Array, Array]) -> Array:
    """Return the sum [N, D] of rows of embedding tables, each (table [V, D], index [N]), which are
    sharded over their columns.

    Each shard looks up its own columns for the slots of all shards of a table, and the states are
    exchanged: N x D numbers cross the network, forwards and backwards, where gathering a table
    moves V x D, and its gradient twice that, however small the batch. (A tensor axis still gathers
    and sums up the columns of its rows.) Without a constraint on the indices the compiler does
    gather the table from 256 chips on.
    """
    h_ND = sum(
        nn.with_logical_constraint(
            jnp.take(table_VD, nn.with_logical_constraint(index_N, ("replica",)), axis=0),
            ("replica", "embed"),
        )
        for table_VD, index_N in lookups
    )
    return nn.with_logical_constraint(h_ND, ("batch", None))


def dropout(x: Array, rate: float, key: Key | None) -> Array:
    """Zero each entry with `rate` and scale the rest; `key=None` or rate 0 returns x."""
    if key is None or rate == 0.0:
        return x
    return (x * keep_factor(key, x.shape, rate)).astype(x.dtype)
