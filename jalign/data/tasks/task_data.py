"""Say which labelled files a stream reads, and how; read their records.

A format is a file of this folder with `read`, and its line in `KINDS`.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from jalign.data.tasks import Question, TaggedSentence, TextPair
from jalign.plugin import did_you_mean, load

KINDS = {"conllu": "tag", "ner": "tag", "nli": "classify", "qa": "span"}
_OURS = ("path", "counts", "articles")  # parameters of the readers that are no options
_FORMATS = "Set format to one of " + ", ".join(KINDS)

Record = TaggedSentence | TextPair | Question


@dataclass(frozen=True)
class TaskData:
    """Which labelled files a stream reads, and how.

    `format`: a reader of jalign/data/tasks: conllu, ner, nli or qa; "" for no labelled data.
    `files`: LANG=PATH each. `labels`: the classes in the order of their numbers. `stride`: of
    windows, in pieces; 0 for half a window (tag), or 128 and at most a third of the unit (span).
    `skip`, `limit`: leave out the first so many examples of each file, keep so many (0: all); of
    questions so many articles. `options`: of the reader, such as {column: xpos} or {names:
    (entailment, ...)}.
    """

    format: str = ""
    files: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    stride: int = 0
    limit: int = 0
    skip: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the entries. Raises: ValueError naming the entry and what to type."""
        for name in ("stride", "limit", "skip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: need 0 or more")
        if not self.format:
            if self.files or self.labels:
                raise ValueError(f"format is empty, and there are files or labels: {_FORMATS}")
            return
        if self.format not in KINDS:
            hint = did_you_mean(self.format, list(KINDS))
            raise ValueError(f"format={self.format!r}.{hint} {_FORMATS}")
        for spec in self.files:
            split_spec(spec)
        _check_labels(self)
        _check_options(self)

    @property
    def kind(self) -> str:
        """Return what kind of task the format is for: tag, classify or span; "" for none."""
        return KINDS.get(self.format, "")


def _check_labels(data: TaskData) -> None:
    if data.kind == "span":
        if data.labels:
            raise ValueError(f"labels={data.labels}: answers to questions have no classes")
    elif len(data.labels) < 2:
        raise ValueError(
            f"labels={data.labels}: name all classes, in the order of the model's outputs (those "
            "of XTREME's tasks are in jalign.data.tasks.LABELS)"
        )
    twice = sorted(name for name, num in Counter(data.labels).items() if num > 1)
    if twice:
        raise ValueError(f"labels: {', '.join(twice)} stands there twice")


def _check_options(data: TaskData) -> None:
    served = [p for p in inspect.signature(_reader(data).read).parameters if p not in _OURS]
    for name in data.options:
        if name not in served:
            have = ", ".join(served) or "none"
            raise ValueError(f"options.{name}: the options of {data.format} files are: {have}")
    columns = getattr(_reader(data), "COLUMNS", ())
    if columns and data.options.get("column", columns[0]) not in columns:
        got = data.options["column"]
        raise ValueError(f"options.column={got!r}: need one of {', '.join(columns)}")


def _reader(data: TaskData) -> ModuleType:
    return load("data/tasks", data.format)


def split_spec(spec: str) -> tuple[str, str]:
    """Split LANG=PATH. Raises: ValueError."""
    lang, equals, path = spec.partition("=")
    if not (lang and equals and path) or "/" in lang:
        raise ValueError(f"{spec!r}: need LANG=PATH, such as en=data/en_ewt-ud-train.conllu")
    return lang, str(Path(path).expanduser())


def read_records(data: TaskData, lang: str, path: str, counts: Counter) -> Iterator[Record]:
    """Read the examples of a file that `skip` and `limit` leave.

    Of a file that holds several languages those of `lang`, unless options.lang names another.
    """
    reader, options = _reader(data), dict(data.options)
    chosen = slice(data.skip, data.skip + data.limit if data.limit else None)
    if data.kind == "span":
        return reader.read(path, articles=chosen, counts=counts, **options)
    if data.kind == "classify":
        options.setdefault("lang", lang)
    return islice(reader.read(path, counts=counts, **options), chosen.start, chosen.stop)
