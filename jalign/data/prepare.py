"""Turn corpora into a prepared dataset: validate, spool, split, train the tokenizer, encode, write.

Every step streams; memory does not grow with the corpus.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import importlib.metadata
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from jalign import plugin
from jalign.data import records
from jalign.data.corpora import Part
from jalign.data.spool import DuplicateFinder, Quarantine, Spool, Spooled, is_held_out
from jalign.data.text import Flaw, Limits, Raw, check, message
from jalign.data.tokenizer import Tokenizer, copy_tokenizer, train_tokenizer
from jalign.errors import BadData, UserError

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


@dataclass
class _Spooled:
    """One source between validation and writing."""

    report: Report
    spool: Spool
    repeats: np.ndarray

    def kept(self, *, held_out: bool | None = None) -> Iterator[Spooled]:
        """Yield the records that are no repeats, of one split or of both."""
        rows = iter(self.spool)
        for start in range(0, self.spool.length, 1 << 16):
            for repeat in self.repeats[start : start + (1 << 16)].tolist():
                record = next(rows)
                if not repeat and held_out in (None, record.held_out):
                    yield record


def prepare(options: Options, progress: Progress = lambda line: None) -> tuple[Any, bool]:
    """Prepare a dataset and return its manifest, and whether it was there already.

    Raises: UserError for what was typed, BadData for what the files hold.
    """
    sources = parse_corpora(options.corpora)
    fingerprint = _fingerprint(options, sources)
    done = _find_done(options, fingerprint)
    if done:
        return done, True
    partial = records.partial_folder(options.output)
    shutil.rmtree(partial, ignore_errors=True)  # left by a prepare that was killed
    try:
        partial.mkdir(parents=True)
        return _prepare(options, sources, fingerprint, progress), False
    except UserError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def parse_corpora(corpora: Sequence[str]) -> dict[tuple[str, str], list[Part]]:
    """Read the `--corpus` values into the parts of each (stream, source).

    Raises: UserError for an unknown format, a wrong tag, a missing file.
    """
    if not corpora:
        raise UserError("nothing to prepare; type --corpus=FORMAT,... once or more.")
    sources: dict[tuple[str, str], list[Part]] = {}
    for corpus in corpora:
        name, *fields = next(csv.reader([corpus]), [""])
        try:
            module = plugin.load("data/corpora", name)
        except ValueError as error:
            text = str(error).replace("data/corpora", "corpus format")
            raise UserError(f"--corpus={corpus}: {text}") from error
        if not hasattr(module, "parts"):
            raise UserError(f"--corpus={corpus}: {name} holds task data; prepare takes text only.")
        for part in module.parts([f.strip() for f in fields]):
            sources.setdefault((part.stream, "-".join(part.langs)), []).append(part)
    return sources


def _fingerprint(options: Options, sources: dict[tuple[str, str], list[Part]]) -> str:
    """Hash the arguments and the size and time of every input file."""
    asked = dataclasses.asdict(options)
    del asked["output"], asked["overwrite"]
    files = [Path(file) for parts in sources.values() for part in parts for file in part.files]
    if options.tokenizer and options.tokenizer.is_dir():
        files += sorted(p for p in options.tokenizer.iterdir() if p.is_file())
    stats = [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    content = json.dumps([asked, stats], default=str, sort_keys=True)
    return hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()


def _find_done(options: Options, fingerprint: str) -> records.Manifest | None:
    """Return the manifest if this very command ran before.

    Raises: UserError if the output is something else that `--overwrite` does not allow to replace.
    """
    output = options.output
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    if not (output / "manifest.json").is_file():
        raise UserError(f"{output} is no prepared dataset and not empty; type another --output.")
    if options.overwrite:
        return None
    manifest = records.read_manifest(output)
    if manifest.details.get("fingerprint") != fingerprint:
        raise UserError(
            f"{output} was prepared with other arguments, or its input files changed since; "
            "type --overwrite to replace it, or another --output."
        )
    return manifest


def _prepare(
    options: Options, sources: dict, fingerprint: str, progress: Progress
) -> records.Manifest:
    partial = records.partial_folder(options.output)
    scratch = partial / "spool"
    spooled = [
        _validate(stream, name, parts, options, scratch / stream / name, progress)
        for (stream, name), parts in sorted(sources.items())
    ]
    if not any(s.report.train for s in spooled):
        raise BadData(
            f"no text is left to train on; {sum(s.report.read for s in spooled)} records were read,"
            f" set aside: {dict(sum((s.report.quarantined for s in spooled), Counter()))}."
        )
    tokenizer = _make_tokenizer(options, spooled, partial / "tokenizer", progress)
    writer = records.DatasetWriter(
        options.output, tokenizer_sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size
    )
    tokens: Counter = Counter()
    for source in spooled:
        progress(f"{source.report.name}: encoding {source.report.train + source.report.heldout:,}")
        _write(source, writer, tokenizer, tokens)
    shutil.rmtree(scratch)
    return writer.finish(_details(options, fingerprint, spooled, tokenizer, tokens))


def _validate(
    stream: str, name: str, parts: list[Part], options: Options, folder: Path, progress: Progress
) -> _Spooled:
    """Read one source, set aside what is flawed or repeated, spool the rest."""
    report = Report(name, stream, parts[0].langs)
    finder = DuplicateFinder(folder)
    spool = Spool(folder / "records", len(report.langs))
    aside = records.partial_folder(options.output) / "quarantine" / f"{stream}.{name}.tsv.gz"
    with Quarantine(aside) as quarantine:
        with contextlib.closing(spool):
            for part in parts:
                for raw in part.read():
                    report.read += 1
                    if report.read % 20_000 == 0:
                        progress(f"{name}: {report.read:,} read")
                    texts = _take(raw, _limits(part, options), options, quarantine, report)
                    if texts:
                        held_out = is_held_out(texts[0], options.heldout)
                        spool.append(Spooled(texts, raw.origin, held_out))
                        finder.append(texts)
                report.left_out.update(part.left_out)
        repeats, earliest = finder.find()
        if earliest and options.on_error == "strict":
            raise BadData(_duplicate_message(spool, *earliest))
        _set_repeats_aside(spool, repeats, quarantine, report)
        report.quarantined = quarantine.counts
    return _Spooled(report, spool, repeats)


def _limits(part: Part, options: Options) -> Limits:
    asked = {n: getattr(options, n) for n in ("max_chars", "max_words", "max_ratio")}
    return dataclasses.replace(part.limits, **{n: v for n, v in asked.items() if v is not None})


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


def _duplicate_message(spool: Spool, index: int, repeated: int) -> str:
    rows = {
        i: row for i, row in zip(range(index + 1), spool, strict=False) if i in (index, repeated)
    }
    path, _, line = rows[index].origin.rpartition(":")
    flaw = Flaw("duplicate", f"an exact repeat of {rows[repeated].origin}")
    return message(Raw((), path, int(line), flaw=flaw), flaw)


def _set_repeats_aside(
    spool: Spool, repeats: np.ndarray, quarantine: Quarantine, report: Report
) -> None:
    source = _Spooled(report, spool, repeats)
    for record in source.kept():
        if record.held_out:
            report.heldout += 1
        else:
            report.train += 1
    if not repeats.any():
        return
    flaw = Flaw("duplicate", "an exact repeat within this source")
    for record in _Spooled(report, spool, ~repeats).kept():
        quarantine.add(flaw, record.origin, tuple(text.encode() for text in record.texts))


def _make_tokenizer(
    options: Options, spooled: list[_Spooled], folder: Path, progress: Progress
) -> Tokenizer:
    if options.tokenizer:
        return copy_tokenizer(options.tokenizer, folder)
    progress(f"training a tokenizer of {options.vocab_size:,} pieces")
    return train_tokenizer(
        _sample(spooled, options),
        folder,
        options.vocab_size,
        character_coverage=options.character_coverage,
    )


def _sample(spooled: list[_Spooled], options: Options) -> Iterator[str]:
    """Yield the train texts for the tokenizer, each once, at most `tokenizer_chars` characters.

    Where there is more, language l gets a share in proportion to chars_l^alpha, chosen by hash.
    """
    chars: Counter = Counter()
    for source in spooled:
        for record in source.kept(held_out=False):
            chars.update(dict(zip(source.report.langs, map(len, record.texts), strict=True)))
    rates = sampling_rates(chars, options.tokenizer_chars, options.tokenizer_alpha)
    seen: set[int] = set()  # bounded by tokenizer_chars
    for source in spooled:
        for record in source.kept(held_out=False):
            for lang, text in zip(source.report.langs, record.texts, strict=True):
                digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"sample").digest()
                number = int.from_bytes(digest, "little")
                if number < rates[lang] * 2**64 and number not in seen:
                    seen.add(number)
                    yield text


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


def _write(
    source: _Spooled, writer: records.DatasetWriter, tokenizer: Tokenizer, tokens: Counter
) -> None:
    report = source.report

    def examples(held_out: bool) -> Iterator[records.Example]:
        rows = source.kept(held_out=held_out)
        while batch := list(islice(rows, _BATCH)):
            sides = []
            for index, lang in enumerate(report.langs):
                texts = [record.texts[index] for record in batch]
                encoded = tokenizer.encode_words(texts)
                tokens[lang] += sum(len(ids) for ids, _ in encoded)
                sides.append([records.Text(t, *e) for t, e in zip(texts, encoded, strict=True)])
            for record, *texts in zip(batch, *sides, strict=True):
                yield records.Example(tuple(texts), record.origin)

    info = writer.add_source(
        report.name,
        report.stream,
        langs=report.langs,
        splits={"train": lambda: examples(False), "heldout": lambda: examples(True)},
    )
    report.tokens = sum(split.tokens for split in info.splits.values())


def _details(
    options: Options,
    fingerprint: str,
    spooled: list[_Spooled],
    tokenizer: Tokenizer,
    tokens: Counter,
) -> dict[str, Any]:
    """Write what a reader of the manifest may ask: counts, what was set aside, the command."""
    texts: Counter = Counter()
    for source in spooled:
        for lang in source.report.langs:
            texts[lang] += source.report.train + source.report.heldout
    command = {k: v for k, v in dataclasses.asdict(options).items() if k != "overwrite"}
    command |= {"output": str(options.output), "corpora": list(options.corpora)}
    command["tokenizer"] = options.tokenizer and str(options.tokenizer)
    return {
        "jalign": _version(),
        "fingerprint": fingerprint,
        "command": command,
        "languages": {
            lang: {"texts": texts[lang], "tokens": tokens[lang]} for lang in sorted(texts)
        },
        "sources": [source.report.to_json() for source in spooled],
        "became_unk": dict(tokenizer.counts),
    }


def _version() -> str:
    try:
        return importlib.metadata.version("jalign")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
