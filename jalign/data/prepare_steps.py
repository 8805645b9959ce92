"""Steps of `jalign prepare` on a part of a source or on its records: one meaning wherever they run.

`prepare_local` takes them in this process, `prepare_chunks` for the workers of Apache Beam.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from jalign.data.columns import Example, Text
from jalign.data.corpora import Part
from jalign.data.spool import Quarantine, Spooled, is_held_out, read_spool
from jalign.data.text import Flaw, Limits, Raw, check, message
from jalign.data.tokenizer import Tokenizer
from jalign.errors import BadData

SPLITS = (("train", False), ("heldout", True))  # name, whether its records are held out
_BATCH = 512  # texts encoded at a time
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What `jalign prepare` was asked for; limits of None are those of the format."""

    output: Path
    corpora: tuple[str, ...]
    vocab_size: int | None = None
    tokenizer: Path | None = None
    heldout: float = 0.05
    on_error: str = "strict"
    max_chars: int | None = None
    max_words: int | None = None
    max_ratio: float | None = None
    tokenizer_chars: int = 20_000_000
    tokenizer_alpha: float = 0.3
    character_coverage: float = 0.9995
    overwrite: bool = False


@dataclass
class Report:
    """What became of one source's records: read = kept (train + held out) + quarantined."""

    name: str
    stream: str
    langs: tuple[str, ...]
    read: int = 0
    train: int = 0
    heldout: int = 0
    tokens: int = 0
    repaired: Counter = field(default_factory=Counter)
    quarantined: Counter = field(default_factory=Counter)
    left_out: Counter = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain, sorted dictionaries."""
        return {
            n: dict(sorted(v.items())) if isinstance(v, Counter) else v
            for n, v in vars(self).items()
        }

    def add(self, other: Mapping[str, Any]) -> None:
        """Add the counts of another report on the same source, as its `to_json` wrote them."""
        for name in ("read", "train", "heldout", "tokens"):
            setattr(self, name, getattr(self, name) + other[name])
        for name in ("repaired", "quarantined", "left_out"):
            getattr(self, name).update(other[name])


@dataclass(frozen=True)
class Piece:
    """Spooled records in order, and a flag for each: True if it repeats an earlier one.

    Those of a whole source where one process takes all steps, or a chunk of one of its parts.
    """

    langs: tuple[str, ...]
    path: Path
    repeats: np.ndarray

    def kept(self, *, held_out: bool | None = None) -> Iterator[Spooled]:
        """Yield the records that are no repeats, of one split or of both."""
        for record in self._records(repeats=False):
            if held_out in (None, record.held_out):
                yield record

    def repeated(self) -> Iterator[Spooled]:
        """Yield the records that are repeats."""
        return self._records(repeats=True)

    def _records(self, *, repeats: bool) -> Iterator[Spooled]:
        rows = read_spool(self.path, len(self.langs))
        for start in range(0, len(self.repeats), 1 << 16):
            for repeat in self.repeats[start : start + (1 << 16)].tolist():
                record = next(rows)
                if repeat == repeats:
                    yield record


def read_part(
    part: Part,
    options: Options,
    report: Report,
    quarantine: Quarantine,
    progress: Progress = lambda line: None,
) -> Iterator[Spooled]:
    """Yield the valid records of a part; flawed ones stop the program or go to quarantine.

    Raises: BadData for the first flaw in strict mode, or for what no mode can read.
    """
    asked = {n: getattr(options, n) for n in ("max_chars", "max_words", "max_ratio")}
    limits = dataclasses.replace(part.limits, **{n: v for n, v in asked.items() if v is not None})
    for raw in part.read():
        report.read += 1
        if report.read % 20_000 == 0:
            progress(f"{report.name}: {report.read:,} read")
        texts = _take(raw, limits, options, quarantine, report)
        if texts:
            yield Spooled(texts, raw.origin, is_held_out(texts[0], options.heldout))
    report.left_out.update(part.left_out)


def _take(
    raw: Raw, limits: Limits, options: Options, quarantine: Quarantine, report: Report
) -> tuple[str, ...] | None:
    """Return a record's texts; a flawed one stops the program or goes to quarantine."""
    strict = options.on_error == "strict"
    if raw.repairs and strict:
        raise BadData(message(raw, raw.repairs[0]))
    result = check(raw, limits)
    if isinstance(result, Flaw):
        if strict:
            raise BadData(message(raw, result))
        quarantine.add_raw(result, raw)
        return None
    report.repaired.update(repair.reason for repair in raw.repairs)
    return result


