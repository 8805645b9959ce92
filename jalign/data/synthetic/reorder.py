"""Derive languages by word order alone: inversion and permutation, of words or of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from jalign.data.synthetic.base import Transformation
from jalign.data.synthetic.conllu import Tree
from jalign.data.synthetic.order import Order, entities, identity, is_bio
from jalign.errors import ConfigError

MARKS = frozenset(".!?")  # the authors' set
WIDE_MARKS = MARKS | frozenset("。！？؟।۔…")  # with those of Chinese, Arabic, Hindi and Urdu
LEVELS = ("word", "token")


@dataclass(frozen=True)
class _Reordering(Transformation):
    """What inversion and permutation share: the level, and the ids that stay in place."""

    level: str = "word"
    special_ids: tuple[int, ...] = ()

    def __post_init__(self):
        if self.level not in LEVELS:
            raise ConfigError(f"level={self.level!r}: need one of {', '.join(LEVELS)}")
        if self.level == "token" and not self.special_ids:
            raise ConfigError("level='token' needs special_ids: tokens are moved between them.")

    def _between_specials(self, ids: np.ndarray, reorder: Callable[[int], np.ndarray]) -> Order:
        """Reorder every run of ids without a special one by `reorder` of its length."""
        order = identity(len(ids))
        special = np.flatnonzero(np.isin(ids, self.special_ids))
        bounds = [-1, *special.tolist(), len(ids)]
        for left, right in zip(bounds[:-1], bounds[1:], strict=True):
            run = order[left + 1 : right]
            order[left + 1 : right] = run[reorder(len(run))]
        return order


@dataclass(frozen=True)
class Inversion(_Reordering):
    """Reverse every sentence.

    Words: a final mark ('.', '!' or '?', a word of its own) stays in place; `pieces` cuts a line
    after every mark. In raw text a mark at the end of the last word is detached, held and attached
    to the new last word. The order of the words of a sentence is an involution. Of raw sentences,
    one whose first word (lone marks aside) ends in a mark and whose last does not, "Mr. Smith
    came", does not come back by a second inversion: that mark is then taken for the sentence's
    (6 of the 10,020 sentences of the English XNLI test set).
    Tokens: the ids between special ids are reversed, an exact involution. The pieces of a word are
    reversed too: a label on the first piece is on the last one afterwards.
    Source: methods.md 2.5; the authors' invert_*_data.py (words) and synthetic_utils.py (tokens).
    Differs: where the authors' rule is no involution or tears an entity apart, it is mended. Marks
    at the beginning of a sentence without a final mark stay there; a mark within an entity of
    several words ("Yahoo !") moves with it; a mark between spaces at the end of raw text stays a
    word.
    """

    marks: frozenset[str] = MARKS

    def order(
        self,
        words: Sequence[str],
        *,
        number: int = 0,
        tags: Sequence[str] | None = None,
        tree: Tree | None = None,
    ) -> Order:
        """Return the reversed order, marks held."""
        order = identity(len(words))
        if self.level == "token":
            return order
        held = self._free_marks(words, tags)
        start, stop = 0, len(words)
        if stop and held[-1]:
            stop -= 1
        else:
            while start < stop and held[start]:
                start += 1
        order[start:stop] = order[start:stop][::-1]
        return order

    def ids(self, ids: np.ndarray, *, number: int = 0) -> tuple[np.ndarray, Order]:
        """Reverse the ids between special ids (`level='token'` only)."""
        if self.level == "word":
            return super().ids(ids)
        ids = np.asarray(ids, np.int32)
        order = self._between_specials(ids, lambda n: np.arange(n)[::-1])
        return ids[order], order

    def pieces(self, words: Sequence[str]) -> list[tuple[int, int]]:
        """Cut a line after every mark; the mark belongs to the sentence before it."""
        if self.level == "token":
            return super().pieces(words)
        stops = [i + 1 for i, word in enumerate(words) if word in self.marks]
        if not stops or stops[-1] != len(words):
            stops.append(len(words))
        return list(zip([0, *stops[:-1]], stops, strict=True))

    def held_mark(self, word: str) -> str:
        """Return the mark that ends a raw word of more than the mark."""
        attached = self.level == "word" and len(word) > 1 and word[-1] in self.marks
        return word[-1] if attached else ""

    def _free_marks(self, words: Sequence[str], tags: Sequence[str] | None) -> list[bool]:
        """Tell which words are marks and not part of an entity of several words."""
        free = [word in self.marks for word in words]
        for entity in entities(tags) if tags is not None and is_bio(tags) else ():
            if entity.stop - entity.start > 1:
                free[entity.start : entity.stop] = [False] * (entity.stop - entity.start)
        return free


@dataclass(frozen=True)
class Permutation(_Reordering):
    """Put the words of a sentence (or the tokens between special ids) into a random order.

    Every sentence has its own, drawn uniformly from (seed, number). Not learnable; entities are
    torn apart and answers lost, so there is no question answering.
    Source: methods.md 2.5. Differs: the authors draw from Python's global generator, so that no
    sentence can be made again without those before it.
    """

    seed: int = 0

    def order(
        self,
        words: Sequence[str],
        *,
        number: int = 0,
        tags: Sequence[str] | None = None,
        tree: Tree | None = None,
    ) -> Order:
        """Return a random order."""
        if self.level == "token":
            return identity(len(words))
        return self._rng(number).permutation(len(words)).astype(np.int32)

    def ids(self, ids: np.ndarray, *, number: int = 0) -> tuple[np.ndarray, Order]:
        """Permute the ids between special ids (`level='token'` only)."""
        if self.level == "word":
            return super().ids(ids)
        ids = np.asarray(ids, np.int32)
        order = self._between_specials(ids, self._rng(number).permutation)
        return ids[order], order

    def qa(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: a permuted context has no answers.

        Raises: ConfigError.
        """
        raise ConfigError(
            "permutation leaves no answer in one piece; choose inv or syn for question answering."
        )

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, number])
