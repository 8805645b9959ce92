"""Write vectors to a .npy file bit by bit, so that a run that was killed goes on where it was.

`F.npy.part` holds the header and the rows so far; `F.npy.part.json` says how many rows count, what
they were made of, and what was counted. Finishing patches the header and renames the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jalign.errors import UserError

HEADER_BYTES = 128  # room for any number of rows


def header(num_rows: int, size: int) -> bytes:
    """Return the .npy header of float32 [num_rows, size], always HEADER_BYTES long."""
    said = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({num_rows}, {size}), }}"
    room = HEADER_BYTES - 10  # magic, version and length before it
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + said.ljust(room - 1).encode() + b"\n"


class VectorFile:
    """A .npy file of float32 rows in the making; `num_rows` are there, also from an earlier run."""

    def __init__(self, path: Path, size: int, made_of: Mapping[str, Any] | None) -> None:
        """Open or go on; `made_of` says what decides the rows, None that nothing can (a stream).

        A part that was made of anything else is begun anew. Raises: UserError where the system does
        not let us write; so do the methods.
        """
        self.path, self.size = path, size
        self.part = path.with_name(path.name + ".part")
        self.note = path.with_name(path.name + ".part.json")
        self.made_of = None
        if made_of is not None:
            self.made_of = json.loads(json.dumps({**made_of, "size": size}))
        with self._writing():
            self.num_rows, self.counts = self._found()
            self.resumed = self.num_rows
            self._file = self.part.open("r+b" if self.num_rows else "w+b")
            self._file.write(header(0, size))
            self._file.truncate(self._end())
            self._file.seek(self._end())

    def __enter__(self) -> VectorFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write {self.part}: {error.strerror}; mend that and type the same command "
                "again."
            ) from error

    def _end(self) -> int:
        return HEADER_BYTES + self.num_rows * self.size * 4

    def _found(self) -> tuple[int, dict[str, int]]:
        """Return the rows of an earlier run that hold, and what it counted."""
        if self.made_of is None or not self.part.exists() or not self.note.exists():
            return 0, {}
        try:
            said = json.loads(self.note.read_text(encoding="utf-8"))
        except ValueError:
            return 0, {}
        room = (self.part.stat().st_size - HEADER_BYTES) // (self.size * 4)
        if said.get("made_of") != self.made_of or not 0 < said["rows"] <= room:
            return 0, {}
        return said["rows"], said["counts"]

    def append(self, v_ND: np.ndarray, counts: Mapping[str, int]) -> None:
        """Add rows, then note that they are there; `counts` is kept beside them."""
        with self._writing():
            self._file.write(np.ascontiguousarray(v_ND, "<f4").tobytes())
            self._file.flush()
            self.num_rows += len(v_ND)
            if self.made_of is None:
                return
            os.fsync(self._file.fileno())
            said = {"rows": self.num_rows, "counts": dict(counts), "made_of": self.made_of}
            new = self.note.with_name(self.note.name + ".new")
            new.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
            new.replace(self.note)

    def finish(self) -> None:
        """Write the number of rows into the header and give the file its name."""
        with self._writing():
            self._file.seek(0)
            self._file.write(header(self.num_rows, self.size))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self.part.replace(self.path)
            self.note.unlink(missing_ok=True)
