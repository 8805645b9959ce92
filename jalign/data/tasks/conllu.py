"""Universal Dependencies treebanks (CoNLL-U): words and their part-of-speech tags."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from jalign.data.tasks import TaggedSentence, note, text_lines
from jalign.errors import BadData

COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_ID = re.compile(r"([1-9][0-9]*)(?:-([1-9][0-9]*))?|[0-9]+\.[1-9][0-9]*")


def read(
    path: Path | str, *, column: str = "upos", counts: Counter | None = None
) -> Iterator[TaggedSentence]:
    """Yield the sentences: syntactic words with the tag of a column, forms with their spaces.

    Counted: the surface form of a multiword token (its words follow and are kept), empty nodes
    (they are no words), words tagged _, and sentences left out because all their forms are _, which
    is how a treebank withholds its text.
    Differs: XTREME's udpos joins the words of a multiword token; its own files are for `ner.read`.
    Raises: BadData with file and line for a line without ten columns, an empty form, or word
    numbers that do not run from 1.
    """
    counts = Counter() if counts is None else counts
    index = COLUMNS.index(column)
    words: list[str] = []
    tags: list[str] = []
    for number, line in text_lines(path, counts):
        if not line.strip():
            note(counts, "blank line with spaces", bool(line))
            yield from _sentence(words, tags, counts)
            words, tags = [], []
        elif not line.startswith("#"):
            fields = _fields(line, len(words) + 1, f"{path}:{number}", counts)
            if fields:
                words.append(fields[1])
                tags.append(fields[index])
    yield from _sentence(words, tags, counts)


def _fields(line: str, expected: int, where: str, counts: Counter) -> list[str]:
    """Return the columns of a word's line; of other lines nothing."""
    fields = line.split("\t")
    if len(fields) != len(COLUMNS):
        raise BadData(
            f"{where}: {len(fields)} columns; CoNLL-U has {len(COLUMNS)}, separated by tabs"
        )
    match = _ID.fullmatch(fields[0])
    if not match:
        raise BadData(f"{where}: {fields[0]!r} is no word number; need 3, 3-4 or 3.1")
    if not match[1]:
        note(counts, "empty node")
        return []
    if int(match[1]) != expected or (match[2] and int(match[2]) < expected):
        raise BadData(f"{where}: word {fields[0]}; need word {expected}: is a line missing above?")
    if match[2]:
        note(counts, "multiword token, its words are kept")
        return []
    if not fields[1]:
        raise BadData(f"{where}: word {fields[0]} has an empty form")
    return fields


def _sentence(words: list[str], tags: list[str], counts: Counter) -> Iterator[TaggedSentence]:
    if len(words) > 1 and set(words) == {"_"}:
        note(counts, "sentence without its text (_) left out")
    elif words:
        note(counts, "word tagged _", tags.count("_"))
        yield TaggedSentence(tuple(words), tuple(tags))
