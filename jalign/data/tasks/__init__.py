"""Labelled data of the evaluation tasks: one reader per format, and the encoding for a model.

`read(path, ...)` yields examples as found. What a reader repairs, passes over or finds strange is
counted by reason in the Counter that it is given; what it cannot understand is BadData with file
and line. Files may be packed (.gz, .xz, .zst).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jalign.data.files import read_lines
from jalign.errors import BadData

# The classes of XTREME's tasks, in the order of its models' outputs.
LABELS = {
    "xnli": ("contradiction", "entailment", "neutral"),
    "pawsx": ("0", "1"),
    "udpos": tuple(
        "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split()
    ),
    "panx": ("B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER", "O"),
}
# The integers that Hugging Face's copy of XNLI writes in place of names.
XNLI_NUMBERS = ("entailment", "neutral", "contradiction")


class TaggedSentence(NamedTuple):
    """The words of a sentence, which may hold spaces, and the tag of each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


class TextPair(NamedTuple):
    """Two texts and their class; "" where none is given."""

    first: str
    second: str
    label: str = ""


class Answer(NamedTuple):
    """The first character of an answer in its context, -1 where it has no place there."""

    start: int
    text: str


class Question(NamedTuple):
    """A question about a text, with its gold answers."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...] = ()


def note(counts: Counter, reason: str, num: int = 1) -> None:
    """Count a reason `num` times; what never came up gets no entry."""
    if num:
        counts[reason] += int(num)


def check_text(text: str, place: str) -> None:
    """Refuse half characters, which JSON can spell (\\ud83d) and no UTF-8 text can hold.

    Raises: BadData.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadData(
            f"{place}: half of a surrogate pair at character {error.start}; repair the file"
        ) from error


def text_lines(path: Path | str, counts: Counter) -> Iterator[tuple[int, str]]:
    """Yield the number and text of every line; count byte order marks and \\r\\n taken off.

    Raises: BadData for bytes that are not UTF-8 and for a line of more than 1 MiB.
    """
    for line in read_lines(path):
        for repair in line.repairs:
            note(counts, repair)
        if line.num_cut:
            raise BadData(f"{path}:{line.number}: a line of over 1 MiB; is this a text file?")
        try:
            yield line.number, line.data.decode()
        except UnicodeDecodeError as error:
            raise BadData(
                f"{path}:{line.number}: byte 0x{line.data[error.start]:02x} at position "
                f"{error.start} is not UTF-8; need UTF-8 text: convert the file (iconv -t utf-8)."
            ) from error
