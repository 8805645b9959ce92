"""Fill packed rows with labelled examples: the rows of `data/rows.py` with labels beside the ids.

In: files of one format, a tokenizer, a layout. Out: batches with one more field, or two; every
example is one attention unit.

| kind | layout | fields, int32 [B, L] |
| --- | --- | --- |
| tag | single | `label`: class at the first piece of each scored word, else -1 |
| classify | joint | `label`: class at the first slot of each example, else -1 |
| span | joint | `answer_start`, `answer_end`: 1 at the gold slot, else 0 |

A window of a question without its answer has both marks of a span at its first slot.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from jalign.data.records import Side
from jalign.data.rows import SPECIALS, Layout, Part, RowSource, Specials
from jalign.data.tasks import Question, TaggedSentence, TextPair, note
from jalign.data.tasks.encode import EncodedPair, TagWindow, encode_pairs, encode_tags
from jalign.data.tasks.spans import SpanWindow, encode_questions
from jalign.data.tasks.task_data import Record, read_records, split_spec
from jalign.data.tasks.task_data import TaskData as TaskData
from jalign.data.tokenizer import Tokenizer
from jalign.errors import BadData, ConfigError

LAYOUTS = {"tag": "single", "classify": "joint", "span": "joint"}
LABEL_FIELDS = {
    "tag": {"label": -1},
    "classify": {"label": -1},
    "span": {"answer_start": 0, "answer_end": 0},
}  # each with what stands where there is nothing to say
MAX_QUESTION = 64
STRIDE = 128

Window = TagWindow | EncodedPair | SpanWindow


@dataclass(frozen=True)
class TaskPart(Part):
    """A file: `marks` are its label fields, flat over the slots of all examples, those of example
    i being [slots[i], slots[i + 1]); `first` is the number of its first example.
    """

    slots: np.ndarray
    marks: Mapping[str, np.ndarray]
    first: int


class TaskFile(NamedTuple):
    """A file as read; `records` and `windows` (what they became) only for evaluation."""

    lang: str
    path: str
    records: Sequence[Record]
    windows: Sequence[Window]
    counts: Counter


class TaskRows(RowSource):
    """The packed rows of labelled examples.

    `counts`: what the readers found strange and the encoding could not keep, by reason, over all
    files. Examples are numbered through all files, in order.
    """

    def __init__(
        self,
        data: TaskData,
        files: Sequence[TaskFile],
        parts: Sequence[TaskPart],
        layout: Layout,
        specials: Specials,
        **changes: Any,
    ) -> None:
        """Plan the rows; `changes` as in RowSource."""
        super().__init__(parts, layout, specials, **changes)
        self.kind, self.labels, self.files = data.kind, data.labels, list(files)
        self.counts = sum((file.counts for file in files), Counter())
        self.num_examples = sum(index.size for index in self.index)
        self.fields = (*self.fields, *LABEL_FIELDS[self.kind])

    @property
    def examples(self) -> list[Window]:
        """Return what was made of the records, by example number; empty but for evaluation."""
        return [window for file in self.files for window in file.windows]

    def places(self, row: int) -> list[tuple[int, int, int]]:
        """Return (example number, begin, end) of each example of a row: its slots."""
        found, at = [], 0
        for part, draw, (first, last) in self._marked(row):
            found.append((part.first + draw, at, at + last - first))
            at += last - first
        return found

    def _marked(self, row: int) -> Iterator[tuple[TaskPart, int, tuple[int, int]]]:
        for p, draw in zip(*(column.tolist() for column in self.packed.row(row)), strict=True):
            part = self.index[p].part
            yield part, draw, (int(part.slots[draw]), int(part.slots[draw + 1]))

    def rows(self, first: int, num: int) -> dict[str, np.ndarray]:
        """Return the packed fields of rows [first, first + num) with the label fields."""
        batch = super().rows(first, num)
        shape = batch["ids"].shape
        marks = {name: np.full(shape, x, np.int32) for name, x in LABEL_FIELDS[self.kind].items()}
        for r in range(num):
            at = 0
            for part, _, (begin, end) in self._marked(first + r):
                for name, values in marks.items():
                    values[r, at : at + end - begin] = part.marks[name][begin:end]
                at += end - begin
        return batch | marks


def make_task_rows(
    data: TaskData,
    tokenizer: Tokenizer,
    languages: Sequence[str],
    layout: Layout,
    specials: Specials,
    *,
    alpha: float = 1.0,
    seed: int = 0,
    once: bool = False,
) -> TaskRows:
    """Read and tokenise labelled files, and plan their rows.

    `languages`: a language's id is its index there, 0 where it is absent. `once`: each example one
    time, for evaluation; the records are then kept in `files`.
    Raises: ConfigError for the layout; BadData for a file, and where there is nothing to learn.
    """
    if layout.kind != LAYOUTS[data.kind] or layout.swap:
        raise ConfigError(
            f"data of format {data.format!r} need layout={LAYOUTS[data.kind]!r} and swap=False; "
            f"got layout={layout.kind!r}, swap={layout.swap}"
        )
    if not data.files:
        raise ConfigError("task.files is empty: name files, each as LANG=PATH")
    files, parts, first = [], [], 0
    for spec in data.files:
        file, part = _read_file(data, spec, tokenizer, languages, layout, first, keep=once)
        files.append(file)
        parts.append(part)
        first += part.slots.size - 1
    _check_content(data, files, parts, once)
    return TaskRows(data, files, parts, layout, specials, alpha=alpha, seed=seed, once=once)


def _check_content(
    data: TaskData, files: Sequence[TaskFile], parts: Sequence[TaskPart], once: bool
) -> None:
    names, counts = ", ".join(data.files), sum((file.counts for file in files), Counter())
    noted = "; ".join(f"{reason}: {num}" for reason, num in counts.most_common(5))
    noted = f" Counted: {noted}." if noted else ""
    if not any(part.slots.size > 1 for part in parts):
        raise BadData(f"{names}: no example, skip={data.skip}, limit={data.limit}.{noted}")
    blank = LABEL_FIELDS[data.kind]
    if not once and not any((p.marks[n] != x).any() for p in parts for n, x in blank.items()):
        known = f" The labels are {', '.join(data.labels)}." if data.labels else ""
        raise BadData(
            f"{names}: no example has a label, so there is nothing to learn.{noted}{known}"
        )


def _read_file(
    data: TaskData,
    spec: str,
    tokenizer: Tokenizer,
    languages: Sequence[str],
    layout: Layout,
    first: int,
    *,
    keep: bool,
) -> tuple[TaskFile, TaskPart]:
    lang, path = split_spec(spec)
    counts, before = Counter(), Counter(tokenizer.counts)
    records = read_records(data, lang, path, counts)
    if keep or data.kind == "span":
        records = list(records)
    columns = _Columns(LAYOUTS[data.kind], tuple(LABEL_FIELDS[data.kind]))
    windows = []
    encode = {"tag": _tagged, "classify": _classified, "span": _answered}[data.kind]
    try:
        for sides, marks, window in encode(data, records, tokenizer, layout, counts):
            columns.add(sides, marks)
            if keep:
                windows.append(window)
    except BadData as error:
        if path in str(error):
            raise
        raise BadData(f"{path}: {error}") from error
    counts += tokenizer.counts - before
    note(counts, "file without examples", not columns.slots[1:])
    index = tuple(languages).index(lang) if lang in languages else 0
    part = columns.part(f"{data.format}/{spec}", index, first)
    return TaskFile(lang, path, records if keep else (), windows, counts), part


class _Columns:
    """Columns that grow by an example at a time, as machine numbers: millions fit."""

    def __init__(self, layout: str, marks: tuple[str, ...]) -> None:
        num = 1 if layout == "single" else 2
        self.offsets = [array("q", [0]) for _ in range(num)]
        self.ids, self.word = ([array("i") for _ in range(num)] for _ in range(2))
        self.slots = array("q", [0])
        self.marks = {name: array("h") for name in marks}

    def add(
        self, sides: Sequence[tuple[np.ndarray, np.ndarray]], marks: Mapping[str, np.ndarray]
    ) -> None:
        """Append an example: (ids, word) of each side, and the marks of all its slots."""
        for k, (ids, word) in enumerate(sides):
            self.ids[k].frombytes(np.ascontiguousarray(ids, np.int32).tobytes())
            self.word[k].frombytes(np.ascontiguousarray(word, np.int32).tobytes())
            self.offsets[k].append(len(self.ids[k]))
        for name, values in marks.items():
            self.marks[name].frombytes(np.ascontiguousarray(values, np.int16).tobytes())
        self.slots.append(len(next(iter(self.marks.values()))))

    def part(self, name: str, lang: int, first: int) -> TaskPart:
        """Return the columns as a part of a mixture."""
        columns = zip(self.offsets, self.ids, self.word, strict=True)
        sides = tuple(
            Side(np.array(o, np.int64), np.array(i, np.int32), np.array(w, np.int32))
            for o, i, w in columns
        )
        marks = {name: np.array(values, np.int16) for name, values in self.marks.items()}
        return TaskPart(name, sides, (lang,) * len(sides), np.array(self.slots), marks, first)


Encoded = Iterator[tuple[list[tuple[np.ndarray, np.ndarray]], dict[str, np.ndarray], Window]]


def _tagged(
    data: TaskData,
    records: Iterable[TaggedSentence],
    tokenizer: Tokenizer,
    layout: Layout,
    counts: Counter,
) -> Encoded:
    windows = encode_tags(
        tokenizer,
        records,
        data.labels,
        max_unit=layout.max_unit,
        stride=data.stride or None,
        counts=counts,
    )
    for window in windows:
        label = np.pad(window.label, 1, constant_values=-1)
        yield [(window.ids, window.word)], {"label": label}, window


def _classified(
    data: TaskData,
    records: Iterable[TextPair],
    tokenizer: Tokenizer,
    layout: Layout,
    counts: Counter,
) -> Encoded:
    for pair in encode_pairs(
        tokenizer, records, data.labels, max_unit=layout.max_unit, counts=counts
    ):
        label = np.full(pair.first.size + pair.second.size + SPECIALS["joint"], -1)
        label[0] = pair.label
        sides = [(pair.first, pair.first_word), (pair.second, pair.second_word)]
        yield sides, {"label": label}, pair


def _answered(
    data: TaskData,
    records: Sequence[Question],
    tokenizer: Tokenizer,
    layout: Layout,
    counts: Counter,
) -> Encoded:
    """Encode questions; one whose answers have no place, or are in no window, gets no label at all:
    to learn "no answer" from it would be wrong.
    """
    # the usual lengths, 64 and 128, are for units of 384: in short ones windows would not overlap
    third = max(1, layout.max_unit // 3)
    every = encode_questions(
        tokenizer,
        records,
        max_unit=layout.max_unit,
        stride=data.stride or min(STRIDE, third),
        max_question=min(MAX_QUESTION, third),
        counts=counts,
    )
    for number, group in groupby(every, key=lambda window: window.question):
        windows = list(group)
        has_answer = any(window.start >= 0 for window in windows)
        told = has_answer or not records[number].answers
        note(counts, "question without a label", not told)
        for window in windows:
            marks = _span_marks(window, told)
            sides = [(window.question_ids, window.question_word), window.context[:2]]
            yield sides, marks, window


def _span_marks(window: SpanWindow, told: bool) -> dict[str, np.ndarray]:
    size, before = window.context.ids.size, window.question_ids.size + 2
    marks = {}
    for name, piece in (("answer_start", window.start), ("answer_end", window.stop)):
        marks[name] = np.zeros(before + size + 1)
        if told:
            marks[name][before + piece if piece >= 0 else 0] = 1
    return marks
