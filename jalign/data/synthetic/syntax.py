"""Derive a language with the word order of another one: reorder the dependents of nouns and verbs.

What is learned from a treebank, for the heads that are nouns and for those that are verbs:
1. direction: how often a dependent stands before its head, by its relation and part of speech;
2. distance: of two dependents on the same side, by their relations, which one is farther out.
Nothing else: no words, no features, no dependence on the other dependents or on the sentence.

Galactic Dependencies (Wang & Eisner 2016), which ALIGN-MLM used, scores whole orders of the
dependents of a node with a log-linear model of similar features, and samples one. Differs: ours is
two tables of counts, and it is coupled to the source language: a dependent moves only as often as
the two languages differ. Where the source has it before its head in a fraction s of cases and the
target in t < s, it moves behind with probability 1 - t / s. So the statistics become the
target's, what the languages share stays, and a language taken as its own target is unchanged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jalign.data.synthetic.base import Transformation, check_tree
from jalign.data.synthetic.conllu import Tree
from jalign.data.synthetic.order import Order
from jalign.errors import ConfigError

# class of heads -> their parts of speech
HEADS = {"noun": ("NOUN", "PROPN", "PRON"), "verb": ("VERB", "AUX")}
# relations whose direction UD fixes by convention, so that it says nothing about word order
FROZEN = frozenset({"fixed", "flat", "goeswith"})
MIN_COUNT = 10  # of a relation in the target, or it stays where it is
_PRIOR = 5.0  # weight, in dependents, of the relation's count against that of (relation, tag)

Key = tuple[str, ...]


@dataclass(frozen=True)
class OrderTable:
    """The word order of a treebank: counts (times it holds, times seen).

    `before`: (class of head, relation) and (class, relation, tag of the dependent) -> before head.
    `farther`: (class, side, relation, other relation), the two in alphabetical order -> the first
    is farther from the head.
    """

    before: Mapping[Key, tuple[int, int]]
    farther: Mapping[Key, tuple[int, int]]
    num_sentences: int = 0

    def before_frac(self, key: Key) -> float | None:
        """Return how often (class, relation, tag) stands before its head; None if seldom seen."""
        num, total = self.before.get(key[:2], (0, 0))
        if total < MIN_COUNT:
            return None
        special, seen = self.before.get(key, (0, 0))
        return (special + _PRIOR * num / total) / (seen + _PRIOR)

    def farther_frac(self, key: Key) -> float | None:
        """Return how often the first of two relations is farther out; None if seldom seen."""
        num, total = self.farther.get(key, (0, 0))
        return (num + 0.5) / (total + 1) if total >= MIN_COUNT else None

    def distance(self, other: OrderTable) -> float:
        """Return the mean difference of the directions, over the relations both have.

        Weighted by how often this table has seen each (class, relation); 0 to 1.
        """
        keys = [k for k in self.before if len(k) == 2 and k in other.before]
        keys = [k for k in keys if min(self.before[k][1], other.before[k][1]) >= MIN_COUNT]
        weight = np.array([self.before[k][1] for k in keys], float)
        gap = np.array([abs(_frac(self.before[k]) - _frac(other.before[k])) for k in keys])
        return float(weight @ gap / weight.sum()) if keys else 0.0


def _frac(counts: tuple[int, int]) -> float:
    return counts[0] / counts[1]


def learn_order(trees: Iterable[Tree]) -> OrderTable:
    """Count the word order of a treebank.

    Raises: ConfigError if there are no trees.
    """
    before, farther = Counter(), Counter()
    before_seen, farther_seen = Counter(), Counter()
    num_sentences = 0
    for tree in trees:
        num_sentences += 1
        for node in _nodes(tree):
            for side, deps in enumerate((node.before, node.after)):
                for i, (relation, tag) in enumerate(deps):
                    for key in ((node.kind, relation), (node.kind, relation, tag)):
                        before_seen[key] += 1
                        before[key] += side == 0
                    for nearer, _ in deps[:i]:
                        if nearer != relation:
                            key, first = _pair_key(node.kind, side, relation, nearer)
                            farther_seen[key] += 1
                            farther[key] += first
    if not num_sentences:
        raise ConfigError("no trees to learn a word order from; give a CoNLL-U treebank.")
    return OrderTable(
        {key: (before[key], total) for key, total in before_seen.items()},
        {key: (farther[key], total) for key, total in farther_seen.items()},
        num_sentences,
    )


def _pair_key(kind: str, side: int, far: str, near: str) -> tuple[Key, bool]:
    """Return the key of two relations, and whether its first one is the farther."""
    return (kind, "after" if side else "before", *sorted((far, near))), far < near


@dataclass(frozen=True)
class _Node:
    """A noun or verb with its dependents, nearest first: (relation, tag), punctuation left out."""

    kind: str
    before: list[tuple[str, str]]
    after: list[tuple[str, str]]


def _nodes(tree: Tree) -> Iterable[_Node]:
    relations, tags = tree.relations, tree.tags
    for head, (before, after) in _sides(tree).items():
        kind = _kind(tags[head])
        if kind:
            yield _Node(
                kind,
                *(
                    [(relations[i], tags[i]) for i in side if relations[i] != "punct"]
                    for side in (before, after)
                ),
            )


def _kind(tag: str) -> str | None:
    return next((kind for kind, tags in HEADS.items() if tag in tags), None)


def _sides(tree: Tree) -> dict[int, tuple[list[int], list[int]]]:
    """Map every head to its dependents before and after it, nearest first."""
    sides: dict[int, tuple[list[int], list[int]]] = {}
    for i, head in enumerate(tree.heads.tolist()):
        if head >= 0:
            before, after = sides.setdefault(head, ([], []))
            before.insert(0, i) if i < head else after.append(i)
    return sides


@dataclass
class _Group:
    """A dependent with the punctuation between it and the next one towards the head."""

    word: int
    key: Key  # class of head, relation, tag
    inner: list[int] = field(default_factory=list)
    flipped: bool = False


@dataclass(frozen=True)
class Syntax(Transformation):
    """Give sentences the word order of a target language, learned from treebanks.

    `source` is the order of the sentences' own language. What is drawn depends on (seed, sentence
    number). Subtrees move whole, so the new tree is projective, also where the old one was not.
    Punctuation goes with the dependent outside of it; what is outside of all dependents stays.
    Source: methods.md 2.5, as this module says.
    """

    source: OrderTable
    target: OrderTable
    seed: int = 0

    def order(
        self,
        words: Sequence[str],
        *,
        number: int = 0,
        tags: Sequence[str] | None = None,
        tree: Tree | None = None,
    ) -> Order:
        """Return the order of the reordered tree.

        Raises: ConfigError without a tree of these words.
        """
        tree = check_tree(words, tree, "syn")
        rng = np.random.default_rng([self.seed, number])
        sides = _sides(tree)
        for head in sorted(sides):
            kind = _kind(tree.tags[head])
            if kind:
                sides[head] = self._reorder(tree, kind, sides[head], rng.random)
        return _linearise(tree, sides)

    def _reorder(
        self, tree: Tree, kind: str, sides: tuple[list[int], list[int]], draw: Callable[[], float]
    ) -> tuple[list[int], list[int]]:
        """Return the dependents of one head before and after it, nearest first."""
        stay: tuple[list[_Group], list[_Group]] = ([], [])
        come: tuple[list[_Group], list[_Group]] = ([], [])
        outer = ([], [])
        for side in (0, 1):
            groups, outer[side][:] = _groups(tree, kind, sides[side])
            for group in groups:
                group.flipped = self._flips(group.key, side, draw())
                (come[1 - side] if group.flipped else stay[side]).append(group)
        return tuple(
            [
                word
                for group in self._arrange(side, stay[side], come[side], draw)
                for word in (*group.inner, group.word)
            ]
            + outer[side]
            for side in (0, 1)
        )

    def _flips(self, key: Key, side: int, draw: float) -> bool:
        """Decide whether a dependent changes sides: as seldom as gives the target's fraction."""
        if key[1] in FROZEN:
            return False
        source, target = self.source.before_frac(key), self.target.before_frac(key)
        if source is None or target is None:
            return False
        here, there = (source, target) if side == 0 else (1 - source, 1 - target)
        return there < here and draw < 1 - there / here

    def _arrange(
        self, side: int, stay: list[_Group], come: list[_Group], draw: Callable[[], float]
    ) -> list[_Group]:
        """Order the dependents of one side by distance: those that stayed, then the new ones."""
        placed: list[_Group] = []
        for group in stay:
            at = len(placed)
            while at and self._swaps(side, group, placed[at - 1], draw()):
                at -= 1
            placed.insert(at, group)
        for group in come:
            placed.insert(self._best_place(side, group, placed), group)
        return placed

    def _swaps(self, side: int, far: _Group, near: _Group, draw: float) -> bool:
        """Decide whether two neighbours that stayed change places, coupled like directions."""
        key, first = _pair_key(far.key[0], side, far.key[1], near.key[1])
        source, target = self.source.farther_frac(key), self.target.farther_frac(key)
        if source is None or target is None or far.key[1] == near.key[1]:
            return False
        here, there = (source, target) if first else (1 - source, 1 - target)
        return there < here and draw < 1 - there / here

    def _best_place(self, side: int, group: _Group, placed: list[_Group]) -> int:
        """Return the place where the target's counts of pairs agree best; the nearest if equal."""
        gains = [0.0]  # of being farther out than the first n, against being the nearest
        for other in placed:
            key, first = _pair_key(group.key[0], side, group.key[1], other.key[1])
            target = self.target.farther_frac(key)
            known = target is not None and group.key[1] != other.key[1]
            farther = (target if first else 1 - target) if known else 0.5
            gains.append(gains[-1] + float(np.log(farther) - np.log1p(-farther)))
        return int(np.argmax(gains))


def _groups(tree: Tree, kind: str, side: list[int]) -> tuple[list[_Group], list[int]]:
    """Group the dependents of one side with their punctuation; the rest of it is outermost."""
    groups, inner = [], []
    for i in side:
        if tree.relations[i] == "punct":
            inner.append(i)
        else:
            groups.append(_Group(i, (kind, tree.relations[i], tree.tags[i]), inner))
            inner = []
    return groups, inner


def _linearise(tree: Tree, sides: Mapping[int, tuple[list[int], list[int]]]) -> Order:
    """Write a tree out: dependents before, head, dependents after; roots in their order."""
    order = []
    stack = [(int(root), False) for root in np.flatnonzero(tree.heads < 0)[::-1]]
    while stack:
        word, open_ = stack.pop()
        if open_:
            order.append(word)
            continue
        before, after = sides.get(word, ([], []))
        stack += [(i, False) for i in reversed(after)]
        stack.append((word, True))
        stack += [(i, False) for i in before]  # the farthest is popped first
    return np.array(order, np.int32)
