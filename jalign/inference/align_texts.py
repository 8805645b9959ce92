"""Turn sentence pairs into items: words, their pieces, both sides framed, long pairs in windows.

A word is what stands between white space, and every word is tokenised by itself, as SimAlign,
awesome-align and XLM-Align do. A pair that exceeds the encoder becomes windows along the diagonal:
as many on one side as on the other, spread evenly, each at least a quarter into its neighbour.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from jalign.data.tokenizer import Tokenizer
from jalign.errors import ConfigError, UserError
from jalign.inference.plan import Items, ranges
from jalign.inference.texts import OVERLAP

OVERFLOW = ("window", "error", "skip")
UNITS = ("word", "char")
MOST_PIECES = 2048  # of a side in one window, whatever the encoder takes: cells grow as the square
SRC, TRG = 1, 2

# Scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, kana, Han.
_BLOCKS = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3005, 0x3007),
    (0x3040, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x20000, 0x3FFFD),
)
_UNSPACED = "".join(f"{chr(a)}-{chr(b)}" for a, b in _BLOCKS)
_MARKS = "".join(
    chr(c)
    for a, b in _BLOCKS[:6]
    for c in range(a, b + 1)
    if unicodedata.category(chr(c))[0] == "M"
)
_CHAR = re.compile(f"[{_UNSPACED}][{_MARKS}]*")
_LONG_RUN = re.compile(f"[{_UNSPACED}]{{13,}}")

Pair = tuple[str, str]


class PairTooLong(UserError):
    """Stop because of a pair longer than the encoder; `number` counts from 1."""

    def __init__(self, number: int, sizes: tuple[int, int], room: str, place: str = "") -> None:
        """Say which pair it is, how long, and what to type."""
        super().__init__(
            f"{place or f'pair {number}'} has {sizes[0]} and {sizes[1]} pieces, and this encoder "
            f"takes {room}; type on_overflow='window' (--on-overflow=window) to align it in "
            "overlapping windows, 'skip' to leave it without links, or split it."
        )
        self.number, self.sizes, self.room = number, sizes, room

    def at(self, place: str) -> PairTooLong:
        """Return the same error for a pair that came from `place`."""
        return PairTooLong(self.number, self.sizes, self.room, place)


class PairWindow(NamedTuple):
    """Pairs that are planned together, and how many came `before`."""

    pairs: list[Pair]
    before: int


class PairCut(NamedTuple):
    """Items made of pairs: item i holds the pieces [start[i, s], end[i, s]) of side s of `pair[i]`.

    `word`, `piece`: of every slot of the items, which word and which piece of its side it is (-1 on
    special tokens). `last`: of every item, the pieces of the pair's sides. `long` and `empty` name
    pairs: those longer than the encoder, and those with no word on one side.
    """

    items: Items
    pair: np.ndarray
    start: np.ndarray
    end: np.ndarray
    last: np.ndarray
    word: np.ndarray
    piece: np.ndarray
    num_pairs: int
    long: np.ndarray
    empty: np.ndarray


class Side(NamedTuple):
    """The pieces of one side of many pairs, flat: text i has [first[i], first[i + 1])."""

    first: np.ndarray
    ids: np.ndarray
    word: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Return the pieces of each text."""
        return np.diff(self.first)


def characters(text: str) -> str:
    """Put spaces around the characters of scripts that are written without any, so that each is a
    word; marks stay with the character that carries them.
    """
    return _CHAR.sub(r" \g<0> ", text)


def looks_unspaced(text: str) -> bool:
    """Say whether a "word" is a long run of a script that puts no spaces between words."""
    return _LONG_RUN.search(text) is not None


def pair_windows(pairs: Iterable[Pair], most: int, most_chars: int) -> Iterator[PairWindow]:
    """Group pairs: at most `most`, closed after `most_chars` characters.

    Raises: TypeError for what is no pair of texts.
    """
    window, chars = PairWindow([], 0), 0
    for number, pair in enumerate(pairs, 1):
        if not (len(pair) == 2 and all(isinstance(side, str) for side in pair)):
            raise TypeError(f"pair {number} is {pair!r:.60}, need two str")
        window.pairs.append((pair[0], pair[1]))
        chars += len(pair[0]) + len(pair[1])
        if len(window.pairs) == most or chars >= most_chars:
            yield window
            window, chars = PairWindow([], number), 0
    if window.pairs:
        yield window


def tokenise(tokenizer: Tokenizer, texts: list[str]) -> Side:
    """Encode every word of the texts by itself."""
    encoded = tokenizer.encode_words(texts)
    first = np.cumsum([0, *(ids.size for ids, _ in encoded)])
    flat = [np.concatenate([e[k] for e in encoded]) for k in (0, 1)]
    return Side(first, *flat)


