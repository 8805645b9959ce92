"""Sentences to retrieve: Tatoeba (two line-parallel files) and BUCC (ids, texts, gold pairs)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from jalign.data.tasks import TextPair, note, text_lines
from jalign.errors import BadData


class Sentences(NamedTuple):
    """The sentences of one language, by id."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]


class Bucc(NamedTuple):
    """A BUCC set: two sides, and which pairs translate each other (None where not given)."""

    src: Sentences
    trg: Sentences
    gold: frozenset[tuple[str, str]] | None


def read(
    src_path: Path | str, trg_path: Path | str, *, counts: Counter | None = None
) -> Iterator[TextPair]:
    """Yield line i of both files as a pair, without white space around it.

    Empty sides are counted and kept: a line number is its sentence's name.
    Raises: BadData if one file has more lines.
    """
    counts = Counter() if counts is None else counts
    both = zip_longest(text_lines(src_path, counts), text_lines(trg_path, counts))
    for number, (src, trg) in enumerate(both, start=1):
        if src is None or trg is None:
            short, long = (src_path, trg_path) if src is None else (trg_path, src_path)
            raise BadData(
                f"{long}:{number}: {short} ends after {number - 1} lines; line i of one file must "
                "translate line i of the other"
            )
        pair = TextPair(src[1].strip(), trg[1].strip())
        note(counts, "pair with an empty side", not (pair.first and pair.second))
        yield pair


def read_bucc(
    src_path: Path | str,
    trg_path: Path | str,
    gold_path: Path | str | None = None,
    *,
    counts: Counter | None = None,
) -> Bucc:
    """Read `id<TAB>sentence` files of both sides and the `src_id<TAB>trg_id` file of gold pairs.

    Texts lose the white space around them. Counted: sentences that stand in a file more than once
    (their id cannot be told from their text) and empty ones; gold pairs given twice.
    Raises: BadData with file and line for a line without a tab, an id given twice, or a gold id
    that neither file has.
    """
    counts = Counter() if counts is None else counts
    src, trg = _read_side(src_path, counts), _read_side(trg_path, counts)
    if gold_path is None:
        return Bucc(src, trg, None)
    known = set(src.ids), set(trg.ids)
    gold: set[tuple[str, str]] = set()
    for number, pair in _two_fields(gold_path, counts):
        for name, ids, path in zip(pair, known, (src_path, trg_path), strict=True):
            if name not in ids:
                raise BadData(f"{gold_path}:{number}: {path} has no sentence {name!r}")
        note(counts, "gold pair given twice", pair in gold)
        gold.add(pair)
    return Bucc(src, trg, frozenset(gold))


def _read_side(path: Path | str, counts: Counter) -> Sentences:
    ids: dict[str, str] = {}
    for number, (name, text) in _two_fields(path, counts):
        if name in ids:
            raise BadData(f"{path}:{number}: a second sentence with id {name!r}")
        ids[name] = text
    note(counts, "repeated sentence", len(ids) - len(set(ids.values())))
    note(counts, "sentence without text", sum(not text for text in ids.values()))
    return Sentences(tuple(ids), tuple(ids.values()))


def _two_fields(path: Path | str, counts: Counter) -> Iterator[tuple[int, tuple[str, str]]]:
    for number, line in text_lines(path, counts):
        name, tab, rest = line.partition("\t")
        if not tab or not name.strip():
            raise BadData(f"{path}:{number}: {line[:60]!r}; need two fields separated by a tab")
        yield number, (name.strip(), rest.strip())