def duplicate_message(origin: str, repeated: str) -> str:
    """Write the error of strict mode for a record that repeats another, by their origins."""
    path, _, line = origin.rpartition(":")
    flaw = Flaw("duplicate", f"an exact repeat of {repeated}")
    return message(Raw((), path, int(line), flaw=flaw), flaw)


def settle(piece: Piece, report: Report, quarantine: Quarantine) -> Counter:
    """Count what is kept and set the repeats aside; return the characters to train on by language.

    The repeats of a source go behind all of its flawed records.
    """
    chars: Counter = Counter()
    for record in piece.kept():
        if record.held_out:
            report.heldout += 1
            continue
        report.train += 1
        for lang, text in zip(piece.langs, record.texts, strict=True):
            chars[lang] += len(text)
    if piece.repeats.any():
        flaw = Flaw("duplicate", "an exact repeat within this source")
        for record in piece.repeated():
            quarantine.add(flaw, record.origin, tuple(text.encode() for text in record.texts))
    return chars


def sampling_rates(chars: Counter, budget: int, alpha: float) -> dict[str, float]:
    """Return the part of each language to take so that the sum fits the budget, shares ~ n^alpha.

    A language that has less than its share gives the rest to the others.
    """
    rates: dict[str, float] = {}
    left = {lang: count for lang, count in chars.items() if count}
    while left:
        total = sum(count**alpha for count in left.values())
        shares = {lang: budget * count**alpha / total for lang, count in left.items()}
        whole = [lang for lang, count in left.items() if count <= shares[lang]]
        if not whole:
            return rates | {lang: shares[lang] / count for lang, count in left.items()}
        for lang in whole:
            rates[lang] = 1.0
            budget -= left.pop(lang)
    return rates


def choose(piece: Piece, rates: Mapping[str, float]) -> Iterator[str]:
    """Yield the train texts for the tokenizer: of each language its rate, chosen by hash."""
    for record in piece.kept(held_out=False):
        for lang, text in zip(piece.langs, record.texts, strict=True):
            if _sample_number(text) < rates[lang] * 2**64:
                yield text


def each_once(texts: Iterable[str]) -> Iterator[str]:
    """Yield every text the first time it comes; memory is bounded by `tokenizer_chars`."""
    seen: set[int] = set()
    for text in texts:
        number = _sample_number(text)
        if number not in seen:
            seen.add(number)
            yield text


def _sample_number(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"sample").digest()
    return int.from_bytes(digest, "little")


def encode(
    piece: Piece, tokenizer: Tokenizer, tokens: Counter, *, held_out: bool
) -> Iterator[Example]:
    """Yield the kept records of a split with their ids; count the ids of each language."""
    rows = piece.kept(held_out=held_out)
    while batch := list(islice(rows, _BATCH)):
        sides = []
        for index, lang in enumerate(piece.langs):
            texts = [record.texts[index] for record in batch]
            encoded = tokenizer.encode_words(texts)
            tokens[lang] += sum(len(ids) for ids, _ in encoded)
            sides.append([Text(t, *e) for t, e in zip(texts, encoded, strict=True)])
        for record, *texts in zip(batch, *sides, strict=True):
            yield Example(tuple(texts), record.origin)
