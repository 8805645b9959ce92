"""Open files as streams of bytes, packed or not, and cut them into lines at \\n only."""

from __future__ import annotations

import glob
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import zstandard

from jalign.errors import BadData, UserError

MAX_LINE_BYTES = (
    1 << 20
)  # longer lines are cut here and reported: a file without \n must fit memory
_BOM = b"\xef\xbb\xbf"
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, zstandard.ZstdError)


class Line(NamedTuple):
    """A line without its end; `repairs` names what was taken off, `num_cut` counts bytes cut."""

    number: int
    data: bytes
    repairs: tuple[str, ...] = ()
    num_cut: int = 0


class _ZstdFile(io.RawIOBase):
    """Unpack zstd frames one after another.

    Unlike zstandard's own stream_reader, which takes a file cut short for a whole one.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._frame, self._ready = file, None, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        while not self._ready:
            packed = self._file.read(1 << 16)
            if not packed and self._frame is None:
                return 0
            if not packed:
                raise EOFError("the zstd frame has no end")
            self._unpack(packed)
        num = min(len(buffer), len(self._ready))
        buffer[:num], self._ready = self._ready[:num], self._ready[num:]
        return num

    def _unpack(self, packed: bytes) -> None:
        while packed:
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._ready += self._frame.decompress(packed)
            packed = self._frame.unused_data if self._frame.eof else b""
            self._frame = None if self._frame.eof else self._frame

    def close(self) -> None:
        self._file.close()
        super().close()


def open_stream(path: Path | str) -> BinaryIO:
    """Open a file for reading bytes; .gz, .xz and .zst are unpacked on the way.

    Raises: UserError if it is missing or a folder.
    """
    path = Path(path)
    try:
        file = path.open("rb", buffering=1 << 18)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; correct the path.") from error
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=file), 1 << 18)
    if path.suffix == ".xz":
        return io.BufferedReader(lzma.LZMAFile(file), 1 << 18)
    if path.suffix == ".zst":
        return io.BufferedReader(_ZstdFile(file), 1 << 18)
    return file


def read_bytes(path: Path | str) -> bytes:
    """Read a whole file, unpacked; for formats that are not read by the line.

    Raises: BadData if a packed file is cut short or damaged.
    """
    try:
        with open_stream(path) as stream:
            return stream.read()
    except _BROKEN as error:
        raise BadData(_broken(path, 1, error)) from error


def read_lines(path: Path | str) -> Iterator[Line]:
    """Yield the lines of a file, cut at \\n only: U+2028, U+0085 and form feeds stay inside.

    Raises: BadData, with the line reached, if a packed file is cut short or damaged.
    """
    number = 0
    try:
        with open_stream(path) as stream:
            while data := stream.readline(MAX_LINE_BYTES):
                number += 1
                num_cut = 0 if data.endswith(b"\n") else _skip_rest(stream, len(data))
                yield _make_line(number, data, num_cut)
    except _BROKEN as error:
        raise BadData(_broken(path, number + 1, error)) from error


def _broken(path: Path | str, number: int, error: Exception) -> str:
    return (
        f"{path}:{number}: the packed file is cut short or damaged ({error}); "
        "copy it again from its origin, or repack what can be read of it."
    )


def _skip_rest(stream: BinaryIO, num_read: int) -> int:
    num_cut = 0
    while num_read == MAX_LINE_BYTES:
        more = stream.readline(MAX_LINE_BYTES)
        num_cut += len(more)
        if not more or more.endswith(b"\n"):
            break
    return num_cut


def _make_line(number: int, data: bytes, num_cut: int) -> Line:
    repairs: tuple[str, ...] = ()
    if data.endswith(b"\n"):
        data = data[:-1]
    if data.endswith(b"\r"):
        data, repairs = data[:-1], ("crlf",)
    if data.startswith(_BOM):  # at the head of a file, or where files were joined with cat
        data, repairs = data[3:], ("bom", *repairs)
    return Line(number, data, repairs, num_cut)


def expand(pattern: str) -> list[str]:
    """Return the files that a path or glob names, sorted.

    Raises: UserError if there are none.
    """
    if Path(pattern).exists():
        return [pattern]
    paths = sorted(p for p in glob.glob(pattern, recursive=True) if Path(p).is_file())
    if not paths:
        raise UserError(f"no file {pattern!r}; --corpus takes paths and globs of files that exist.")
    return paths
