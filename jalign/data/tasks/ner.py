"""Tagged words, one a line, a blank line after each sentence: named entities, parts of speech.

| layout | a line | files |
| --- | --- | --- |
| prefixed | `de:Anton<TAB>B-PER` | WikiAnn, PAN-X |
| numbered | `7<TAB>tampa<TAB>B-LOC<TAB>...`, comments with # | Universal NER |
| columns | token first, tag last, by tabs or else by single spaces | XTREME, CoNLL, Masakhane |
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from jalign.data.tasks import TaggedSentence, note, text_lines
from jalign.errors import BadData

_PREFIX = re.compile(r"[a-z]{2,}(?:-[a-z]+)*:")
_LOOK = 2000  # lines that decide the layout
_DOCUMENT = "-DOCSTART-"


class Layout(NamedTuple):
    """How a line is cut; `prefix` stands before every token."""

    separator: str
    num_columns: int
    word: int
    tag: int
    prefix: str = ""


def read(path: Path | str, *, counts: Counter | None = None) -> Iterator[TaggedSentence]:
    """Yield the sentences of a file in any of the layouts above.

    Tags stay as they are. Counted: -DOCSTART- lines, comments of tabbed files, tokens without text
    (they are kept: every tag has its word), and I- tags that continue nothing.
    Raises: BadData with file and line where a line has other columns than the first one, lacks the
    prefix of all others, or has no tag.
    """
    counts = Counter() if counts is None else counts
    layout = _find_layout(path)
    words: list[str] = []
    tags: list[str] = []
    for number, line in text_lines(path, counts):
        if not line.strip():
            note(counts, "blank line with spaces", bool(line))
            yield from _sentence(words, tags, counts)
            words, tags = [], []
        elif line.startswith(_DOCUMENT):
            note(counts, "-DOCSTART- line")
        elif _is_comment(line, layout.separator):
            note(counts, "comment")
        else:
            word, tag = _cut(line, layout, f"{path}:{number}")
            words.append(word)
            tags.append(tag)
    yield from _sentence(words, tags, counts)


def _find_layout(path: Path | str) -> Layout:
    """Decide the layout from the first lines with a token."""
    texts = islice(text_lines(path, Counter()), _LOOK)
    lines = [(n, x) for n, x in texts if x.strip() and not x.startswith(_DOCUMENT)]
    separator = "\t" if any("\t" in line for _, line in lines) else " "
    lines = [(n, x) for n, x in lines if not _is_comment(x, separator)]
    if not lines:
        raise BadData(f"{path}:1: no line with a token and a tag")
    rows = [line.split(separator) for _, line in lines]
    width = len(rows[0])
    if width < 2:
        raise BadData(
            f"{path}:{lines[0][0]}: one column; need a token and a tag, by a tab or a space"
        )
    if separator == "\t" and width > 2 and all(row[0].isdecimal() for row in rows):
        return Layout(separator, width, 1, 2)
    prefixes = {match[0] if (match := _PREFIX.match(row[0])) else "" for row in rows}
    prefix = prefixes.pop() if len(prefixes) == 1 and separator == "\t" and width == 2 else ""
    return Layout(separator, width, 0, width - 1, prefix)


def _is_comment(line: str, separator: str) -> bool:
    """Tell a comment of a tabbed file from a token: `# O` is one where spaces separate."""
    return separator == "\t" and line.startswith("#") and "\t" not in line


def _cut(line: str, layout: Layout, where: str) -> tuple[str, str]:
    fields = line.split(layout.separator)
    name = "tabs" if layout.separator == "\t" else "single spaces"
    if len(fields) != layout.num_columns:
        raise BadData(
            f"{where}: {len(fields)} columns by {name}; need {layout.num_columns} as in the first "
            f"line of the file; got {line[:60]!r}"
        )
    word, tag = fields[layout.word], fields[layout.tag].strip()
    if not tag:
        raise BadData(f"{where}: no tag after {word!r}; need O where there is none")
    if not word.startswith(layout.prefix):
        raise BadData(f"{where}: {word!r} lacks {layout.prefix!r}, which all lines before it have")
    return word[len(layout.prefix) :], tag


def _sentence(
    words: Sequence[str], tags: Sequence[str], counts: Counter
) -> Iterator[TaggedSentence]:
    if not words:
        return
    note(counts, "token without text, kept", sum(not word.strip() for word in words))
    for before, tag in zip(("O", *tags), tags, strict=False):
        if tag.startswith("I-") and before[1:] != tag[1:]:
            note(counts, "I- tag that continues nothing")
    yield TaggedSentence(tuple(words), tuple(tags))
