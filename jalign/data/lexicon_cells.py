"""The cells of sentence pairs, laid flat, and the position model of fast_align over them.

A cell is a source piece beside a target piece of the same pair. Letters: E pairs, R source pieces
and C target pieces of all pairs one after another, N cells (pair by pair, source piece by source
piece). Direction 0 generates target pieces from source pieces, direction 1 the other way; M is C or
R, the pieces that a direction generates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jalign.errors import BadData

MAX_TENSION = 30.0
_GOLDEN = (5**0.5 - 1) / 2
BLOCK_CELLS = 1 << 20  # what one step of the work holds in memory, at about 100 bytes a cell


class Pairs(NamedTuple):
    """Sentence pairs, flat: the piece ids of all source sides and of all target sides, and their
    lengths.
    """

    src_R: np.ndarray
    src_len_E: np.ndarray
    trg_C: np.ndarray
    trg_len_E: np.ndarray

    @classmethod
    def of(cls, src: Sequence[np.ndarray], trg: Sequence[np.ndarray]) -> Pairs:
        """Lay sentences flat, given one array of ids per side and pair.

        Raises: BadData where the sides differ in number.
        """
        if len(src) != len(trg):
            raise BadData(f"{len(src)} source and {len(trg)} target sides: need as many of each")
        none = np.zeros(0, np.int32)
        return cls(
            np.concatenate([none, *src]).astype(np.int32),
            np.array([len(ids) for ids in src], np.int64),
            np.concatenate([none, *trg]).astype(np.int32),
            np.array([len(ids) for ids in trg], np.int64),
        )

    def made(self, direction: int) -> np.ndarray:
        """Return the ids that a direction generates."""
        return self.src_R if direction else self.trg_C

    @property
    def num_cells_E(self) -> np.ndarray:
        """Count the cells of each pair."""
        return np.multiply(self.src_len_E, self.trg_len_E, dtype=np.int64)

    def blocks(self, max_cells: int | None = None) -> Iterator[tuple[int, Pairs]]:
        """Cut into runs of pairs of at most `max_cells` cells (default: BLOCK_CELLS), a larger pair
        alone; each with the number of its first pair.
        """
        max_cells = max_cells or BLOCK_CELLS
        cells, rows, cols = map(first_of, (self.num_cells_E, self.src_len_E, self.trg_len_E))
        begin, num = 0, len(self.src_len_E)
        while begin < num:
            end = int(np.searchsorted(cells, cells[begin] + max_cells, side="right")) - 1
            end = max(end, begin + 1)
            src, trg = slice(rows[begin], rows[end]), slice(cols[begin], cols[end])
            lengths = self.src_len_E[begin:end], self.trg_len_E[begin:end]
            yield begin, Pairs(self.src_R[src], lengths[0], self.trg_C[trg], lengths[1])
            begin = end


class Places(NamedTuple):
    """Where pieces stand: piece `number` (from 1) of `total`, facing a side of `among` pieces."""

    number: np.ndarray
    total: np.ndarray
    among: np.ndarray


class Cells(NamedTuple):
    """The cells of some pairs: their row and column in the flat sides, the distance |i/I - j/J|,
    and the places of the source and of the target pieces.
    """

    row_N: np.ndarray
    col_N: np.ndarray
    distance_N: np.ndarray
    src_R: Places
    trg_C: Places

    def made(self, direction: int) -> np.ndarray:
        """Return for each cell which piece it generates in this direction."""
        return self.row_N if direction else self.col_N

    def places(self, direction: int) -> Places:
        """Return the places of the pieces that a direction generates."""
        return self.src_R if direction else self.trg_C


def first_of(length_E: np.ndarray) -> np.ndarray:
    """Return where each run starts, and at last where the last one ends."""
    return np.concatenate([[0], np.cumsum(length_E, dtype=np.int64)])


def make_places(length_E: np.ndarray, other_E: np.ndarray) -> Places:
    """Return the places of all pieces of one side, given the lengths of this and the other side."""
    total = np.repeat(np.asarray(length_E, np.int64), length_E)
    number = np.arange(len(total)) - np.repeat(first_of(length_E)[:-1], length_E) + 1
    return Places(number, total, np.repeat(np.asarray(other_E, np.int64), length_E))


def make_cells(pairs: Pairs) -> Cells:
    """Lay out the cells of pairs; a pair with an empty side has none."""
    src_R = make_places(pairs.src_len_E, pairs.trg_len_E)
    trg_C = make_places(pairs.trg_len_E, pairs.src_len_E)
    row_N = np.repeat(np.arange(len(pairs.src_R)), src_R.among)
    first_R = np.repeat(first_of(pairs.trg_len_E)[:-1], pairs.src_len_E)
    col_N = np.take(first_R - first_of(src_R.among)[:-1], row_N)
    col_N += np.arange(len(row_N))
    distance_N = np.take((src_R.number / src_R.total).astype(np.float32), row_N)
    distance_N -= np.take((trg_C.number / trg_C.total).astype(np.float32), col_N)
    return Cells(row_N, col_N, np.abs(distance_N, out=distance_N), src_R, trg_C)


def cell_keys(pairs: Pairs, cells: Cells) -> np.ndarray:
    """Return `source id << 32 | target id` of every cell."""
    src_R, trg_C = pairs.src_R.astype(np.uint64), pairs.trg_C.astype(np.uint64)
    key_N = np.take(src_R << np.uint64(32), cells.row_N)
    key_N |= np.take(trg_C, cells.col_N)
    return key_N


def log_normaliser(places: Places, tension: float) -> np.ndarray:
    """Return the log of the sum over i = 1..I of exp(-tension |i/I - j/J|), for place j of J facing
    I pieces.

    Two geometric series, below and above j/J, so that the cost does not grow with I. float64.
    Source: Dyer et al. 2013, section 2.1.
    """
    among = np.maximum(places.among, 1)
    if not tension:
        return np.log(among)
    below = places.number * among // places.total  # in integers: no rounding where they meet
    gap = places.number * among / places.total - below
    step = tension / among
    total = np.exp(-step * gap) * np.expm1(-step * below)
    total += np.exp(-step * (1 - gap)) * np.expm1(-step * (among - below))
    return np.log(total / np.expm1(-step))


class TensionFit:
    """Fit the tension of one direction, from the lengths of the generated and the other sides."""

    def __init__(self, length_E: np.ndarray, other_E: np.ndarray):
        places = make_places(length_E, other_E)
        key_M = (places.total << 42) | (places.among << 21) | places.number
        key, self.number_M = distinct(key_M)
        low = (1 << 21) - 1
        self.places = Places(key & low, key >> 42, key >> 21 & low)

    def best(self, distance: float, mass_M: np.ndarray, start: float) -> float:
        """Maximise - tension * distance - sum of mass * log normaliser, which is concave, by golden
        section; where nothing better is found, keep `start`.
        """
        weight = np.bincount(self.number_M, mass_M)

        def value(tension: float) -> float:
            return -tension * distance - float(weight @ log_normaliser(self.places, tension))

        low, high = 0.0, MAX_TENSION
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        left_value, right_value = value(left), value(right)
        while high - low > 1e-3:
            if left_value > right_value:
                high, right, right_value = right, left, left_value
                left = high - _GOLDEN * (high - low)
                left_value = value(left)
            else:
                low, left, left_value = left, right, right_value
                right = low + _GOLDEN * (high - low)
                right_value = value(right)
        best = (low + high) / 2
        return best if value(best) > value(start) else start


class Posterior(NamedTuple):
    """How one direction explains the pieces that it generates: the share of each cell and of the
    empty word, 1 together for each piece, and the log-probability of the piece.
    """

    cell_N: np.ndarray
    null_M: np.ndarray
    log_M: np.ndarray


def posterior(
    t_N: np.ndarray,
    null_t_M: np.ndarray,
    cells: Cells,
    direction: int,
    *,
    tension: float,
    null: float,
) -> Posterior:
    """Share each generated piece out over the pieces of the other side and the empty word.

    `t_N` holds the lexical probability of each cell in this direction, `null_t_M` that of each
    piece from the empty word, `null` the probability of the empty word itself. Tension 0 makes all
    positions equal.
    Source: Dyer et al. 2013, section 2.
    """
    made_N = cells.made(direction)
    score_N = t_N
    if tension:
        score_N = cells.distance_N * np.float32(-tension)
        np.exp(score_N, out=score_N)
        score_N *= t_N
    # All is multiplied by the normaliser of the positions: a factor per piece instead of per cell.
    log_z_M = log_normaliser(cells.places(direction), tension) - np.log1p(-null)
    null_M = null * np.exp(log_z_M) * null_t_M
    total_M = np.bincount(made_N, score_N, len(null_t_M)) + null_M
    cell_N = score_N * np.take((1.0 / total_M).astype(np.float32), made_N)
    return Posterior(cell_N, null_M / total_M, np.log(total_M) - log_z_M)


def distinct(keys_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct keys in order, and of each cell the number of its key among them.

    np.unique with return_inverse, which takes three times as long.
    """
    order = np.argsort(keys_N)
    keys_N = keys_N[order]
    first_N = is_first(keys_N)
    number_N = np.empty(len(keys_N), np.int32)
    number_N[order] = np.cumsum(first_N, dtype=np.int32) - 1
    return keys_N[first_N], number_N


def is_first(keys: np.ndarray) -> np.ndarray:
    """Tell which of sorted keys differ from the one before."""
    first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return first
