"""Make word pairs of the links that packed rows carry, and filter them, on the device.

A word stands at the slot of its first piece; a special token stands for itself. All shapes are
static; what is not a word or a pair is masked. (`align/words.py` numbers words instead.)
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jalign.align import words as numbered
from jalign.types import Array, Batch

POOLS = (*numbered.POOLS, "piece")


class Words(NamedTuple):
    """The first and the last slot of the word of each slot, and where words stand, [B, L] each.

    `side_BL` is 1 or 2 on every slot of a unit of that side, its special tokens included; 0 on
    padding.
    """

    first_BL: Array
    last_BL: Array
    is_word_BL: Array
    side_BL: Array


class WordPairs(NamedTuple):
    """Pairs of words by their first slots, [B, A] each; `keep_BA` says which are pairs at all."""

    src_BA: Array
    trg_BA: Array
    keep_BA: Array


def read_words(batch: Batch, *, pool: str = "mean") -> Words:
    """Find the words of rows; with `pool` "piece" every piece is a word.

    Raises: ValueError for another pool.
    """
    if pool not in POOLS:
        raise ValueError(f"pool={pool!r}: need one of {', '.join(POOLS)}")
    side_BL, length = batch["side"], batch["ids"].shape[1]
    same_BL = (side_BL > 0) & jnp.bool_(pool != "piece")
    for name in ("word", "side", "example"):
        same_BL &= batch[name] == _before(batch[name], -2)
    slot_L = jnp.arange(length, dtype=jnp.int32)
    first_BL = jax.lax.cummax(jnp.where(same_BL, 0, slot_L), axis=1)
    # a word ends where the next slot starts another
    ends_BL = ~_after(same_BL, False)
    last_BL = jax.lax.cummin(jnp.where(ends_BL, slot_L, length), axis=1, reverse=True)
    return Words(first_BL, last_BL, (side_BL > 0) & ~same_BL, unit_sides(batch))


def unit_sides(batch: Batch) -> Array:
    """Return `side` with the special tokens of a unit counted to the side that they frame.

    In the joint layout the separator counts to the source, whose end it is.
    """
    side_BL = batch["side"]
    frames_BL = (batch["example"] > 0) & (side_BL == 0)
    neighbour_BL = jnp.where(batch["position"] == 0, _after(side_BL, 0), _before(side_BL, 0))
    return jnp.where(frames_BL, neighbour_BL, side_BL)


def word_vectors(h_BLD: Array, words: Words, *, pool: str = "mean") -> Array:
    """Return the vector of the word of each slot: float32 [B, L, D]; special tokens keep theirs.

    The mean of its pieces, its first or last piece; with "piece" the states as they are.
    """
    if pool == "piece":
        return h_BLD.astype(jnp.float32)  # f32: differences of states are squared
    slot_L = jnp.arange(h_BLD.shape[1])
    number_BL = jnp.cumsum(words.first_BL == slot_L, axis=1) - 1
    vector_BWD = numbered.word_vectors(h_BLD, number_BL, h_BLD.shape[1], pool=pool)
    return jnp.take_along_axis(vector_BWD, number_BL[..., None], axis=1)


def linked_words(batch: Batch, words: Words, *, min_weight: float = 0.0) -> WordPairs:
    """Bring `links` between pieces to the words that these belong to.

    Only links with a weight above 0, and of at least `min_weight`, are pairs.
    """
    links_BA2 = batch["links"]
    keep_BA = (links_BA2 >= 0).all(axis=2) & (batch["link_weight"] > 0)
    keep_BA &= batch["link_weight"] >= min_weight
    src_BA, trg_BA = (_look_up(words.first_BL, links_BA2[..., k]) for k in (0, 1))
    return WordPairs(src_BA, trg_BA, keep_BA)


def distinct_pairs(pairs: WordPairs) -> WordPairs:
    """Keep each pair once, the first time: several links of pieces may join the same words."""
    both_BAA = _same(pairs.src_BA) & _same(pairs.trg_BA) & pairs.keep_BA[:, None, :]
    num = both_BAA.shape[1]
    earlier_AA = jnp.arange(num)[None, :] < jnp.arange(num)[:, None]
    return pairs._replace(keep_BA=pairs.keep_BA & ~(both_BAA & earlier_AA).any(axis=2))


def one_to_one(pairs: WordPairs) -> WordPairs:
    """Drop every word that occurs in more than one pair, with all its pairs.

    Source: Cao et al. 2020 and the released code of Efimov et al. 2022.
    """
    one_BAA = _same(pairs.src_BA) ^ _same(pairs.trg_BA)  # they share one word, not both
    return pairs._replace(
        keep_BA=pairs.keep_BA & ~(one_BAA & pairs.keep_BA[:, None, :]).any(axis=2)
    )


def same_pieces(batch: Batch, words: Words, pairs: WordPairs) -> Array:
    """Tell which pairs join words of the same pieces, such as names and numbers: bool [B, A]."""
    size_BA = [_look_up(words.last_BL, at_BA) - at_BA for at_BA in pairs[:2]]
    last_BA = jnp.minimum(*size_BA)
    longest = jnp.where(pairs.keep_BA, last_BA, 0).max(initial=0)

    def compare(k, same_BA):
        ids = [_look_up(batch["ids"], at_BA + k) for at_BA in pairs[:2]]
        return same_BA & ((ids[0] == ids[1]) | (k > last_BA))

    same_BA = size_BA[0] == size_BA[1]
    return jax.lax.fori_loop(0, longest + 1, compare, same_BA)


def frame_pairs(batch: Batch, words: Words) -> WordPairs:
    """Pair the first special tokens of the two sides of each example, and the last ones.

    For the separate layout, whose examples have four special tokens each: [B, L // 4 * 2] pairs.
    """
    is_special_BL = (batch["example"] > 0) & (batch["side"] == 0)
    rows, length = is_special_BL.shape
    order_BL = jnp.argsort(~is_special_BL, axis=1, stable=True).astype(jnp.int32)
    slot_BE4 = order_BL[:, : length // 4 * 4].reshape(rows, -1, 4)
    first_BA, second_BA = (slot_BE4[:, :, k : k + 2].reshape(rows, -1) for k in (0, 2))
    keep_BA = _look_up(is_special_BL, first_BA) & _look_up(is_special_BL, second_BA)
    swapped_BA = _look_up(words.side_BL, first_BA) == 2  # the target side may lie first
    src_BA = jnp.where(swapped_BA, second_BA, first_BA)
    return WordPairs(src_BA, jnp.where(swapped_BA, first_BA, second_BA), keep_BA)


def join_pairs(*several: WordPairs) -> WordPairs:
    """Put sets of pairs side by side."""
    return WordPairs(*(jnp.concatenate(x, axis=1) for x in zip(*several, strict=True)))


def pick(x_BL: Array, pairs: WordPairs) -> tuple[Array, Array]:
    """Return what stands at the two words of each pair: [B, A, ...] each."""
    return _look_up(x_BL, pairs.src_BA), _look_up(x_BL, pairs.trg_BA)


def example_has(flag_BL: Array, batch: Batch) -> Array:
    """Tell for every slot whether the flag holds at any slot of its example; False on padding."""
    example_BL = batch["example"]
    same_BLM = (example_BL[:, :, None] == example_BL[:, None, :]) & (example_BL[:, :, None] > 0)
    return (same_BLM & flag_BL[:, None, :]).any(axis=2)


def mark(slot_BA: Array, keep_BA: Array, length: int) -> Array:
    """Lay kept slots out as flags of a row: bool [B, L]."""
    return ((slot_BA[:, :, None] == jnp.arange(length)) & keep_BA[:, :, None]).any(axis=1)


def _same(x_BA: Array) -> Array:
    return x_BA[:, :, None] == x_BA[:, None, :]


def _look_up(x_BL: Array, slot_BA: Array) -> Array:
    """Return x at slots; those outside the row give what is at its edge, for the mask to hide."""
    at = jnp.clip(slot_BA, 0, x_BL.shape[1] - 1)
    return jnp.take_along_axis(x_BL, at.reshape(*at.shape, *(1,) * (x_BL.ndim - 2)), axis=1)


def _before(x_BL: Array, edge: int) -> Array:
    return jnp.pad(x_BL[:, :-1], ((0, 0), (1, 0)), constant_values=edge)


def _after(x_BL: Array, edge: int | bool) -> Array:
    return jnp.pad(x_BL[:, 1:], ((0, 0), (0, 1)), constant_values=edge)
