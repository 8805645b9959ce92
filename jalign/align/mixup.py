"""Join packed pairs two by two into longer pairs: InfoXLM's mix-up contrast."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jalign.align.word_pairs import unit_sides
from jalign.types import Array, Batch, Key

FIELDS = ("ids", "example", "side", "position", "row")


def mix_up(batch: Batch, key: Key) -> Batch:
    """Join the pairs 2k - 1 and 2k of each row: their sources, and their targets, become one
    sentence each, in an order of its own for either side, drawn from `fold_in(key, row)`.

    Separate layout; of the fields only FIELDS. The second sentence loses its first special token,
    whose slot becomes padding; a last pair without a neighbour stays as it is.
    Source: Chi et al. 2021 (InfoXLM), 3.3, and the released code (methods.md 7.1). Differs: the
    joined pairs lie in one row, and may be of different languages.
    """
    example_BL, position_BL = batch["example"], batch["position"]
    rows, length = example_BL.shape
    real_BL = example_BL > 0
    side_BL = jnp.maximum(unit_sides(batch) - 1, 0)
    group_BL = jnp.maximum(example_BL - 1, 0) // 2
    has_partner_BL = group_BL * 2 + 2 <= example_BL.max(axis=1, keepdims=True)

    def coins(row: Array) -> Array:
        return jax.random.bernoulli(jax.random.fold_in(key, row), shape=(length,))

    flip_BL = jnp.take_along_axis(
        jax.vmap(coins)(batch["row"]), (group_BL * 2 + side_BL) % length, axis=1
    )
    second_BL = has_partner_BL & (((example_BL - 1) % 2 == 1) ^ flip_BL)
    keep_BL = real_BL & ~(second_BL & (position_BL == 0))
    slot_L = jnp.arange(length)
    place_BL = ((group_BL * 2 + side_BL) * 2 + second_BL) * length + slot_L
    order_BL = jnp.argsort(jnp.where(keep_BL, place_BL, 4 * length * length + slot_L), axis=1)

    def moved(x_BL: Array) -> Array:
        return jnp.take_along_axis(x_BL, order_BL, axis=1)

    keep_BL, unit_BL = moved(keep_BL), moved(group_BL * 2 + side_BL)
    starts_BL = jnp.pad(unit_BL[:, 1:] != unit_BL[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    start_BL = jax.lax.cummax(jnp.where(starts_BL, slot_L, 0), axis=1)
    return {
        "ids": moved(batch["ids"]),
        "example": jnp.where(keep_BL, moved(group_BL) + 1, 0),
        "side": jnp.where(keep_BL, moved(batch["side"]), 0),
        "position": jnp.where(keep_BL, slot_L - start_BL, 0),
        "row": batch["row"],
    }
