"""Write a vector for every line of text to a .npy file, in order; goes on after a kill.

In: `--input`, UTF-8 lines in a file (.gz, .xz, .zst too) or on standard input; an empty line is the
empty text. Out: `--output`, float32 [lines, width]. Memory does not grow with the input.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from jalign.cli._flags import parse
from jalign.cli._output import check_output_file
from jalign.cli.align import read_step
from jalign.data.files import MAX_LINE_BYTES, read_lines
from jalign.errors import BadData, ConfigError, UserError

SAY_EVERY_S = 5.0
OPTIONS = ("pooling", "layer", "normalize", "on_overflow")
POOLING = ("mean", "cls", "pooler")
OVERFLOW = ("window", "error", "truncate")


class Scan(NamedTuple):
    """What an input file holds; the hash binds a part to it."""

    lines: int
    sha256: str


def _parse(argv: list[str]) -> flags.FlagValues:
    fv = flags.FlagValues()

    def text(name: str, default: str | None, said: str) -> None:
        flags.DEFINE_string(name, default, said, flag_values=fv)

    def choice(name: str, said: str, *values: str) -> None:
        flags.DEFINE_enum(name, values[0], values, said, flag_values=fv)

    text("model", None, "Hugging Face folder, imported model, or workdir of a run")
    text("input", "-", "file of lines (.gz, .xz, .zst too); - is standard input")
    text("output", None, ".npy file to write")
    text("step", None, "checkpoint of a workdir: a step, or best (the newest)")
    choice("pooling", "mean of all tokens, first one's state, BERT's pooler", *POOLING)
    choice("on_overflow", "a line too long for the encoder: windows, stop, cut", *OVERFLOW)
    choice("dtype", "of the compute", "float32", "bfloat16")
    flags.DEFINE_integer(
        "layer", -1, "-1 the last, 0 the embeddings, k after layer k", -1, flag_values=fv
    )
    flags.DEFINE_bool("normalize", False, "scale every vector to length 1", flag_values=fv)
    parse(fv, "embed", argv)
    for name, what in (("model", "DIR"), ("output", "F.npy")):
        if not fv[name].value:
            raise ConfigError(f"--{name} is missing: type --{name}={what}")
    return fv


def _texts(path: str) -> Iterator[str]:
    """Yield the texts of a file or of standard input. Raises: BadData with file:line."""
    for number, data, cut in _lines(path):
        if cut:
            raise BadData(
                f"{path}:{number}: a line of more than {MAX_LINE_BYTES:,} bytes; need a text per "
                "line: split it."
            )
        try:
            yield data.decode()
        except UnicodeDecodeError as error:
            raise BadData(
                f"{path}:{number}: byte 0x{data[error.start]:02x} at position {error.start} is not "
                "UTF-8; convert the file (iconv -f CHARSET -t UTF-8)."
            ) from error


def _lines(path: str) -> Iterator[tuple[int, bytes, bool]]:
    if path != "-":
        yield from ((line.number, line.data, line.num_cut > 0) for line in read_lines(path))
        return
    stream = sys.stdin.buffer
    for number, data in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES), b""), 1):
        cut = len(data) == MAX_LINE_BYTES and not data.endswith(b"\n")
        data = data.removesuffix(b"\n").removesuffix(b"\r")
        yield number, data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data, cut


def scan_file(path: str) -> Scan | None:
    """Read a file once before the work: what is wrong with line 900,000 is said now.

    None for what can be read only once: standard input, a pipe.
    """
    if path == "-":
        if sys.stdin.isatty():
            _say("one text per line, from the keyboard; Ctrl-D ends")
        return None
    if not Path(path).exists() or Path(path).is_dir():
        raise UserError(f"no file {path!r}; type --input=FILE, or - for standard input.")
    if not Path(path).is_file():
        return None
    said, lines = hashlib.sha256(), 0
    for lines, text in enumerate(_texts(path), 1):  # noqa: B007
        said.update(text.encode() + b"\n")
    return Scan(lines, said.hexdigest())


def _say(line: str) -> None:
    sys.stderr.write(f"embed: {line}\n")
    sys.stderr.flush()


class _Progress:
    """Say every few seconds how far it is."""

    def __init__(self, before: int, total: int | None) -> None:
        self.before, self.total = before, total
        self.start = self.said = time.monotonic()

    def __call__(self, counts: Any) -> None:
        now = time.monotonic()
        if now - self.said < SAY_EVERY_S:
            return
        self.said, taken, done = now, now - self.start, self.before + counts.texts
        of = f" of {self.total:,}" if self.total is not None else ""
        line = f"{done:,}{of} lines, {_rates(counts, taken)}"
        if self.total and counts.texts:
            left = int((self.total - done) * taken / counts.texts)
            line += f", {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        _say(line)


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    fv = _parse(argv)
    step = read_step(fv)
    output = check_output_file("output", fv.output, [fv.input])
    path = fv.input if fv.input == "-" else str(Path(fv.input).expanduser())
    scan = scan_file(path)
    # Heavy imports wait until the arguments and the input are known to be good.
    from jalign.inference.model import load

    model = load(fv.model, dtype=fv.dtype, step=step)
    embed_file(model, path, scan, output, {name: fv[name].value for name in OPTIONS})
    return 0


def embed_file(model: Any, path: str, scan: Scan | None, output: Path, options: dict) -> None:
    """Write the vectors of the lines of `path`, or of standard input for "-", to `output`."""
    from jalign.inference.model import Counts
    from jalign.inference.texts import TextTooLong
    from jalign.inference.vectors import VectorFile

    made_of = None
    if scan is not None:
        made_of = {"model": model.sha256, "input": scan.sha256, "lines": scan.lines} | options
    with VectorFile(output, model.cfg.hidden, made_of) as file:
        if file.resumed:
            _say(f"going on after line {file.resumed:,} of {scan.lines:,}")
        progress = _Progress(file.resumed, scan and scan.lines)
        counts, long_before = Counts(on_batch=progress), file.counts.get("long", 0)
        texts = islice(_texts(path), file.resumed, None)
        try:
            for v_ND in model.embed_stream(texts, counts=counts, **options):
                file.append(v_ND, {"long": long_before + counts.long})
        except TextTooLong as error:
            raise error.at(f"{path}:{file.resumed + error.number}") from error
        if scan is not None and file.num_rows != scan.lines:
            raise BadData(
                f"{path} had {scan.lines:,} lines, and now {file.num_rows:,}: it changed; type the "
                "same command again."
            )
        file.finish()
    if options["on_overflow"] == "truncate" and (long := long_before + counts.long):
        _say(model.cut_message(long, file.num_rows))
    taken, fill = time.monotonic() - progress.start, counts.tokens / max(counts.slots, 1)
    sys.stdout.write(
        f"{file.path}: float32 [{file.num_rows}, {file.size}]; {counts.texts:,} lines, "
        f"{counts.tokens:,} tokens in {taken:.1f} s: {_rates(counts, taken)}, "
        f"{fill:.3f} of the slots used\n"
    )


def _rates(counts: Any, taken: float) -> str:
    return f"{counts.texts / taken:,.0f} lines/s, {counts.tokens / taken:,.0f} tokens/s"
