"""Questions about paragraphs in the JSON of SQuAD: SQuAD, XQuAD, MLQA, TyDiQA-GoldP."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jalign.data.files import read_bytes
from jalign.data.tasks import Answer, Question, check_text, note
from jalign.errors import BadData


def read(
    path: Path | str, *, articles: slice | None = None, counts: Counter | None = None
) -> Iterator[Question]:
    """Yield the questions of a file, of some articles if a slice says which.

    Counted: answers whose start was wrong and is mended (the nearest place in the context with
    their text), answers that are nowhere in the context (start -1; their text still counts in the
    score), and questions without answers, as in SQuAD v2.
    Raises: BadData for a file that is no JSON (with its line), lacks an entry (with the place as
    data[3].paragraphs[0].qas[1]) or has an id twice.
    """
    counts = Counter() if counts is None else counts
    data = _load(path, counts)
    data = data.get("data") if isinstance(data, dict) else data
    if not isinstance(data, list):
        raise BadData(f"{path}:1: no list `data`; need the JSON of SQuAD v1.1")
    seen: set[str] = set()
    for a in range(len(data))[articles or slice(None)]:
        for p, paragraph in enumerate(_get(data[a], "paragraphs", list, f"{path}: data[{a}]")):
            place = f"{path}: data[{a}].paragraphs[{p}]"
            context = _get(paragraph, "context", str, place)
            for q, entry in enumerate(_get(paragraph, "qas", list, place)):
                question = _question(entry, context, f"{place}.qas[{q}]", counts)
                if question.id in seen:
                    raise BadData(f"{place}.qas[{q}]: a second question with id {question.id!r}")
                seen.add(question.id)
                yield question


def _load(path: Path | str, counts: Counter) -> Any:
    data = read_bytes(path)
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
        note(counts, "bom")
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        raise BadData(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadData(f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8") from error


def _question(entry: Any, context: str, place: str, counts: Counter) -> Question:
    name = _get(entry, "id", (str, int), place)
    text = _get(entry, "question", str, place)
    answers = []
    for i, answer in enumerate(_get(entry, "answers", list, place)):
        where = f"{place}.answers[{i}]"
        start, words = _get(answer, "answer_start", int, where), _get(answer, "text", str, where)
        answers.append(_place(start, words, context, counts))
    note(counts, "question without an answer", not answers)
    return Question(str(name), text, context, tuple(answers))


def _place(start: int, text: str, context: str, counts: Counter) -> Answer:
    """Check where an answer lies, and look for it nearby where it does not."""
    if not text:
        note(counts, "answer without text")
        return Answer(-1, text)
    if start >= 0 and context.startswith(text, start):
        return Answer(start, text)
    after = context.find(text, max(start, 0))
    before = context.rfind(text, 0, max(start, 0) + len(text))
    places = [place for place in (before, after) if place >= 0]
    if not places:
        note(counts, "answer that is not in its context")
        return Answer(-1, text)
    note(counts, "answer start mended")
    return Answer(min(places, key=lambda place: abs(place - start)), text)


def _get(entry: Any, name: str, kind: type | tuple[type, ...], place: str) -> Any:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        need = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise BadData(f"{place}: {name!r} is {value!r:.40}; need a {need}, as in SQuAD v1.1")
    if isinstance(value, str):
        check_text(value, f"{place}.{name}")
    return value
