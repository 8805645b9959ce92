"""Read the structure of packed rows: attention units, and means over them."""

from __future__ import annotations

import jax.numpy as jnp

from jalign.types import Array, Batch


def unit_ids(batch: Batch) -> Array:
    """Number the attention units of each row 1, 2, ... in order; padding is 0. Int32 [B, L].

    A unit starts where `position` is 0, which holds for every layout: a joint example counts on
    through its second side, separate sides start again.
    """
    real_BL = batch["example"] > 0
    start_BL = real_BL & (batch["position"] == 0)
    return jnp.cumsum(start_BL, axis=1, dtype=jnp.int32) * real_BL


def unit_means(h_BLD: Array, unit_BL: Array, num_units: int) -> Array:
    """Average the hidden states of each unit, its special tokens included: float32
    [B, num_units, D].

    Column u is unit u + 1; rows with fewer units give zeros there.
    """
    member_BLU = (unit_BL[..., None] == jnp.arange(1, num_units + 1)).astype(jnp.float32)
    # f32: means of many bf16 states lose the differences that retrieval compares
    total_BUD = jnp.einsum("BLU,BLD->BUD", member_BLU, h_BLD.astype(jnp.float32))
    return total_BUD / jnp.maximum(member_BLU.sum(axis=1), 1.0)[..., None]
