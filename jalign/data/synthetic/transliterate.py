"""Derive a language that writes every word with other ids: id -> id + V, after cutting into pieces.

The original's partial overlap has two bugs, which are not reproduced. Its file of unshifted ids is
drawn with replacement, so that fV draws give only (1 - (1 - 1/V)^(fV)) V different ids: 22.1 % of
the vocabulary for "25 %", 39.4 % for "50 %". And its seed is assigned to `np.random.seed` instead
of being passed to it, so that the file cannot be made again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jalign.data.synthetic.base import Transformation
from jalign.data.synthetic.order import Order, identity
from jalign.errors import ConfigError


@dataclass(frozen=True)
class Transliteration(Transformation):
    """Shift ids by the size of the vocabulary; the model's vocabulary is `derived_vocab_size`.

    `special_ids` are never shifted: those around sentences, padding and the mask. (unk is a word
    like any other: the authors shift it, and a derived language without its own would share it.)
    `overlap` of the vocabulary is not shifted either: exactly round(overlap x V) ids that are not
    special, drawn without replacement from `seed`, or all there are.
    Source: methods.md 2.5.
    """

    vocab_size: int
    special_ids: tuple[int, ...]
    overlap: float = 0.0
    seed: int = 0

    def __post_init__(self):
        if self.vocab_size < 1 or not 0 <= self.overlap <= 1:
            raise ConfigError(
                f"vocab_size={self.vocab_size} and overlap={self.overlap}: need a vocabulary and "
                "an overlap from 0 to 1."
            )
        outside = [i for i in self.special_ids if not 0 <= i < self.vocab_size]
        if outside:
            raise ConfigError(f"special_ids {outside} are not below vocab_size={self.vocab_size}.")

    @property
    def derived_vocab_size(self) -> int:
        """Return 2V: rows for both languages; those of unshifted ids stay unused."""
        return 2 * self.vocab_size

    @cached_property
    def kept_ids(self) -> np.ndarray:
        """Return the ids of the overlap, sorted, special ids not among them. int32."""
        plain = np.setdiff1d(np.arange(self.vocab_size, dtype=np.int32), self.special_ids)
        num = min(round(self.overlap * self.vocab_size), len(plain))
        rng = np.random.default_rng(self.seed)
        return np.sort(rng.choice(plain, num, replace=False, shuffle=False))

    @cached_property
    def table(self) -> np.ndarray:
        """Return the derived id of every id. int32 [V]."""
        table_V = np.arange(self.vocab_size, dtype=np.int32)
        shifted = self.is_shifted
        table_V[shifted] += self.vocab_size
        return table_V

    @cached_property
    def is_shifted(self) -> np.ndarray:
        """Tell which ids have a derived one of their own. bool [V]."""
        shifted_V = np.ones(self.vocab_size, bool)
        shifted_V[[*self.special_ids, *self.kept_ids]] = False
        return shifted_V

    def ids(self, ids: np.ndarray, *, number: int = 0) -> tuple[np.ndarray, Order]:
        """Shift ids; the words stay where they are.

        Raises: ValueError for ids outside the vocabulary.
        """
        ids = np.asarray(ids, np.int32)
        if len(ids) and not (0 <= ids.min() and ids.max() < self.vocab_size):
            raise ValueError(
                f"ids from {ids.min()} to {ids.max()}: need ids of a vocabulary of "
                f"{self.vocab_size}; were they transliterated already?"
            )
        return self.table[ids], identity(len(ids))

    def original_ids(self, ids: np.ndarray) -> np.ndarray:
        """Return the ids before the shift; ids that were not shifted are returned as they are."""
        ids = np.asarray(ids)
        return np.where(ids >= self.vocab_size, ids - self.vocab_size, ids)

    def dictionary(self, rate: float, *, seed: int = 0, exclude: Iterable[int] = ()) -> np.ndarray:
        """Return a random part of the dictionary (id, id + V): int32 [N, 2], sorted.

        int(rate x V) ids are drawn from the whole vocabulary without replacement; special ids,
        unshifted ones and those of `exclude` are taken out afterwards, as the authors do.
        Raises: ConfigError for a rate outside (0, 1] or one that leaves no pair.
        Source: methods.md 2.2. Differs: unshifted ids are out; id + V does not occur then.
        """
        if not 0 < rate <= 1:
            raise ConfigError(f"dictionary rate {rate}: need more than 0 and at most 1.")
        rng = np.random.default_rng(seed)
        drawn = rng.choice(self.vocab_size, int(rate * self.vocab_size), replace=False)
        drawn = np.setdiff1d(drawn[self.is_shifted[drawn]], np.fromiter(exclude, int))
        if not len(drawn):
            raise ConfigError(f"dictionary rate {rate} leaves no pair; type a larger one.")
        return np.stack([drawn, drawn + self.vocab_size], axis=1).astype(np.int32)