def cut_pairs(
    sides: tuple[Side, Side],
    frame: tuple[int, int],
    *,
    positions: int,
    layout: str = "separate",
    on_overflow: str = "window",
    words: bool = False,
    before: int = 0,
) -> PairCut:
    """Make items of tokenised pairs; pairs with an empty side get none.

    In the items `pool` is 1 on the source, 2 on the target, 0 on special tokens; `words` adds the
    field `word` (counted from 1). `before`: pairs that came earlier, for the number in an error.
    Raises: PairTooLong; ConfigError where the encoder takes too little for any pair.
    """
    sizes_N2 = np.stack([side.sizes for side in sides], axis=1)
    separate = layout == "separate"
    room = min(positions, MOST_PIECES) - 2 if separate else min(positions, 2 * MOST_PIECES) - 3
    if room < 4:
        raise ConfigError(f"this encoder takes {positions} tokens; pairs need at least 8")
    full = (sizes_N2 > 0).all(axis=1)
    over = (sizes_N2 > room).any(1) if separate else sizes_N2.sum(1) > room
    over &= full
    if on_overflow == "error" and over.any():
        number = int(np.flatnonzero(over)[0])
        each = f"{room} on each side" if separate else f"{room} on both together"
        raise PairTooLong(before + number + 1, tuple(map(int, sizes_N2[number])), each)
    chosen = np.flatnonzero(full & ~over if on_overflow == "skip" else full)
    pair, start_I2, end_I2 = _windows(sizes_N2, chosen, room, layout)
    items, word, piece = _frame(sides, (pair, start_I2, end_I2), frame, layout, words)
    return PairCut(
        items, pair, start_I2, end_I2, sizes_N2[pair], word, piece, len(sizes_N2),
        np.flatnonzero(over), np.flatnonzero(~full),
    )  # fmt: skip


def _windows(
    sizes_N2: np.ndarray, chosen: np.ndarray, room: int, layout: str
) -> tuple[np.ndarray, ...]:
    """Return pair, first piece and end of every window."""
    sizes_C2 = sizes_N2[chosen]
    size_C2 = np.minimum(sizes_C2, room)
    if layout == "joint":
        # to each side its share of the room, at least a quarter; what one leaves, the other takes
        share_C = room * sizes_C2[:, 1] // np.maximum(sizes_C2.sum(1), 1)
        trg_C = np.minimum(sizes_C2[:, 1], np.clip(share_C, room // 4, room - room // 4))
        src_C = np.minimum(sizes_C2[:, 0], room - trg_C)
        size_C2 = np.stack([src_C, np.minimum(sizes_C2[:, 1], room - src_C)], axis=1)
    step_C2 = np.maximum(size_C2 - size_C2 // OVERLAP, 1)
    num_C = 1 + np.max(-(-(sizes_C2 - size_C2) // step_C2), axis=1, initial=0)
    at = np.repeat(np.arange(chosen.size), num_C)
    index = np.arange(at.size) - np.repeat(np.cumsum(num_C) - num_C, num_C)
    rest_I2 = sizes_C2[at] - size_C2[at]
    start_I2 = index[:, None] * rest_I2 // np.maximum(num_C[at] - 1, 1)[:, None]
    return chosen[at], start_I2, start_I2 + size_C2[at]


def _frame(
    sides: tuple[Side, Side],
    windows: tuple[np.ndarray, ...],
    frame: tuple[int, int],
    layout: str,
    words: bool,
) -> tuple[Items, np.ndarray, np.ndarray]:
    """Lay the windows out: `<s> src </s> <s> trg </s>`, or `<s> src </s> trg </s>` if joint."""
    pair, start_I2, end_I2 = windows
    size_I2 = end_I2 - start_I2
    between = 2 if layout == "separate" else 1
    lengths = size_I2.sum(1) + 2 + between
    first = np.concatenate([[0], np.cumsum(lengths)])
    trg_at = first[:-1] + 1 + size_I2[:, 0] + between
    ids = np.full(first[-1], frame[1], np.int32)
    ids[first[:-1]] = frame[0]
    pool, word, piece = np.zeros_like(ids), np.full_like(ids, -1), np.full_like(ids, -1)
    position = (np.arange(ids.size) - np.repeat(first[:-1], lengths)).astype(np.int32)
    unit = np.ones_like(ids)
    for s, at in enumerate((first[:-1] + 1, trg_at)):
        slots = ranges(at, size_I2[:, s])
        tokens = ranges(sides[s].first[pair] + start_I2[:, s], size_I2[:, s])
        ids[slots], word[slots] = sides[s].ids[tokens], sides[s].word[tokens]
        pool[slots], piece[slots] = s + SRC, ranges(start_I2[:, s], size_I2[:, s])
    if layout == "separate":
        ids[trg_at - 1] = frame[0]
        slots = ranges(trg_at - 1, size_I2[:, 1] + 2)
        position[slots] = ranges(np.zeros_like(trg_at), size_I2[:, 1] + 2)
        unit[slots] = 2
    more = {"word": word + 1} if words else {}
    return Items(first, ids, position, unit, pool, 2, more), word, piece
