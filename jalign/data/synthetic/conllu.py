"""Read, reorder and write parsed sentences in CoNLL-U: words, tags and basic trees.

Empty nodes and enhanced dependencies are left out; ranges of multi-word tokens are kept as long as
their words are neighbours in the old order.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jalign.data.files import read_lines
from jalign.data.synthetic.order import Order, inverse
from jalign.errors import BadData

NUM_COLUMNS = 10
_ID = re.compile(r"([0-9]+)(?:([-.])([0-9]+))?")


class Token(NamedTuple):
    """A multi-word token: its words [start, stop) and its row."""

    start: int
    stop: int
    row: tuple[str, ...]


@dataclass(frozen=True)
class Tree:
    """A sentence: its comments, the ten columns of every word, its multi-word tokens.

    `where` is file and line, for messages.
    """

    comments: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    tokens: tuple[Token, ...] = ()
    where: str = "this tree"

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Return the forms of the syntactic words; some treebanks have words with spaces."""
        return tuple(row[1] for row in self.rows)

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """Return the universal part of speech of every word."""
        return tuple(row[3] for row in self.rows)

    @cached_property
    def relations(self) -> tuple[str, ...]:
        """Return the universal relation of every word to its head, without its subtype."""
        return tuple(row[7].partition(":")[0] for row in self.rows)

    @cached_property
    def heads(self) -> np.ndarray:
        """Return the head of every word, -1 for a root. int32 [N].

        Raises: BadData if one is missing, outside the sentence, or above itself (a cycle).
        """
        try:
            heads = np.array([int(row[6]) for row in self.rows], np.int32) - 1
        except ValueError as error:
            raise BadData(f"{self.where}: a word has no head ({error}); parse it first.") from None
        if len(heads) and not (-1 <= heads.min() and heads.max() < len(heads)):
            raise BadData(f"{self.where}: a head outside the {len(heads)} words of the sentence")
        above = heads.copy()
        for _ in range(len(heads) + 1):  # climb one step at a time: all must arrive at a root
            if (above < 0).all():
                return heads
            above = np.where(above < 0, -1, heads[above])
        raise BadData(f"{self.where}: the heads form a cycle")

    @property
    def is_projective(self) -> bool:
        """Tell whether no two arcs cross, the roots hanging from above."""
        heads = self.heads
        arcs = [(min(i, h), max(i, h)) for i, h in enumerate(heads) if h >= 0]
        crossing = any(a < c < b < d for a, b in arcs for c, d in arcs)
        return not crossing and not any(
            a < i < b for i, h in enumerate(heads) if h < 0 for a, b in arcs
        )

    def reorder(self, order: Order) -> Tree:
        """Put the words in a new order: the same heads and dependents under new numbers.

        `# text` becomes the words separated by spaces, and SpaceAfter=No goes, which said how the
        old order was written.
        """
        if (order == np.arange(len(order))).all():
            return self
        place = inverse(order)
        rows = [self._renumber(self.rows[old], new, place) for new, old in enumerate(order)]
        tokens = []
        for token in self.tokens:
            now = place[token.start : token.stop]
            if (np.diff(now) == 1).all():
                tokens.append(Token(int(now[0]), int(now[-1]) + 1, token.row))
        comments = (c for c in self.comments if not re.match(r"#\s*text\s*=", c))
        text = f"# text = {' '.join(row[1] for row in rows)}"
        return Tree((*comments, text), tuple(rows), tuple(sorted(tokens)), self.where)

    def _renumber(self, row: tuple[str, ...], new: int, place: np.ndarray) -> tuple[str, ...]:
        head = row[6]
        if head.isdigit() and head != "0":
            head = str(place[int(head) - 1] + 1)
        misc = "|".join(x for x in row[9].split("|") if not x.startswith("SpaceAfter=")) or "_"
        return (str(new + 1), *row[1:6], head, row[7], "_", misc)


def read_conllu(path: Path | str) -> Iterator[Tree]:
    """Yield the sentences of a CoNLL-U file, packed or not.

    Raises: BadData, with file and line, for what is not CoNLL-U.
    """
    yield from parse_conllu(
        (_decode(line.data, f"{path}:{line.number}") for line in read_lines(path)), str(path)
    )


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadData(f"{where}: need UTF-8 text; {error.reason}") from None


def parse_conllu(lines: Iterable[str], name: str) -> Iterator[Tree]:
    """Yield the sentences of CoNLL-U lines; `name` is the file for messages.

    Raises: BadData, with the line.
    """
    comments: list[str] = []
    rows: list[tuple[str, ...]] = []
    tokens: list[Token] = []
    start = 1
    for number, line in enumerate(itertools.chain(lines, [""]), 1):
        if not line.strip():
            if rows:
                yield _make_tree(comments, rows, tokens, f"{name}:{start}")
            comments, rows, tokens = [], [], []
        elif line.startswith("#"):
            start = start if comments or rows else number
            comments.append(line)
        else:
            start = start if comments or rows else number
            _add_row(tuple(line.split("\t")), rows, tokens, f"{name}:{number}")


def _make_tree(
    comments: list[str], rows: list[tuple[str, ...]], tokens: list[Token], where: str
) -> Tree:
    for token in tokens:
        if not 0 <= token.start < token.stop <= len(rows):
            raise BadData(f"{where}: the token {token.row[0]} has words that are not there")
    return Tree(tuple(comments), tuple(rows), tuple(tokens), where)


def _add_row(
    row: tuple[str, ...], rows: list[tuple[str, ...]], tokens: list[Token], where: str
) -> None:
    match = _ID.fullmatch(row[0])
    if len(row) != NUM_COLUMNS or not match or not row[1]:
        raise BadData(
            f"{where}: need {NUM_COLUMNS} columns separated by tabs, the first an id such as 3, "
            f"3-4 or 3.1; got {len(row)} columns, the first {row[0]!r}"
        )
    first, kind, last = match.groups()
    if kind == "-":
        tokens.append(Token(int(first) - 1, int(last), row))
    elif kind is None:
        if int(first) != len(rows) + 1:
            raise BadData(f"{where}: word {first} where {len(rows) + 1} should come")
        rows.append((*row[:8], "_", row[9]))


def join_trees(trees: Sequence[Tree]) -> Tree:
    """Return the sentences of a text as one tree with several roots, without their comments.

    Raises: BadData for a word without a head.
    """
    rows: list[tuple[str, ...]] = []
    tokens: list[Token] = []
    for tree in trees:
        num, heads = len(rows), tree.heads
        tokens += [Token(t.start + num, t.stop + num, t.row) for t in tree.tokens]
        for i, row in enumerate(tree.rows):
            head = str(heads[i] + 1 + num) if heads[i] >= 0 else "0"
            rows.append((str(num + i + 1), *row[1:6], head, *row[7:]))
    return Tree((), tuple(rows), tuple(tokens), trees[0].where if trees else "no trees")


def format_tree(tree: Tree) -> str:
    """Write a sentence in CoNLL-U, with the blank line behind it."""
    starts = {token.start: token for token in tree.tokens}
    lines = list(tree.comments)
    for i, row in enumerate(tree.rows):
        if i in starts:
            token = starts[i]
            lines.append("\t".join([f"{i + 1}-{token.stop}", *token.row[1:]]))
        lines.append("\t".join(row))
    return "\n".join([*lines, "", ""])
