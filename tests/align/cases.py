"""Random pairs as single matrices, padded with holes, and packed into rows with special slots."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ROWS, COLS, LENGTH = 9, 11, 64


class Laid(NamedTuple):
    """Pairs laid into a batch: scores, real cells, and where the items of each pair lie."""

    score: np.ndarray
    pair: np.ndarray
    place: list[tuple[int, np.ndarray, np.ndarray]]
    example: np.ndarray | None = None
    side: np.ndarray | None = None

    def blocks(self, batched) -> list[np.ndarray]:
        """Cut the pairs out of a batch of matrices."""
        batched = np.asarray(batched)
        return [batched[b][np.ix_(src, trg)] for b, src, trg in self.place]

    def outside(self, batched) -> np.ndarray:
        """Return the cells that belong to no pair."""
        return np.asarray(batched)[~self.pair]


def random_pairs(seed: int, num: int = 6, coarse: bool = False) -> list[np.ndarray]:
    """Make float32 matrices of random sizes; `coarse` ones are full of ties."""
    rng = np.random.default_rng(seed)
    sizes = [(rng.integers(1, ROWS + 1), rng.integers(1, COLS + 1)) for _ in range(num)]
    if coarse:
        return [rng.choice([0.25, 0.5, 0.75], size).astype(np.float32) for size in sizes]
    return [rng.random(size).astype(np.float32) for size in sizes]


def padded(mats: list[np.ndarray], seed: int, junk: float = np.nan) -> Laid:
    """Lay one pair per row at random places, with junk in all other cells."""
    rng = np.random.default_rng(seed)
    score = np.full((len(mats), ROWS, COLS), junk, np.float32)
    pair = np.zeros(score.shape, bool)
    place = []
    for b, mat in enumerate(mats):
        src = np.sort(rng.permutation(ROWS)[: mat.shape[0]])
        trg = np.sort(rng.permutation(COLS)[: mat.shape[1]])
        score[b][np.ix_(src, trg)] = mat
        pair[b][np.ix_(src, trg)] = True
        place.append((b, src, trg))
    return Laid(score, pair, place)


def packed(mats: list[np.ndarray], seed: int, junk: float = np.nan) -> Laid:
    """Lay several pairs per row, special slots between the sides, sides in either order."""
    rng = np.random.default_rng(seed)
    rows = len(mats)  # more than needed: the last ones stay empty
    example, side = (np.zeros((rows, LENGTH), np.int32) for _ in range(2))
    score = np.full((rows, LENGTH, LENGTH), junk, np.float32)
    pair = np.zeros(score.shape, bool)
    place, row, at, number = [], 0, 0, 0
    for mat in mats:
        m, n = mat.shape
        if at + m + n + 3 > LENGTH:
            row, at, number = row + 1, 0, 0
        number += 1
        example[row, at : at + m + n + 3] = number
        first = at + 1
        src, trg = np.arange(first, first + m), np.arange(first + m + 1, first + m + 1 + n)
        if rng.random() < 0.5:
            trg, src = np.arange(first, first + n), np.arange(first + n + 1, first + n + 1 + m)
        side[row, src], side[row, trg] = 1, 2
        score[row][np.ix_(src, trg)] = mat
        pair[row][np.ix_(src, trg)] = True
        place.append((row, src, trg))
        at += m + n + 3
    return Laid(score, pair, place, example, side)


LAYOUTS = {"padded": padded, "packed": packed}
