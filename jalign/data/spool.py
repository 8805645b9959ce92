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
_KEY = np.dtype([("high", "<u8"), ("low", "<u8"), ("index", "<u8")])
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
        with self.path.open("rb", buffering=1 << 20) as file:
            while flag := file.read(1):
                fields = []
                for _ in range(1 + self.num_sides):
                    fields.append(file.read(_LENGTH.unpack(file.read(4))[0]))
                texts = tuple(raw.decode() for raw in fields[1:])
                yield Spooled(texts, fields[0].decode(errors="surrogateescape"), flag == b"\1")


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
        raw = "\0".join(texts).encode()  # validated texts hold no NUL
        self._keys.append(hashlib.blake2b(raw, digest_size=16).digest())
        if len(self._keys) == _BUFFERED_KEYS:
            self._flush()

    def _flush(self) -> None:
        keys = np.empty(len(self._keys), _KEY)
        halves = np.frombuffer(b"".join(self._keys), "<u8").reshape(-1, 2)
        keys["high"], keys["low"] = halves[:, 0], halves[:, 1]
        keys["index"] = np.arange(self._num_flushed, self._num_flushed + len(keys))
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
            keys = np.sort(np.fromfile(file, _KEY), order=("high", "low", "index"))
            file.unlink()
            same = (keys["high"][1:] == keys["high"][:-1]) & (keys["low"][1:] == keys["low"][:-1])
            if same.any():
                index, repeats = keys["index"].astype(np.int64), np.flatnonzero(same) + 1
                flags[index[repeats]] = True
                first = int(repeats[np.argmin(index[repeats])])
                pair = (int(index[first]), int(index[first - 1]))
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
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # no name and no time in the header: equal input gives equal bytes
            packed = gzip.GzipFile("", "wb", 6, self._path.open("wb"), mtime=0)
            self._raw = packed.fileobj
            self._file = io.TextIOWrapper(packed, "utf-8", newline="\n")
        fields = [flaw.reason, place, flaw.detail]
        cells = [escape(field.encode(errors="surrogateescape")) for field in fields]
        self._file.write("\t".join([*cells, *map(escape, sides)]) + "\n")

    def add_raw(self, flaw: Flaw, raw: Raw) -> None:
        """Set a record aside as its reader found it."""
        self.add(flaw, raw.place(flaw), raw.sides)

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
