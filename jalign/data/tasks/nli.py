"""Classified pairs of sentences: XNLI, MultiNLI, PAWS-X as tab-separated or JSON lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from jalign.data.tasks import TextPair, check_text, note, text_lines
from jalign.errors import BadData

_FIRST = ("sentence1", "premise", "text1")
_SECOND = ("sentence2", "hypothesis", "hypo", "text2")
_LABEL = ("gold_label", "label")
_LANG = ("language", "lang")
_NO_LABEL = ("-", "-1")  # the annotators disagreed
_CLASSES = {"entailment", "neutral", "contradiction", "contradictory", "0", "1", "2", *_NO_LABEL}
_LOOK = 500  # lines that decide the columns of a file without a header
_NEED = (
    "need a header that names sentence1, sentence2 and label (or premise, hypothesis), or rows "
    "`first TAB second TAB label`"
)


class Columns(NamedTuple):
    """Which column holds what; None where no column does."""

    num: int
    first: int
    second: int
    label: int | None
    lang: int | None
    has_header: bool


def read(
    path: Path | str,
    *,
    lang: str | None = None,
    names: Sequence[str] | None = None,
    counts: Counter | None = None,
) -> Iterator[TextPair]:
    """Yield the pairs of a file: JSON lines if its first line is an object, else tab-separated.

    Columns are found by the names of a header or, without one, by the column that holds nothing but
    classes. Quotation marks are text. `lang` chooses a language of a file that holds several;
    `names` turn classes given as numbers into words (for Hugging Face's XNLI, XNLI_NUMBERS).
    Counted: pairs left out because they have no gold label (-) or are of another language, and,
    kept as they are, pairs without a label, with an empty side, or with NS, which PAWS-X has where
    a sentence was not translated; `contradictory` becomes `contradiction`.
    Raises: BadData with file and line for a line that does not fit, and where a file has several
    languages and `lang` names none.
    """
    counts = Counter() if counts is None else counts
    first = next((line for _, line in text_lines(path, Counter()) if line.strip()), "")
    rows = _json_rows if first.lstrip().startswith("{") else _tab_rows
    seen = None
    for where, tongue, pair in rows(path, counts):
        if lang is not None and tongue not in (None, lang):
            note(counts, "pair of another language left out")
            continue
        if lang is None and tongue is not None and seen not in (None, tongue):
            raise BadData(f"{where}: the file holds {seen} and {tongue}; say which to read (lang)")
        seen = tongue
        if pair.label in _NO_LABEL:
            note(counts, "pair without a gold label (-) left out")
        else:
            yield _checked(pair, names, where, counts)


def _checked(pair: TextPair, names: Sequence[str] | None, where: str, counts: Counter) -> TextPair:
    note(counts, "pair with an empty side", not (pair.first.strip() and pair.second.strip()))
    note(counts, "pair with NS in place of a sentence", "NS" in pair[:2])
    if not pair.label:
        note(counts, "pair without a label")
    elif pair.label == "contradictory":
        note(counts, "contradictory read as contradiction")
        return pair._replace(label="contradiction")
    elif names is not None and pair.label.isdecimal():
        if int(pair.label) >= len(names):
            raise BadData(f"{where}: class {pair.label}; need 0 to {len(names) - 1}")
        return pair._replace(label=names[int(pair.label)])
    return pair


def _tab_rows(path: Path | str, counts: Counter) -> Iterator[tuple[str, str | None, TextPair]]:
    columns = _find_columns(path)
    lines = ((n, line) for n, line in text_lines(path, counts) if line)
    for number, line in islice(lines, int(columns.has_header), None):
        fields, where = line.split("\t"), f"{path}:{number}"
        if len(fields) != columns.num:
            raise BadData(
                f"{where}: {len(fields)} columns; need {columns.num}, separated by tabs, as in the "
                "first line of the file"
            )
        label = "" if columns.label is None else fields[columns.label].strip()
        tongue = None if columns.lang is None else fields[columns.lang].strip()
        yield where, tongue, TextPair(fields[columns.first], fields[columns.second], label)


def _find_columns(path: Path | str) -> Columns:
    lines = ((n, line) for n, line in text_lines(path, Counter()) if line)
    rows = [line.split("\t") for _, line in islice(lines, _LOOK)]
    if not rows:
        raise BadData(f"{path}:1: the file is empty; {_NEED}")
    header = [field.strip().lower() for field in rows[0]]
    first, second, label, lang = (
        _named(header, names) for names in (_FIRST, _SECOND, _LABEL, _LANG)
    )
    if first is not None and second is not None:
        return Columns(len(header), first, second, label, lang, True)
    return _guess_columns(rows, path)


def _guess_columns(rows: Sequence[Sequence[str]], path: Path | str) -> Columns:
    """Find the columns of a file without header: `first second [label]`, an id before, or the label
    in front.
    """
    num = len(rows[0])
    rows = [row for row in rows if len(row) == num]
    classes = [i for i in range(num) if all(row[i].strip() in _CLASSES for row in rows)]
    label = classes[-1] if classes else None
    texts = [i for i in range(num) if i != label]
    if (
        label is not None
        and len(texts) == 3
        and all(row[texts[0]].strip().isalnum() for row in rows)
    ):
        texts = texts[1:]  # an id
    if len(texts) != 2:
        raise BadData(f"{path}:1: {num} columns and no header; {_NEED}")
    return Columns(num, *texts, label, None, False)


def _named(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _json_rows(path: Path | str, counts: Counter) -> Iterator[tuple[str, str | None, TextPair]]:
    for number, line in text_lines(path, counts):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise BadData(
                f"{where}: not a line of JSON ({error}); need one object a line"
            ) from error
        if not isinstance(entry, dict):
            raise BadData(f"{where}: need a JSON object with sentence1, sentence2 and label")
        sides = [_value(entry, names) for names in (_FIRST, _SECOND)]
        if not all(isinstance(side, str) for side in sides):
            raise BadData(
                f"{where}: need texts sentence1 and sentence2 (or premise, hypothesis); got "
                f"{', '.join(sorted(entry)) or 'nothing'}"
            )
        for side in sides:
            check_text(side, where)
        label, tongue = _value(entry, _LABEL), _value(entry, _LANG)
        yield where, tongue, TextPair(*sides, "" if label is None else str(label).strip())


def _value(entry: dict[str, Any], names: Sequence[str]) -> Any:
    return next((entry[name] for name in names if name in entry), None)
