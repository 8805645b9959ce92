"""Prepare corpora: validate, tokenise and store them as a dataset to train on."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from jalign.cli._flags import parse
from jalign.cli._output import check_output_folder
from jalign.data.prepare import prepare
from jalign.data.prepare_steps import Options
from jalign.data.records import Manifest
from jalign.errors import UserError

_ABOUT = """In: --output=DIR --corpus=FORMAT,... [--corpus=...] --vocab_size=N or --tokenizer=FOLDER

Validates the corpora, trains a SentencePiece tokenizer (or takes a Hugging Face folder), and writes
a TFDS dataset of ArrayRecord files with a manifest. Formats of --corpus (.gz, .xz, .zst as well):
{formats}
"""


def _define(values: flags.FlagValues) -> None:
    """Define the flags on their own FlagValues, so that commands can share a process."""

    def define(kind, name, default, text, *args, **kwargs):  # noqa: ANN001, ANN002, ANN003
        getattr(flags, f"DEFINE_{kind}")(name, default, text, *args, flag_values=values, **kwargs)

    define("string", "output", None, "Folder to write.")
    define("multi_string", "corpus", [], "FORMAT,FIELDS...; once per corpus.")
    define("integer", "vocab_size", None, "Train a tokenizer of this size.", lower_bound=10)
    define("string", "tokenizer", None, "Take the tokenizer of this Hugging Face folder.")
    define("float", "heldout", 0.05, "Part of the sentences to hold out.", 0.0, 0.9)
    define("integer", "max_chars", None, "Longest text, in characters.", lower_bound=1)
    define("integer", "max_words", None, "Longest text, in words.", 1, 65_535)
    define("float", "max_ratio", None, "Longest side over shortest.", lower_bound=1.0)
    define("integer", "tokenizer_chars", 20_000_000, "Characters to train the tokenizer on.", 1)
    define("float", "tokenizer_alpha", 0.3, "Share of language l in them: n_l^alpha.", 0.0, 1.0)
    define("float", "character_coverage", 0.9995, "Characters kept as pieces.", 0.9, 1.0)
    define("string", "runner", "", "Run the stages on Apache Beam: direct, flink, spark, ...")
    define("string", "beam_options", "", "Options of Beam: '--flink_master=HOST:PORT ...'")
    define("bool", "overwrite", False, "Replace a dataset that other arguments made.")
    flags.DEFINE_enum(
        "on_error", "strict", ["strict", "quarantine"],
        "strict: stop at the first flaw; quarantine: set flawed records aside and count them.",
        flag_values=values,
    )  # fmt: skip


def _parse(argv: list[str]) -> tuple[Options, dict[str, str]]:
    """Turn arguments into options and where to run."""
    values = flags.FlagValues()
    _define(values)
    parse(values, "prepare", argv, about=_ABOUT.format(formats=_formats()))
    if not values.output:
        raise UserError("--output is missing; type --output=DIR.")
    if (values.vocab_size is None) == (values.tokenizer is None):
        raise UserError("type either --vocab_size=N, to train a tokenizer, or --tokenizer=FOLDER.")
    given = values.flag_values_dict()
    names = {n: given[n] for n in Options.__dataclass_fields__ if n in given}
    output = Path(values.output).expanduser()
    if values.overwrite or not (output / "manifest.json").is_file():  # else nothing is written
        check_output_folder("output", values.output, whole=True)
    names |= {"output": output, "corpora": tuple(values.corpus)}
    names["tokenizer"] = Path(values.tokenizer) if values.tokenizer else None
    return Options(**names), {n: given[n] for n in ("runner", "beam_options")}


def _formats() -> str:
    from jalign import plugin

    modules = [plugin.load("data/corpora", n) for n in plugin.available("data/corpora")]
    return "\n".join(f"  {m.USAGE}" for m in modules if hasattr(m, "parts"))


def _progress(line: str) -> None:
    sys.stderr.write(f"prepare: {line}\n")
    sys.stderr.flush()


def _table(manifest: Manifest) -> Iterator[str]:
    """Yield the lines of the result: one per source, then totals and what was left out."""
    head = ("source", "read", "train", "heldout", "tokens", "repaired", "quarantined")
    rows = [head]
    left_out: Counter = Counter()
    for report in manifest.details["sources"]:
        set_aside = sum(report["quarantined"].values())
        numbers = [report[n] for n in ("read", "train", "heldout", "tokens")]
        numbers += [sum(report["repaired"].values()), set_aside]
        reasons = _reasons({**report["repaired"], **report["quarantined"]})
        rows.append((f"{report['stream']}/{report['name']}", *(f"{n:,}" for n in numbers), reasons))
        left_out.update(report["left_out"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(row[1:7], widths[1:7], strict=True)),
        ]
        yield "  ".join([*cells, *row[7:]]).rstrip()
    if left_out:
        yield f"left out of catalogues: {_reasons(left_out)}"
    if manifest.details["became_unk"]:
        yield f"became <unk>: {_reasons(manifest.details['became_unk'])}"
    yield f"{manifest.folder}: {len(manifest.languages)} languages, sha256 {manifest.sha256[:16]}"


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items()))


def main(argv: list[str]) -> int:
    """Run the command; raises UserError (2) for arguments and BadData (3) for files."""
    options, where = _parse(argv)
    start = time.monotonic()
    manifest, already = prepare(options, _progress, **where)
    if already:
        sys.stdout.write(f"already prepared: {manifest.folder} (sha256 {manifest.sha256[:16]})\n")
        return 0
    sys.stdout.write("\n".join(_table(manifest)) + "\n")
    _progress(f"done in {time.monotonic() - start:.1f} s")
    return 0
