"""Shuffle and mix without state: the k-th draw is a pure function of (seed, k), in O(1) time and
memory.

In: sizes of the parts of a mixture. Out: for any window of draws, which example of which part.
There is no epoch buffer and no iterator to save, so the data cursor of a run is one integer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROUNDS = 6


def mix64(x: np.ndarray | int) -> np.ndarray:
    """Scramble 64-bit integers (the finaliser of splitmix64, Steele et al. 2014)."""
    x = np.asarray(x, np.uint64)
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def make_key(*parts: int | np.ndarray) -> np.ndarray:
    """Fold integers, or arrays of them, into one 64-bit key each."""
    key = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        for part in parts:
            key = mix64(key * np.uint64(3) + np.asarray(part).astype(np.uint64) + np.uint64(1))
    return key


def permute(index: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
    """Map each index to its place under the random permutation of `range(size)` that its key names.

    A Feistel network over the next power of four, walked until it lands inside (Black & Rogaway
    2002): a bijection for every key, evaluated at any point without ever holding the permutation.
    """
    half = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    key = np.broadcast_to(np.asarray(key, np.uint64), np.shape(index))
    out = np.asarray(index, np.uint64).copy()
    todo = np.arange(out.size)
    while todo.size:
        left, right = out[todo] >> half, out[todo] & low
        for r in range(ROUNDS):
            left, right = right, left ^ (make_key(key[todo], r, right) & low)
        out[todo] = (left << half) | right
        todo = todo[out[todo] >= np.uint64(size)]
    return out.astype(np.int64)


def temperature_weights(counts: np.ndarray, alpha: float) -> np.ndarray:
    """Return q_l proportional to p_l^alpha, p_l the share of counts (alpha 0.3: XLM-R; 0.7: XLM; 1:
    as they are).
    """
    counts = np.asarray(counts, np.float64)
    if counts.size == 0 or (counts <= 0).any():
        raise ValueError(
            f"every language or pair needs at least one example; got counts {counts.tolist()}"
        )
    q = (counts / counts.sum()) ** alpha
    return q / q.sum()


@dataclass(frozen=True)
class Mixture:
    """Parts with sizes and shares; `draws(k, n)` says what the draws [k, k + n) are.

    Each part is visited without replacement, in a new order each epoch; after n draws every part
    has had its share of n to within one draw. `salt` separates independent sequences under one
    seed.
    """

    sizes: tuple[int, ...]
    shares: tuple[float, ...]
    seed: int
    salt: int = 0

    def count_before(self, draw: int) -> np.ndarray:
        """Count how often each part was drawn before the given draw."""
        phase = (np.arange(len(self.sizes)) + 0.5) / len(self.sizes)
        before = np.floor(np.asarray(self.shares) * draw + phase) - np.floor(phase)
        return before.astype(np.int64)

    def draws(self, first: int, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (part, example) of the draws [first, first + num), grouped by part.

        Their number differs from `num` by less than the number of parts: shares are exact over
        time, not per call.
        """
        begin, end = self.count_before(first), self.count_before(first + num)
        parts, examples = [], []
        for part, size in enumerate(self.sizes):
            visit = np.arange(begin[part], end[part])
            key = make_key(self.seed, self.salt, part, visit // size)
            parts.append(np.full(visit.size, part, np.int32))
            examples.append(permute(visit % size, size, key))
        return np.concatenate(parts), np.concatenate(examples)
