"""Go from pieces to words: word vectors before the comparison, or word links after it.

Letters: W words of a row. A word is a run of slots with one word id; special tokens and padding
have none. Vectors are made on the device, lists of links on the host.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jalign.nn.packed import member_means
from jalign.types import Array, Batch

POOLS = ("mean", "first", "last")


class Words(NamedTuple):
    """The words of each row in order: of every slot the index of its word in the row (-1 for
    none); of every word its example, side and index within the side (example 0, side 0 and -1
    where a row has fewer words).
    """

    slot_BL: Array
    example_BW: Array
    side_BW: Array
    word_BW: Array


def number_words(batch: Batch, num_words: int) -> Words:
    """Number the words of packed rows through from 0; `num_words` must not be less than the words
    of any row (the length of the rows always suffices).
    """
    side_BL, word_BL = batch["side"], batch["word"]
    real_BL = (batch["example"] > 0) & (side_BL > 0) & (word_BL >= 0)
    fields = [jnp.where(real_BL, batch[name], 0) for name in ("example", "side", "word")]
    same_BL = jnp.roll(real_BL, 1, axis=1)
    for field_BL in fields:
        same_BL &= field_BL == jnp.roll(field_BL, 1, axis=1)
    start_BL = real_BL & ~same_BL.at[:, 0].set(False)
    slot_BL = jnp.where(real_BL, jnp.cumsum(start_BL, axis=1) - 1, -1)
    member_BLW = slot_BL[..., None] == jnp.arange(num_words)
    example_BW, side_BW, word_BW = (
        jnp.max(jnp.where(member_BLW, field_BL[..., None], low), axis=1)
        for field_BL, low in zip(fields, (0, 0, -1), strict=True)
    )
    return Words(slot_BL, example_BW, side_BW, word_BW)


def word_vectors(h_BLD: Array, word_BL: Array, num_words: int, *, pool: str = "mean") -> Array:
    """Return one vector per word, its pieces' mean, first or last: float32 [B, W, D], 0 for
    missing words.

    `word_BL` is the index of each slot's word in its row, -1 for none: `Words.slot_BL`, or for one
    side of a pair per row the word ids as they are.
    Raises: ValueError for another pool.
    Source: SimAlign `word` (mean), Wu & Dredze 2020 (first), WordOT (last).
    """
    if pool not in POOLS:
        raise ValueError(f"pool={pool!r}: need one of {', '.join(POOLS)}")
    member_BLW = word_BL[..., None] == jnp.arange(num_words)
    if pool == "first":
        member_BLW &= jnp.cumsum(member_BLW, axis=1) == 1
    elif pool == "last":
        member_BLW &= jnp.cumsum(member_BLW[:, ::-1], axis=1)[:, ::-1] == 1
    return member_means(h_BLD, member_BLW)


class WordLinks(NamedTuple):
    """The links of one pair, sorted: `pairs_A2` (source word, target word), `score_A` or None."""

    pairs_A2: np.ndarray
    score_A: np.ndarray | None


def word_links(
    links_BIJ: np.ndarray,
    src_word_BI: np.ndarray,
    trg_word_BJ: np.ndarray,
    score_BIJ: np.ndarray | None = None,
) -> list[WordLinks]:
    """List the word links of padded pairs: two words align where any of their pieces do, with the
    best score of the aligned pieces. On the host.

    Source: awesome-align and SimAlign `bpe`, which agree.
    """
    links_BIJ = np.asarray(links_BIJ)
    row, src, trg = np.nonzero(links_BIJ)
    score = None if score_BIJ is None else np.asarray(score_BIJ)[row, src, trg]
    words = np.asarray(src_word_BI)[row, src], np.asarray(trg_word_BJ)[row, trg]
    return _grouped(row, words, score, len(links_BIJ))


def row_word_links(
    links_BLL: np.ndarray,
    example_BL: np.ndarray,
    word_BL: np.ndarray,
    score_BLL: np.ndarray | None = None,
) -> list[list[WordLinks]]:
    """List the word links of packed rows: for every row one entry per example, in order.

    `word_BL` holds indices within the side, as in the packed batch. Otherwise as `word_links`.
    """
    example_BL, word_BL = np.asarray(example_BL), np.asarray(word_BL)
    row, src, trg = np.nonzero(np.asarray(links_BLL))
    score = None if score_BLL is None else np.asarray(score_BLL)[row, src, trg]
    count_B = example_BL.max(axis=1)
    begin_B = np.concatenate([[0], np.cumsum(count_B)])
    group = begin_B[row] + example_BL[row, src] - 1
    words = word_BL[row, src], word_BL[row, trg]
    flat = _grouped(group, words, score, int(begin_B[-1]))
    return [flat[a:b] for a, b in zip(begin_B, begin_B[1:], strict=False)]


def _grouped(
    group: np.ndarray,
    words: tuple[np.ndarray, np.ndarray],
    score: np.ndarray | None,
    num_groups: int,
) -> list[WordLinks]:
    """Sort (group, source word, target word), drop repeats, and cut at the groups."""
    src, trg = (word.astype(np.int64) for word in words)
    num_trg = int(trg.max(initial=0)) + 1
    num_src = int(src.max(initial=0)) + 1
    key = (group.astype(np.int64) * num_src + src) * num_trg + trg
    order = np.argsort(key, kind="stable")
    key, first = np.unique(key[order], return_index=True)
    pairs_A2 = np.stack([key // num_trg % num_src, key % num_trg], axis=1)
    cuts = np.searchsorted(key // (num_trg * num_src), np.arange(1, num_groups))
    parts = np.split(pairs_A2, cuts)[:num_groups]
    if score is None:
        return [WordLinks(part, None) for part in parts]
    best = np.maximum.reduceat(score[order], first) if len(first) else score
    return [WordLinks(*part) for part in zip(parts, np.split(best, cuts)[:num_groups], strict=True)]
