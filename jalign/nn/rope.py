"""Turn queries and keys by their position: rotary position embeddings (RoPE).

The halves of a head are the two coordinates, as in Hugging Face: number i and i + K / 2 turn
together, by position x theta^(-2 i / K).
Source: Su et al. 2021 (RoFormer), section 3.4.2; its pairs are neighbours, 2 i and 2 i + 1.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jalign.types import Array


def turns(position_BL: Array, theta: float, head_size: int) -> Array:
    """Return cosine and sine of every angle: float32 [2, B, L, K / 2]."""
    frequency_K = theta ** -(np.arange(0, head_size, 2) / head_size)
    # f32: a bf16 angle is off by whole turns after some hundred positions
    angle_BLK = position_BL[..., None].astype(jnp.float32) * frequency_K.astype(np.float32)
    return jnp.stack([jnp.cos(angle_BLK), jnp.sin(angle_BLK)])


def turn(x_BLTHK: Array, turns_2BLK: Array) -> Array:
    """Turn T things of H heads (queries and keys); float32 inside, the result has x's dtype."""
    cos_BL11K, sin_BL11K = turns_2BLK[:, :, :, None, None]
    x, y = jnp.split(x_BLTHK.astype(jnp.float32), 2, axis=-1)
    turned = [x * cos_BL11K - y * sin_BL11K, y * cos_BL11K + x * sin_BL11K]
    return jnp.concatenate(turned, axis=-1).astype(x_BLTHK.dtype)
