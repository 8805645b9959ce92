"""What workers do in `jalign prepare`: to a part, to a chunk of its records, to a whole source.

Plain functions over a folder that all workers see. A worker may die and its work be done again, or
be done twice at once: results are the same bytes, and get their names when they are whole.

FOLDER/<stream>/<source>/<part>.json           counts and error of a part; <part>.aside.tsv.gz
FOLDER/<stream>/<source>/<part>-<chunk>/       records, repeats.npy, settled.json, sample, columns
FOLDER/<stream>/<source>/written/              the finished dataset of the source; written.json
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jalign.data import prepare_steps as steps
from jalign.data import records
from jalign.data.columns import ColumnWriter, Example, Text, open_sides
from jalign.data.corpora import Part
from jalign.data.prepare_steps import Options, Piece, Report
from jalign.data.spool import (
    KEY,
    Quarantine,
    Spool,
    Spooled,
    digest,
    find_repeats,
    make_keys,
    read_spool,
)
from jalign.data.tokenizer import Tokenizer
from jalign.errors import BadData, UserError

_NUM_BUCKETS = 1024  # 32 bytes per record: 30 MB a bucket for a source of a billion records
_ROW_BITS = 40  # of a record's number in its source: the part above, its row in the part below
_ROW_MASK = (1 << _ROW_BITS) - 1


@dataclass(frozen=True)
class Source:
    """What the workers need to know of a source."""

    stream: str
    name: str
    langs: tuple[str, ...]
    num_parts: int


class Chunk(NamedTuple):
    """So many records of a part in a row: what is settled, sampled and encoded at a time."""

    source: int
    part: int
    number: int


@dataclass(frozen=True)
class Job:
    """What is to be prepared, in which folder; a source is known by its index."""

    options: Options
    folder: Path
    sources: tuple[Source, ...]
    rows_per_chunk: int

    def report(self, source: int) -> Report:
        """Return an empty report on a source."""
        about = self.sources[source]
        return Report(about.name, about.stream, about.langs)

    def source_folder(self, source: int) -> Path:
        """Return the folder of a source."""
        return self.folder / self.sources[source].stream / self.sources[source].name

    def part_file(self, source: int, part: int, suffix: str) -> Path:
        """Return a file about a part."""
        return self.source_folder(source) / f"{part:06d}{suffix}"

    def chunk_folder(self, chunk: Chunk) -> Path:
        """Return the folder of a chunk."""
        return self.part_file(chunk.source, chunk.part, f"-{chunk.number:06d}")

    def piece(self, chunk: Chunk) -> Piece:
        """Return the records of a chunk, once its repeats are known."""
        folder = self.chunk_folder(chunk)
        langs = self.sources[chunk.source].langs
        return Piece(langs, folder / "records", np.load(folder / "repeats.npy"))

    def chunks(self, source: int) -> Iterator[Chunk]:
        """Yield the chunks of a source in the order of its records, once its parts are read."""
        for part in range(self.sources[source].num_parts):
            num_chunks = _read_json(self.part_file(source, part, ".json"))["chunks"]
            yield from (Chunk(source, part, number) for number in range(num_chunks))


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a place beside `path` that gets its name when it is whole, if anything is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    yield new
    if not new.is_dir():
        with contextlib.suppress(FileNotFoundError):
            os.replace(new, path)
        return
    try:
        os.rename(new, path)
    except OSError:  # a folder of an earlier attempt is there: the same files
        if not path.is_dir():
            raise
        shutil.rmtree(new)


def _write_json(path: Path, content: Any) -> None:
    with _replacing(path) as new:
        new.write_text(json.dumps(content), encoding="utf-8")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_part(
    job: Job, source: int, number: int, part: Part
) -> Iterator[tuple[Chunk, int, list[tuple[int, bytes]]]]:
    """Read and check a part; yield every chunk of it, its length, and its keys by bucket.

    An error of the user ends the part and goes into its report: which error is the first, in the
    order of the parts, is known when all are read.
    """
    report, error, num_chunks = job.report(source), None, 0
    place = job.part_file(source, number, ".aside.tsv.gz")
    with _replacing(place) as aside, Quarantine(aside) as quarantine:
        rows = steps.read_part(part, job.options, report, quarantine)
        try:
            while digests := _spool(job, chunk := Chunk(source, number, num_chunks), rows):
                num_chunks += 1
                yield chunk, len(digests), _by_bucket(digests, _first_row(job, chunk))
        except UserError as caught:
            error = [caught.exit_code, str(caught)]
    report.quarantined = quarantine.counts
    content = {"report": report.to_json(), "chunks": num_chunks, "error": error}
    _write_json(job.part_file(source, number, ".json"), content)


def _spool(job: Job, chunk: Chunk, rows: Iterator[Spooled]) -> list[bytes]:
    """Write the next records to the folder of a chunk, and return their digests."""
    digests = []
    with (
        _replacing(job.chunk_folder(chunk) / "records") as new,
        contextlib.closing(Spool(new, len(job.sources[chunk.source].langs))) as spool,
    ):
        for record in islice(rows, job.rows_per_chunk):
            spool.append(record)
            digests.append(digest(record.texts))
    return digests


def _first_row(job: Job, chunk: Chunk) -> int:
    """Number the records of a source in order: by part, then by row in the part."""
    return (chunk.part << _ROW_BITS) + chunk.number * job.rows_per_chunk


def _by_bucket(digests: list[bytes], start: int) -> list[tuple[int, bytes]]:
    keys = make_keys(digests, start)
    buckets = keys["high"] % _NUM_BUCKETS
    order = np.argsort(buckets, kind="stable")
    runs = _runs(buckets[order])
    return [(int(buckets[order[a]]), keys[order[a:b]].tobytes()) for a, b in runs]


def _runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield where each run of equal values starts and ends."""
    ends = [*(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    return pairwise([0, *ends]) if len(values) else iter(())


def find_repeats_of_bucket(
    job: Job, source: int, blocks: Iterable[bytes]
) -> Iterator[tuple[Chunk, bytes]]:
    """Yield, by chunk, the numbers of the repeats and of what each of them repeats."""
    keys = np.concatenate([np.frombuffer(block, KEY) for block in blocks])
    pairs = np.stack(find_repeats(keys), axis=1)
    pairs = pairs[np.argsort(pairs[:, 0])]
    part, row = pairs[:, 0] >> _ROW_BITS, pairs[:, 0] & _ROW_MASK
    chunk = row // job.rows_per_chunk
    for start, end in _runs(part << _ROW_BITS | chunk):
        here = Chunk(source, int(part[start]), int(chunk[start]))
        yield here, pairs[start:end].astype("<i8").tobytes()


def settle(job: Job, chunk: Chunk, length: int, blocks: Iterable[bytes]) -> None:
    """Mark the repeats in a chunk, set them aside, and count what is kept."""
    pairs = np.frombuffer(b"".join(blocks), "<i8").reshape(-1, 2)
    pairs = pairs[np.argsort(pairs[:, 0])]
    repeats = np.zeros(length, bool)
    repeats[pairs[:, 0] - _first_row(job, chunk)] = True
    folder, report = job.chunk_folder(chunk), job.report(chunk.source)
    with _replacing(folder / "repeats.npy") as new, new.open("wb") as file:
        np.save(file, repeats)
    with _replacing(folder / "aside.tsv.gz") as aside, Quarantine(aside) as quarantine:
        chars = steps.settle(job.piece(chunk), report, quarantine)
    report.quarantined = quarantine.counts
    first = pairs[0].tolist() if len(pairs) else None
    content = {"report": report.to_json(), "chars": chars, "first_repeat": first}
    _write_json(folder / "settled.json", content)


def gather(job: Job) -> tuple[list[Report], Counter]:
    """Return the reports on all sources, and the characters to train on by language.

    Raises: UserError or BadData, the one that a single process would have met first.
    """
    chars: Counter = Counter()
    reports = []
    for source, about in enumerate(job.sources):
        report = job.report(source)
        for part in range(about.num_parts):
            found = _read_json(job.part_file(source, part, ".json"))
            if found["error"]:
                exit_code, text = found["error"]
                raise (BadData if exit_code == BadData.exit_code else UserError)(text)
            report.add(found["report"])
        for chunk in job.chunks(source):
            found = _read_json(job.chunk_folder(chunk) / "settled.json")
            if found["first_repeat"] and job.options.on_error == "strict":
                origins = [_origin(job, source, number) for number in found["first_repeat"]]
                raise BadData(steps.duplicate_message(*origins))
            report.add(found["report"])
            chars.update(found["chars"])
        reports.append(report)
    return reports, chars


def _origin(job: Job, source: int, number: int) -> str:
    part, row = number >> _ROW_BITS, number & _ROW_MASK
    index, row = divmod(row, job.rows_per_chunk)
    path = job.chunk_folder(Chunk(source, part, index)) / "records"
    return next(islice(read_spool(path, len(job.sources[source].langs)), row, None)).origin


def sample(job: Job, chunk: Chunk, rates: Mapping[str, float]) -> None:
    """Leave the texts of a chunk that the tokenizer may be trained on."""
    with (
        _replacing(job.chunk_folder(chunk) / "sample") as new,
        contextlib.closing(Spool(new, 1)) as spool,
    ):
        for text in steps.each_once(steps.choose(job.piece(chunk), rates)):
            spool.append(Spooled((text,), "", False))


def read_sample(job: Job) -> Iterator[str]:
    """Yield the texts that were left, in order, each once."""
    chunks = (chunk for source in range(len(job.sources)) for chunk in job.chunks(source))
    spools = (read_spool(job.chunk_folder(chunk) / "sample", 1) for chunk in chunks)
    return steps.each_once(record.texts[0] for spool in spools for record in spool)


def encode(job: Job, chunk: Chunk, tokenizer: Tokenizer) -> tuple[dict[str, int], dict[str, int]]:
    """Leave the ids of a chunk; return their number by language, and what became unk."""
    tokens: Counter = Counter()
    tokenizer.counts.clear()
    piece = job.piece(chunk)
    with _replacing(job.chunk_folder(chunk) / "columns") as new:
        for split, held_out in steps.SPLITS:
            with ColumnWriter(
                new / split, num_sides=len(piece.langs), vocab_size=tokenizer.vocab_size
            ) as columns:
                for example in steps.encode(piece, tokenizer, tokens, held_out=held_out):
                    columns.append(example)
    return dict(tokens), dict(tokenizer.counts)


def write_source(
    job: Job, source: int, counts: Iterable[Sequence[Mapping[str, int]]], vocab_size: int
) -> None:
    """Put the chunks of a source together, in order, when all are encoded."""
    tokens, unk = Counter(), Counter()
    for of_chunk in counts:
        tokens.update(of_chunk[0])
        unk.update(of_chunk[1])
    about, chunks = job.sources[source], list(job.chunks(source))
    with _replacing(job.source_folder(source) / "written") as new:
        writer = records.DatasetWriter(new / "source", tokenizer_sha256="", vocab_size=vocab_size)
        splits = {
            split: lambda s=split, h=held_out: _examples(job, chunks, s, held_out=h)
            for split, held_out in steps.SPLITS
        }
        info = writer.add_source(about.name, about.stream, langs=about.langs, splits=splits)
        writer.partial.rename(new / "source")
        with Quarantine(new / "aside.tsv.gz") as quarantine:
            for part in range(about.num_parts):
                quarantine.add_file(job.part_file(source, part, ".aside.tsv.gz"))
            for chunk in chunks:
                quarantine.add_file(job.chunk_folder(chunk) / "aside.tsv.gz")
        sizes = {split: vars(info.splits[split]) for split in info.splits}
        _write_json(new / "written.json", {"splits": sizes, "tokens": tokens, "unk": unk})


def _examples(
    job: Job, chunks: Sequence[Chunk], split: str, *, held_out: bool
) -> Iterator[Example]:
    for chunk in chunks:
        piece = job.piece(chunk)
        sides = open_sides(job.chunk_folder(chunk) / "columns" / split, num_sides=len(piece.langs))
        for index, record in enumerate(piece.kept(held_out=held_out)):
            at = [slice(side.offsets[index], side.offsets[index + 1]) for side in sides]
            texts = zip(record.texts, sides, at, strict=True)
            yield Example(tuple(Text(t, s.ids[a], s.word[a]) for t, s, a in texts), record.origin)


def collect(job: Job, writer: records.DatasetWriter, reports: Sequence[Report]) -> list[Counter]:
    """Move the written sources to the dataset; return ids by language, and what became unk."""
    tokens, unk = Counter(), Counter()
    for source, (about, report) in enumerate(zip(job.sources, reports, strict=True)):
        folder = job.source_folder(source) / "written"
        found = _read_json(folder / "written.json")
        splits = {name: records.SplitInfo(**split) for name, split in found["splits"].items()}
        info = records.SourceInfo(about.name, about.stream, about.langs, splits)
        writer.move_source(folder / "source", info)
        if (folder / "aside.tsv.gz").exists():
            aside = writer.partial / "quarantine" / f"{about.stream}.{about.name}.tsv.gz"
            aside.parent.mkdir(exist_ok=True)
            os.rename(folder / "aside.tsv.gz", aside)
        report.tokens = sum(split.tokens for split in splits.values())
        tokens.update(found["tokens"])
        unk.update(found["unk"])
    return [tokens, unk]
