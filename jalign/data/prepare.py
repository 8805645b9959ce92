"""Turn corpora into a prepared dataset: validate, spool, split, train the tokenizer, encode, write.

Every step streams; memory does not grow with the corpus.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import importlib.metadata
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from jalign import plugin
from jalign.data import records
from jalign.data.corpora import Part
from jalign.data.prepare_local import LocalStages
from jalign.data.prepare_steps import Options, Progress, Report
from jalign.data.tokenizer import Tokenizer, copy_tokenizer, train_tokenizer
from jalign.errors import BadData, ConfigError, UserError

SCRATCH = "spool"  # the folder in the growing dataset for what is not finished


class Stages(Protocol):
    """The stages that grow with the corpus, to be called in this order."""

    def validate(self, scratch: Path) -> list[Report]:
        """Read and check all sources, and report on each."""

    def sample(self) -> Iterator[str]:
        """Yield the texts to train the tokenizer on."""

    def write(self, writer: records.DatasetWriter, tokenizer: Tokenizer) -> Counter:
        """Encode and write all sources, and count the ids of each language."""


def prepare(
    options: Options,
    progress: Progress = lambda line: None,
    *,
    runner: str = "",
    beam_options: str = "",
) -> tuple[records.Manifest, bool]:
    """Prepare a dataset and return its manifest, and whether it was there already.

    `runner` names what runs the stages: nothing for this process, else a runner of Apache Beam;
    the result is the same.
    Raises: UserError for what was typed, BadData for what the files hold.
    """
    sources = parse_corpora(options.corpora)
    stages = _make_stages(options, sources, progress, runner, beam_options)
    fingerprint = _fingerprint(options, sources)
    done = _find_done(options, fingerprint)
    if done:
        return done, True
    _check_inputs_stay(options.output, sources)
    partial = records.partial_folder(options.output)
    shutil.rmtree(partial, ignore_errors=True)  # left by a prepare that was killed
    try:
        partial.mkdir(parents=True)
        return _prepare(options, stages, fingerprint, progress), False
    except UserError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _make_stages(
    options: Options, sources: dict, progress: Progress, runner: str, beam_options: str
) -> Stages:
    if not runner:
        if beam_options:
            raise ConfigError(
                "--beam_options are for Apache Beam; type --runner=NAME as well, or neither."
            )
        return LocalStages(options, sources, progress)
    try:
        from jalign.data.prepare_beam import BeamStages  # Beam takes seconds to import
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "apache_beam":
            raise
        raise ConfigError(
            f"--runner={runner} needs Apache Beam; type pip install apache-beam, or leave "
            "--runner out to prepare in this process."
        ) from error
    return BeamStages(options, sources, progress, runner=runner, beam_options=beam_options)


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


def _check_inputs_stay(output: Path, sources: dict[tuple[str, str], list[Part]]) -> None:
    """Raises: UserError where a corpus lies in the folder that is to be replaced."""
    for file in (Path(file) for parts in sources.values() for part in parts for file in part.files):
        if output.resolve() in file.resolve().parents:
            raise UserError(
                f"{file} lies in {output}, which would be replaced; type another --output."
            )


def _prepare(
    options: Options, stages: Stages, fingerprint: str, progress: Progress
) -> records.Manifest:
    partial = records.partial_folder(options.output)
    reports = stages.validate(partial / SCRATCH)
    if not any(report.train for report in reports):
        raise BadData(
            f"no text is left to train on; {sum(report.read for report in reports)} records were"
            f" read, set aside: {dict(sum((report.quarantined for report in reports), Counter()))}."
        )
    if options.tokenizer:
        tokenizer = copy_tokenizer(options.tokenizer, partial / "tokenizer")
    else:
        progress(f"training a tokenizer of {options.vocab_size:,} pieces")
        tokenizer = train_tokenizer(
            stages.sample(),
            partial / "tokenizer",
            options.vocab_size,
            character_coverage=options.character_coverage,
        )
    writer = records.DatasetWriter(
        options.output, tokenizer_sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size
    )
    tokens = stages.write(writer, tokenizer)
    shutil.rmtree(partial / SCRATCH)
    return writer.finish(_details(options, fingerprint, reports, tokenizer, tokens))


def _details(
    options: Options,
    fingerprint: str,
    reports: list[Report],
    tokenizer: Tokenizer,
    tokens: Counter,
) -> dict[str, Any]:
    """Write what a reader of the manifest may ask: counts, what was set aside, the command."""
    texts: Counter = Counter()
    for report in reports:
        for lang in report.langs:
            texts[lang] += report.train + report.heldout
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
        "sources": [report.to_json() for report in reports],
        "became_unk": dict(sorted(tokenizer.counts.items())),
    }


def _version() -> str:
    try:
        return importlib.metadata.version("jalign")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
