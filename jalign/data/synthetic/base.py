"""Say what every transformation can do: to words, raw text, tags, trees, NLI, questions and ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jalign.data.synthetic.conllu import Tree
from jalign.data.synthetic.order import Order, identity, move, move_span, move_tags, then
from jalign.errors import ConfigError

_WORD = re.compile(r"\S+")


class Nli(NamedTuple):
    """A premise and a hypothesis, with the orders of their words."""

    premise: str
    hypothesis: str
    orders: tuple[Order, Order]


class Answer(NamedTuple):
    """An answer of extractive question answering: where it starts in the context, and its text."""

    start: int
    text: str


class Question(NamedTuple):
    """A context, a question on it and its answers, with the orders of the words of both texts.

    `answers` has None where the words of an answer are not together any more.
    """

    context: str
    question: str
    answers: tuple[Answer | None, ...]
    orders: tuple[Order, Order]


@dataclass(frozen=True)
class Transformation:
    """Make a derived language out of a language; this one changes nothing.

    Every method also returns the order of the words (or ids), so that whatever belongs to them can
    follow (`jalign.data.synthetic.order`). A subclass defines `order`, or `ids`, or both: words
    move before the text is cut into pieces, ids change afterwards.
    `number` is the number of the sentence in its corpus: what is drawn at random depends on
    (seed, number) only. `tree` is needed by the transformations that read syntax.
    """

    def order(
        self,
        words: Sequence[str],
        *,
        number: int = 0,
        tags: Sequence[str] | None = None,
        tree: Tree | None = None,
    ) -> Order:
        """Return the order of the words of one sentence."""
        return identity(len(words))

    def ids(self, ids: np.ndarray, *, number: int = 0) -> tuple[np.ndarray, Order]:
        """Transform the ids of a text in pieces, special ids included."""
        return np.asarray(ids, np.int32), identity(len(ids))

    def pieces(self, words: Sequence[str]) -> list[tuple[int, int]]:
        """Cut a line into the sentences that are transformed one by one: ranges of its words."""
        return [(0, len(words))]

    def held_mark(self, word: str) -> str:
        """Return the mark at the end of a raw sentence's last word that stays in place, or ''."""
        return ""

    def text(
        self, words: Sequence[str], *, number: int = 0, tree: Tree | None = None
    ) -> tuple[list[str], Order]:
        """Transform a tokenised sentence."""
        order = self.order(words, number=number, tree=tree)
        return move(words, order), order

    def sentence(
        self, text: str, *, number: int = 0, tree: Tree | None = None
    ) -> tuple[str, Order]:
        """Transform a raw sentence; its words are `text.split()`, as everywhere in jalign.

        A held mark is detached from the last word and attached to the new last word.
        """
        words = text.split()
        mark = self.held_mark(words[-1]) if words and tree is None else ""
        if not mark:
            moved, order = self.text(words, number=number, tree=tree)
            return " ".join(moved), order
        words[-1] = words[-1].removesuffix(mark)
        moved, order = self.text([*words, mark], number=number)
        if order[-1] != len(words):
            raise AssertionError(f"{type(self).__name__} holds {mark!r} and moves it")
        return " ".join(moved[:-1]) + mark, order[:-1]

    def tags(
        self,
        words: Sequence[str],
        tags: Sequence[str],
        *,
        number: int = 0,
        tree: Tree | None = None,
    ) -> tuple[list[str], list[str], Order]:
        """Transform a tokenised sentence with a tag per word; BIO tags are repaired.

        Raises: ValueError if there is not one tag per word.
        """
        if len(words) != len(tags):
            raise ValueError(f"need a tag per word; got {len(words)} words and {len(tags)} tags")
        order = self.order(words, number=number, tags=tags, tree=tree)
        return move(words, order), move_tags(tags, order), order

    def tree(self, tree: Tree, *, number: int = 0) -> tuple[Tree, Order]:
        """Transform a parsed sentence: the same heads and dependents in their new places."""
        order = self.order(tree.words, number=number, tree=tree)
        return tree.reorder(order), order

    def nli(
        self,
        premise: str,
        hypothesis: str,
        *,
        number: int = 0,
        trees: tuple[Tree | None, Tree | None] = (None, None),
    ) -> Nli:
        """Transform the raw texts of a pair; they are the sentences 2 x number and one more."""
        texts, orders = [], []
        for side, text in enumerate((premise, hypothesis)):
            text, order = self.sentence(text, number=2 * number + side, tree=trees[side])
            texts.append(text)
            orders.append(order)
        return Nli(texts[0], texts[1], (orders[0], orders[1]))

    def qa(
        self,
        context: str,
        question: str,
        answers: Sequence[Answer],
        *,
        number: int = 0,
        trees: tuple[Tree | None, Tree | None] = (None, None),
    ) -> Question:
        """Transform the raw texts of a question and find its answers again.

        An answer is moved by whole words: where its first or last word is cut (a bracket, a comma),
        the cut is kept if that word is still at that end of the answer.
        `number` is that of the context, so that every question on it sees the same text.
        Raises: ValueError for an answer that is not in the context at its place.
        """
        new_context, order = self.sentence(context, number=2 * number, tree=trees[0])
        new_question, other = self.sentence(question, number=2 * number + 1, tree=trees[1])
        moved = (_move_answer(answer, context, new_context, order) for answer in answers)
        return Question(new_context, new_question, tuple(moved), (order, other))


