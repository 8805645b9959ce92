"""The flat view of a split for memory mapping: offsets, ids and words of each side as .npy."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

SIDES = ("src", "trg")
WORD_DTYPE = np.uint16  # words of one text; prepare refuses longer texts
_BUFFER_BYTES = 1 << 20


class Text(NamedTuple):
    """One tokenised text: one id and one word index (into `text.split()`) per piece."""

    text: str
    ids: np.ndarray
    word: np.ndarray


class Example(NamedTuple):
    """One record: one side (mono) or two (pair), and the file:line it came from."""

    sides: tuple[Text, ...]
    origin: str


@dataclass(frozen=True)
class Side:
    """One side, memory-mapped: example i is `[offsets[i]:offsets[i + 1]]` of the other two."""

    offsets: np.ndarray
    ids: np.ndarray
    word: np.ndarray


def ids_dtype(vocab_size: int) -> np.dtype:
    """Return the narrowest type that holds every id: uint16 below 65,536, else int32."""
    return np.dtype(np.uint16 if vocab_size < 1 << 16 else np.int32)


class ArrayFile:
    """Append to a one-dimensional .npy file of unknown length, in constant memory."""

    def __init__(self, path: Path, dtype: np.dtype | type):
        self.dtype = np.dtype(dtype)
        self.length = 0
        self._file: BinaryIO = path.open("wb", buffering=_BUFFER_BYTES)
        self._header_bytes = self._write_header()

    def _write_header(self) -> int:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()

    def append(self, values: np.ndarray) -> None:
        """Append values, which must fit the type of the file."""
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype).data)
        self.length += len(values)

    def close(self) -> None:
        """Write the final length into the header (numpy leaves room for it) and close."""
        self._file.seek(0)
        if self._write_header() != self._header_bytes:
            raise AssertionError("the .npy header changed its size")
        self._file.close()


class ColumnWriter(contextlib.AbstractContextManager):
    """Write the columns of one split example by example, counting and hashing the content."""

    def __init__(self, folder: Path, *, num_sides: int, vocab_size: int):
        folder.mkdir(parents=True)
        self.vocab_size = vocab_size
        self.num_examples = 0
        self.num_tokens = [0] * num_sides
        self._hash = hashlib.sha256()
        self._files = []
        for side in SIDES[:num_sides]:
            offsets = ArrayFile(folder / f"{side}.offsets.npy", np.int64)
            offsets.append(np.zeros(1, np.int64))
            ids = ArrayFile(folder / f"{side}.ids.npy", ids_dtype(vocab_size))
            self._files.append((offsets, ids, ArrayFile(folder / f"{side}.word.npy", WORD_DTYPE)))

    @property
    def sha256(self) -> str:
        """Hash of the texts, ids and words so far; origins are left out, for they name paths."""
        return self._hash.hexdigest()

    def append(self, example: Example) -> None:
        """Append one example.

        Raises: ValueError if an id is outside the vocabulary, or ids and words differ in length.
        """
        have, need = len(example.sides), len(self._files)
        if have != need:
            raise ValueError(
                f"{example.origin}: {len(example.sides)} sides, need {len(self._files)}"
            )
        for index, text in enumerate(example.sides):
            self._check(text, example.origin)
            raw = text.text.encode()
            self._hash.update(len(raw).to_bytes(4, "little") + raw)
            self._hash.update(len(text.ids).to_bytes(4, "little"))
            self._hash.update(np.asarray(text.ids, "<i4").tobytes())
            self._hash.update(np.asarray(text.word, "<i4").tobytes())
            self.num_tokens[index] += len(text.ids)
            offsets, ids, word = self._files[index]
            ids.append(text.ids)
            word.append(text.word)
            offsets.append(np.array([self.num_tokens[index]], np.int64))
        self.num_examples += 1

    def _check(self, text: Text, origin: str) -> None:
        if len(text.ids) != len(text.word):
            raise ValueError(f"{origin}: {len(text.ids)} ids but {len(text.word)} word indices")
        for name, values, limit in (
            ("token ids", text.ids, self.vocab_size),
            ("word indices", text.word, 1 << 16),
        ):
            if len(values) and not 0 <= np.min(values) <= np.max(values) < limit:
                raise ValueError(f"{origin}: {name} outside 0..{limit - 1}")

    def __exit__(self, *exc_info: object) -> None:
        """Close the files."""
        for group in self._files:
            for file in group:
                file.close()


def open_sides(folder: Path, *, num_sides: int) -> tuple[Side, ...]:
    """Memory-map the columns of one split."""
    return tuple(
        Side(*(_open_array(folder / f"{side}.{part}.npy") for part in ("offsets", "ids", "word")))
        for side in SIDES[:num_sides]
    )


def _open_array(path: Path) -> np.ndarray:
    try:
        # As a plain array over the map: slicing numpy's memmap class costs a microsecond more.
        return np.load(path, mmap_mode="r").view(np.ndarray)
    except ValueError:  # an empty array cannot be mapped
        return np.load(path)


def missing_columns(folder: Path, *, num_sides: int) -> Sequence[str]:
    """Name the column files that a split should have and has not."""
    names = [f"{s}.{part}.npy" for s in SIDES[:num_sides] for part in ("offsets", "ids", "word")]
    return [name for name in names if not (folder / name).is_file()]
