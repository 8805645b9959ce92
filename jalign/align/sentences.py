"""Read the sentences of packed pairs in the separate layout: a vector for each side of each pair,
and numbers that tell equal texts.

Letters: E pairs of a row, T numbers of a text. All shapes are static; what is not a pair is masked.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jalign.align.contrast import Pairs
from jalign.align.word_pairs import unit_sides
from jalign.nn.packed import member_means
from jalign.types import Array, Batch

POOLS = ("cls", "mean")
SMALLEST = 6  # slots of a pair of one piece a side


class Sentences(NamedTuple):
    """The vectors of the pairs of each row and their texts, [B, E, ...]; `over` counts the pairs
    that `num` has no room for.
    """

    src_BED: Array
    trg_BED: Array
    keep_BE: Array
    text_BE2T: Array
    over: Array

    def pairs(self) -> Pairs:
        """Return all pairs of the batch."""
        flat = (x.reshape(-1, *x.shape[2:]) for x in self[:4])
        return Pairs(*flat)


def room(length: int, max_pairs: int) -> int:
    """Return how many pairs of a row get a vector: `max_pairs`, or for 0 all that a row of `length`
    slots can hold.
    """
    most = max(length // SMALLEST, 1)
    return min(max_pairs or most, most)


def sentence_vectors(h_BLD: Array, batch: Batch, num: int, *, pool: str) -> Sentences:
    """Take the state of the first token ("cls"), or average all states ("mean", special tokens
    included), of both sides of the first `num` pairs of each row: float32.

    Raises: ValueError for another pool.
    """
    if pool not in POOLS:
        raise ValueError(f"pool={pool!r}: need one of {', '.join(POOLS)}")
    side_BL, example_BL = unit_sides(batch), batch["example"]
    hash_BLT = _hashes(batch["ids"], batch["position"])
    of_BLE = example_BL[..., None] == jnp.arange(1, num + 1)
    found = []
    for side in (1, 2):
        member_BLE = of_BLE & (side_BL == side)[..., None]
        masked = jnp.where(member_BLE[..., None], hash_BLT[:, :, None], jnp.uint32(0))
        text_BET = masked.sum(axis=1, dtype=jnp.uint32)
        has_BE = member_BLE.any(axis=1)
        if pool == "cls":
            member_BLE &= (batch["position"] == 0)[..., None]
        found.append((member_means(h_BLD, member_BLE), has_BE, text_BET))
    (src_BED, has_src, src_text), (trg_BED, has_trg, trg_text) = found
    over = jnp.maximum(example_BL.max(axis=1) - num, 0).sum().astype(jnp.float32)
    return Sentences(
        src_BED, trg_BED, has_src & has_trg, jnp.stack([src_text, trg_text], axis=2), over
    )


def _hashes(ids_BL: Array, position_BL: Array) -> Array:
    """Number a token at a place, twice 32 bits: uint32 [B, L, 2]; texts have the sums."""
    x = ids_BL.astype(jnp.uint32) * jnp.uint32(0x9E3779B9)
    x = (x ^ (position_BL.astype(jnp.uint32) * jnp.uint32(0x85EBCA6B)))[..., None]
    x = x + jnp.array([0x243F6A88, 0xB7E15162], jnp.uint32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):  # a finaliser of good avalanche
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)
