"""Hold the texts of one source on disk while they are validated: spool, repeats, quarantine."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jalign.data.text import Flaw, Raw, escape, held_out_key

_LENGTH = struct.Struct("<I")
KEY = np.dtype([("high", "<u8"), ("low", "<u8"), ("index", "<u8")])
_NUM_BUCKETS = 64
_BUFFERED_KEYS = 1 << 16


class Spooled(NamedTuple):
    """A valid record on its way: its texts, its origin and whether it is held out."""

    texts: tuple[str, ...]
    origin: str
    held_out: bool


class Spool:
    """Append records to a file and read them back in order."""

    def __init__(self, path: Path, num_sides: int):
        self.path = path
        self.num_sides = num_sides
        self.length = 0
        self._file = path.open("wb", buffering=1 << 20)

    def append(self, record: Spooled) -> None:
        """Append a record."""
        fields = [record.origin.encode(errors="surrogateescape")]
        fields += [text.encode() for text in record.texts]
        self._file.write(b"\1" if record.held_out else b"\0")
        for raw in fields:
            self._file.write(_LENGTH.pack(len(raw)) + raw)
        self.length += 1

    def close(self) -> None:
        """End writing."""
        self._file.close()

    def __iter__(self) -> Iterator[Spooled]:
        """Read the records in the order they came."""
        return read_spool(self.path, self.num_sides)


def read_spool(path: Path, num_sides: int) -> Iterator[Spooled]:
    """Read the records of a spool in the order they came."""
    with path.open("rb", buffering=1 << 20) as file:
        while flag := file.read(1):
            fields = []
            for _ in range(1 + num_sides):
                fields.append(file.read(_LENGTH.unpack(file.read(4))[0]))
            texts = tuple(raw.decode() for raw in fields[1:])
            yield Spooled(texts, fields[0].decode(errors="surrogateescape"), flag == b"\1")


def digest(texts: tuple[str, ...]) -> bytes:
    """Hash the texts of a record to 128 bits; equal digests count as a repeat."""
    raw = "\0".join(texts).encode()  # validated texts hold no NUL
    return hashlib.blake2b(raw, digest_size=16).digest()


def make_keys(digests: list[bytes], start: int) -> np.ndarray:
    """Return the digests as keys, numbered from `start`."""
    keys = np.empty(len(digests), KEY)
    halves = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
    keys["high"], keys["low"] = halves[:, 0], halves[:, 1]
    keys["index"] = np.arange(start, start + len(digests))
    return keys


def find_repeats(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of all but the first of equal keys, and of the one before each of them."""
    keys = np.sort(keys, order=("high", "low", "index"))
    same = (keys["high"][1:] == keys["high"][:-1]) & (keys["low"][1:] == keys["low"][:-1])
    index, repeats = keys["index"].astype(np.int64), np.flatnonzero(same) + 1
    return index[repeats], index[repeats - 1]


class DuplicateFinder:
    """Find exact repeats among any number of texts in constant memory.

    A 128-bit hash of each goes to one of 64 files; each file is then sorted by itself.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._keys: list[bytes] = []
        self._num_flushed = 0
        folder.mkdir(parents=True)

    def append(self, texts: tuple[str, ...]) -> None:
        """Add the next record."""
        self._keys.append(digest(texts))
        if len(self._keys) == _BUFFERED_KEYS:
            self._flush()

    def _flush(self) -> None:
        keys = make_keys(self._keys, self._num_flushed)
        bucket = keys["high"] % _NUM_BUCKETS
        for number in np.unique(bucket):
            with (self._folder / f"{number}.keys").open("ab") as file:
                file.write(keys[bucket == number].tobytes())
        self._num_flushed += len(keys)
        self._keys.clear()

    def find(self) -> tuple[np.ndarray, tuple[int, int] | None]:
        """Return a flag per record, True for repeats; and the earliest with what it repeats."""
        self._flush()
        if not self._num_flushed:
            return np.zeros(0, bool), None
        path = self._folder / "repeats"
        flags = np.memmap(path, bool, "w+", shape=(self._num_flushed,))
        earliest: tuple[int, int] | None = None
        for number in range(_NUM_BUCKETS):
            file = self._folder / f"{number}.keys"
            if not file.exists():
                continue
            repeats, repeated = find_repeats(np.fromfile(file, KEY))
            file.unlink()
            if len(repeats):
                flags[repeats] = True
                first = int(np.argmin(repeats))
                pair = (int(repeats[first]), int(repeated[first]))
                earliest = pair if earliest is None else min(earliest, pair)
        return flags, earliest


class Quarantine(contextlib.AbstractContextManager):
    """Set records aside in a packed TSV (reason, place, detail, sides) and count the reasons."""

    def __init__(self, path: Path):
        self.counts: Counter = Counter()
        self._path = path
        self._file: io.TextIOBase | None = None

    def add(self, flaw: Flaw, place: str, sides: tuple[bytes, ...]) -> None:
        """Set one record aside."""
        self.counts[flaw.reason] += 1
        fields = [flaw.reason, place, flaw.detail]
        cells = [escape(field.encode(errors="surrogateescape")) for field in fields]
        self._write("\t".join([*cells, *map(escape, sides)]) + "\n")

    def add_raw(self, flaw: Flaw, raw: Raw) -> None:
        """Set a record aside as its reader found it."""
        self.add(flaw, raw.place(flaw), raw.sides)

    def add_file(self, path: Path) -> None:
        """Append what another quarantine set aside, if it did; what it counted is not counted."""
        if path.exists():
            with gzip.open(path, "rt", encoding="utf-8", newline="\n") as rows:
                for row in rows:
                    self._write(row)

    def _write(self, row: str) -> None:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # no name and no time in the header: equal input gives equal bytes
            packed = gzip.GzipFile("", "wb", 6, self._path.open("wb"), mtime=0)
            self._raw = packed.fileobj
            self._file = io.TextIOWrapper(packed, "utf-8", newline="\n")
        self._file.write(row)

    def __exit__(self, *exc_info: object) -> None:
        """Close the file, if there was anything to set aside."""
        if self._file is not None:
            self._file.close()
            self._raw.close()


def is_held_out(text: str, fraction: float) -> bool:
    """Decide by a hash of the normalised text, so that a sentence is held out of every pair."""
    if not fraction:
        return False
    digest = hashlib.blake2b(held_out_key(text).encode(), digest_size=8, person=b"heldout").digest()
    return int.from_bytes(digest, "little") < fraction * 2**64
