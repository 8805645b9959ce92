"""Read the structure of packed rows: attention units, and means over them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jalign.types import Array, Batch


class Order(NamedTuple):
    """Who sees whom inside a unit: slot i sees slot j only where `key_BL[j] < query_BL[i]`."""

    key_BL: Array
    query_BL: Array

    def seen(self) -> Array:
        """Return which slot [B, L, ...] may see which [..., L]."""
        return self.key_BL[:, None, :] < self.query_BL[:, :, None]

    def with_self(self) -> Order:
        """Let every slot see itself, too."""
        return self._replace(query_BL=jnp.maximum(self.query_BL, self.key_BL + 1))


def reading_order(reads_BL: Array) -> Order:
    """Let the slots of `reads_BL` (bool) see the others of their unit and, of their own kind, those
    before them; let the others see each other.

    A slot that reads does not see itself. A unit needs a slot that does not read.
    """
    slot_L = jnp.arange(reads_BL.shape[1], dtype=jnp.int32)
    # Who does not read is level 0, which level 1 and more see; who reads is its slot + 1.
    key_BL = jnp.where(reads_BL, slot_L + 1, 0)
    return Order(key_BL, jnp.maximum(key_BL, 1))


def unit_ids(batch: Batch) -> Array:
    """Number the attention units of each row 1, 2, ... in order; padding is 0. Int32 [B, L].

    A unit starts where `position` is 0, which holds for every layout: a joint example counts on
    through its second side, separate sides start again.
    """
    real_BL = batch["example"] > 0
    start_BL = real_BL & (batch["position"] == 0)
    return jnp.cumsum(start_BL, axis=1, dtype=jnp.int32) * real_BL


def member_means(h_BLD: Array, member_BLK: Array) -> Array:
    """Average the hidden states of the members of each set (bool [B, L, K]): float32 [B, K, D],
    zeros for an empty set.
    """
    weight_BLK = member_BLK.astype(jnp.float32)
    # f32 and no bf16 passes: means of many bf16 states lose the differences that retrieval
    # compares, cosines of means decide links, and go over a temperature
    total_BKD = jnp.einsum(
        "BLK,BLD->BKD",
        weight_BLK,
        h_BLD.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    return total_BKD / jnp.maximum(weight_BLK.sum(axis=1), 1.0)[..., None]


def unit_means(h_BLD: Array, unit_BL: Array, num_units: int) -> Array:
    """Average the hidden states of each unit, its special tokens included: float32
    [B, num_units, D].

    Column u is unit u + 1; rows with fewer units give zeros there.
    """
    return member_means(h_BLD, unit_BL[..., None] == jnp.arange(1, num_units + 1))


def scatter_links(batch: Batch) -> Array:
    """Lay the batch's `links` [B, A, 2] (source slot, target slot, -1 padded) and `link_weight`
    [B, A] out as a matrix: float32 [B, L, L], 0 where there is no link.
    """
    rows, length = batch["ids"].shape
    src_BA, trg_BA = batch["links"][..., 0], batch["links"][..., 1]
    src_BA = jnp.where(src_BA < 0, length, src_BA)  # out of range: dropped
    row_BA = jnp.arange(rows)[:, None]
    empty_BLL = jnp.zeros((rows, length, length), jnp.float32)
    return empty_BLL.at[row_BA, src_BA, trg_BA].max(batch["link_weight"], mode="drop")


def sides_of(batch: Batch) -> Array:
    """Return the side of every slot of separate rows, special tokens with that of their sentence:
    1, 2, padding 0. Int32 [B, L].
    """
    side_BL, real_BL = batch["side"], batch["example"] > 0
    next_BL = jnp.pad(side_BL, ((0, 0), (0, 1)))[:, 1:]
    before_BL = jnp.pad(side_BL, ((0, 0), (1, 0)))[:, :-1]
    around_BL = jnp.where(batch["position"] == 0, next_BL, before_BL)
    return jnp.where(real_BL, jnp.where(side_BL > 0, side_BL, around_BL), 0)
