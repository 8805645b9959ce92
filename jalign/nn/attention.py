"""Attend inside the units of packed rows.

A row holds many units (a sentence, or a joint pair): contiguous runs of one positive id.
A slot sees its own unit only.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jalign.types import Array, Key

IMPLS = ("auto", "dense", "banded", "cudnn", "splash")
BIG_NEGATIVE = -1e30


def choose_attention(
    platform: str, dtype, length: int, head_size: int, max_unit: int | None = None,
) -> str:
    """Name the implementation that "auto" takes for these shapes, for the log."""
    del platform, dtype, length, head_size, max_unit
    return "dense"


def packed_attention(
    q_BLHK: Array, k_BLHK: Array, v_BLHK: Array, unit_BL: Array, *, max_unit: int | None = None,
    impl: str = "auto", dropout_rate: float = 0.0, dropout_key: Key | None = None,
) -> Array:
    """Return softmax(q k^T / sqrt(K)) v inside the units of `unit_BL`, as [B, L, H, K]."""
    if impl not in IMPLS:
        raise ValueError(f"unknown attention {impl!r}; use one of {', '.join(IMPLS)}.")
    scale = q_BLHK.shape[-1] ** -0.5
    sim_BHLL = jnp.einsum("BLHK,BMHK->BHLM", q_BLHK, k_BLHK, preferred_element_type=jnp.float32)
    same_BLL = unit_BL[:, :, None] == unit_BL[:, None, :]
    prob_BHLL = jax.nn.softmax(jnp.where(same_BLL[:, None], sim_BHLL * scale, BIG_NEGATIVE))
    if dropout_rate > 0.0 and dropout_key is not None:
        bits = jax.random.bits(dropout_key, prob_BHLL.shape, jnp.uint16)
        keep = bits >= round(dropout_rate * 65536)
        prob_BHLL = jnp.where(keep, prob_BHLL / (1.0 - dropout_rate), 0.0)
    out = jnp.einsum("BHLM,BMHK->BLHK", prob_BHLL.astype(v_BLHK.dtype), v_BLHK)
    return lax.convert_element_type(out, q_BLHK.dtype)
