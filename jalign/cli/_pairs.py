"""Read sentence pairs for `align` and `evaluate`: two files, TSV, `|||`, or standard input.

Every line is a pair, a flawed one too: it keeps its place, without text. A line of white space
alone is a pair of two empty texts.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from jalign.data.files import MAX_LINE_BYTES, read_lines
from jalign.errors import BadData, ConfigError, UserError

FORMATS = ("auto", "tsv", "triple_bar")
_SEPARATORS = {"tsv": b"\t", "triple_bar": b"|||"}
_NAMES = {"tsv": "tab", "triple_bar": "'|||'"}
_UNDECIDED = 1000  # lines after which a file has neither a tab nor |||
STDIN = "-"

Bytes = tuple[bytes, bool]  # a line, and whether it was cut because of its length


class PairLine(NamedTuple):
    """A line's two texts, and what is wrong with it (in which file, 0 or 1); then both texts are
    empty.
    """

    src: str
    trg: str
    flaw: str = ""
    file: int = 0


class Bitext(NamedTuple):
    """Where pairs come from: one path (STDIN too), or one per side."""

    paths: tuple[str, ...]
    format: str = "auto"

    def place(self, number: int, file: int = 0) -> str:
        """Return the place of a pair as file:line; where there are two files, in that one."""
        path = self.paths[min(file, len(self.paths) - 1)]
        return f"{'standard input' if path == STDIN else path}:{number}"


class Scan(NamedTuple):
    """What the files hold; the hash binds a part to them."""

    lines: int
    sha256: str


def find_bitext(path: str | None, source: str | None, target: str | None, kind: str) -> Bitext:
    """Check which of --input, --source and --target were given, and that the files are there.

    Raises: ConfigError, UserError.
    """
    if (source is None) != (target is None) or (path is not None and source is not None):
        raise ConfigError(
            "type either --input=FILE (tab-separated or |||; - is standard input), or "
            "--source=FILE --target=FILE"
        )
    names = [STDIN if path is None else path] if source is None else [source, target]
    if names == [STDIN, STDIN]:
        raise ConfigError("only one of --source and --target can be standard input (-)")
    names = [n if n == STDIN else str(Path(n).expanduser()) for n in names]
    for name in names:
        if name != STDIN and (not Path(name).exists() or Path(name).is_dir()):
            raise UserError(f"no file {name!r}; correct --input, --source or --target.")
    return Bitext(tuple(names), kind)


def scan(bitext: Bitext, strict: bool) -> Scan | None:
    """Read the files once before the work: what `read_pairs` would raise is raised now.

    None for what can be read only once: standard input, a pipe.
    """
    if not all(name != STDIN and Path(name).is_file() for name in bitext.paths):
        return None
    said, number = hashlib.sha256(), 0

    def hashed() -> Iterator[tuple[Bytes, ...]]:
        for row in _rows(bitext):
            for data, _ in row:
                said.update(data + b"\n")
            yield row

    for _ in _pairs(hashed(), bitext, strict):
        number += 1
    return Scan(number, said.hexdigest())


def read_pairs(bitext: Bitext, strict: bool = False) -> Iterator[PairLine]:
    """Yield every pair. Raises: BadData with its place for a flawed one if `strict`; always where
    two files do not have as many lines, or nobody can tell how the sides are separated.
    """
    yield from _pairs(_rows(bitext), bitext, strict)


def _pairs(rows: Iterable, bitext: Bitext, strict: bool) -> Iterator[PairLine]:
    if len(bitext.paths) == 1:
        rows = _split(rows, bitext)
    for number, row in enumerate(rows, 1):
        pair = _decode(row) if isinstance(row, tuple) else PairLine("", "", row)
        if pair.flaw and strict:
            raise BadData(
                f"{bitext.place(number, pair.file)}: {pair.flaw}; correct the line, or type "
                "--on-error=report to give it an empty line."
            )
        yield pair


def _rows(bitext: Bitext) -> Iterator[tuple[Bytes, ...]]:
    """Yield the lines, of two files side by side."""
    if len(bitext.paths) == 1:
        yield from ((line,) for line in _lines(bitext.paths[0]))
        return
    for number, row in enumerate(zip_longest(*map(_lines, bitext.paths)), 1):
        if None in row:
            short, long = sorted(
                bitext.paths, key=lambda name: row[bitext.paths.index(name)] is None
            )[::-1]
            raise BadData(
                f"{long}:{number}: {short} ends after {number - 1} lines and this file goes on. "
                "Line i of one file must translate line i of the other: restore them."
            )
        yield row


def _lines(path: str) -> Iterator[Bytes]:
    if path != STDIN:
        yield from ((line.data, line.num_cut > 0) for line in read_lines(path))
        return
    stream, number = sys.stdin.buffer, 0
    while data := stream.readline(MAX_LINE_BYTES):
        number += 1
        cut, part = False, data
        while len(part) == MAX_LINE_BYTES and not part.endswith(b"\n"):
            part = stream.readline(MAX_LINE_BYTES)
            cut = cut or bool(part)
        data = data.removesuffix(b"\n").removesuffix(b"\r")
        yield data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data, cut


def _split(rows: Iterable[tuple[Bytes, ...]], bitext: Bitext) -> Iterator[tuple[Bytes, ...] | str]:
    """Yield the two sides of each line, or what is wrong with it."""
    kind, waiting = bitext.format, []
    for (line,) in rows:
        if kind == "auto":
            waiting.append(line)
            kind = _kind_of(line[0], bitext, len(waiting))
            if kind == "auto":
                continue
            yield from (_sides(early, kind) for early in waiting)
            continue
        yield _sides(line, kind)
    if kind == "auto":
        if any(data.strip() for data, _ in waiting):
            raise BadData(_no_kind(bitext))
        yield from (_sides(line, "tsv") for line in waiting)


def _kind_of(data: bytes, bitext: Bitext, number: int) -> str:
    """Tell the format by a line that has one separator."""
    has = [kind for kind, separator in _SEPARATORS.items() if data.count(separator) == 1]
    if len(has) == 2:
        raise BadData(
            f"{bitext.place(number)}: a tab and '|||': type --format=tsv or --format=triple_bar"
        )
    if not has and number == _UNDECIDED:
        raise BadData(_no_kind(bitext))
    return has[0] if has else "auto"


def _no_kind(bitext: Bitext) -> str:
    return (
        f"{bitext.place(1)}: no line has two sides, separated by one tab or '|||'; for two files "
        "type --source=FILE --target=FILE."
    )


def _sides(line: Bytes, kind: str) -> tuple[Bytes, Bytes] | str:
    data, cut = line
    sides = data.split(_SEPARATORS[kind])
    if not data.strip() and not cut:
        return (b"", False), (b"", False)
    if cut:
        return f"a line of more than {MAX_LINE_BYTES:,} bytes"
    if len(sides) != 2:
        return f"{len(sides) - 1 or 'no'} {_NAMES[kind]}, need one between two sides"
    return (sides[0], False), (sides[1], False)


def _decode(row: tuple[Bytes, ...]) -> PairLine:
    texts = []
    for file, (data, cut) in enumerate(row):
        side = ("source", "target")[file]
        if cut:
            return PairLine("", "", f"a {side} line of more than {MAX_LINE_BYTES:,} bytes", file)
        try:
            texts.append(data.decode())
        except UnicodeDecodeError as error:
            byte = f"byte 0x{data[error.start]:02x} at position {error.start}"
            return PairLine("", "", f"{byte} of the {side} side is not UTF-8", file)
    return PairLine(*texts)