def _move_answer(answer: Answer, old: str, new: str, order: Order) -> Answer | None:
    start, stop = answer.start, answer.start + len(answer.text)
    if old[start:stop] != answer.text or not answer.text.strip():
        raise ValueError(f"the context has no {answer.text!r} at character {start}")
    stop -= len(answer.text) - len(answer.text.rstrip())
    start += len(answer.text) - len(answer.text.lstrip())
    old_words, new_words = list(_WORD.finditer(old)), list(_WORD.finditer(new))
    inside = [i for i, word in enumerate(old_words) if word.start() < stop and start < word.end()]
    span = move_span(inside[0], inside[-1] + 1, order)
    if span is None:
        return None
    first, last = span[0], span[1] - 1
    begin, end = new_words[first].start(), _core_end(new_words[last], old_words[order[last]])
    if order[first] == inside[0]:
        begin += max(0, start - old_words[inside[0]].start())
    if order[last] == inside[-1]:
        end = min(end, new_words[last].start() + stop - old_words[inside[-1]].start())
    if end <= begin:  # the answer was a mark alone, which the word has lost
        begin, end = new_words[first].start(), new_words[last].end()
    return Answer(begin, new[begin:end])


def _core_end(new: re.Match, old: re.Match) -> int:
    """Return where a word ends in its new text, without a mark that was attached to it there."""
    return new.start() + min(len(new[0]), len(old[0]))


def check_tree(words: Sequence[str], tree: Tree | None, name: str) -> Tree:
    """Return the tree of a sentence.

    Raises: ConfigError if there is none, or one of other words.
    """
    if tree is None:
        raise ConfigError(
            f"{name} needs the dependency tree of every sentence; parse the text into CoNLL-U "
            "(one parse per line, the same words) and pass its trees."
        )
    if list(words) != list(tree.words):
        raise ConfigError(
            f"{name} got a tree of {len(tree.words)} words for a sentence of {len(words)} "
            f"({' '.join(words)[:60]!r}); pass the text as the parser cut it, words separated "
            "by spaces."
        )
    return tree


@dataclass(frozen=True)
class Composition(Transformation):
    """Apply transformations one after the other: words by every stage, then ids by every stage."""

    stages: tuple[Transformation, ...]

    def order(
        self,
        words: Sequence[str],
        *,
        number: int = 0,
        tags: Sequence[str] | None = None,
        tree: Tree | None = None,
    ) -> Order:
        """Return the order of the words after all stages."""
        total = identity(len(words))
        for stage in self.stages:
            order = stage.order(words, number=number, tags=tags, tree=tree)
            words = move(words, order)
            tags = None if tags is None else move_tags(tags, order)
            tree = None if tree is None else tree.reorder(order)
            total = then(total, order)
        return total

    def ids(self, ids: np.ndarray, *, number: int = 0) -> tuple[np.ndarray, Order]:
        """Transform ids by all stages."""
        total = identity(len(ids))
        for stage in self.stages:
            ids, order = stage.ids(ids, number=number)
            total = then(total, order)
        return ids, total

    def pieces(self, words: Sequence[str]) -> list[tuple[int, int]]:
        """Cut a line wherever a stage cuts it."""
        stops = sorted({stop for stage in self.stages for _, stop in stage.pieces(words)})
        return list(zip([0, *stops], stops, strict=False))

    def sentence(
        self, text: str, *, number: int = 0, tree: Tree | None = None
    ) -> tuple[str, Order]:
        """Transform a raw sentence by all stages; each looks for its own mark."""
        total = identity(len(text.split()))
        text = " ".join(text.split())
        for stage in self.stages:
            text, order = stage.sentence(text, number=number, tree=tree)
            tree = None if tree is None else tree.reorder(order)
            total = then(total, order)
        return text, total
