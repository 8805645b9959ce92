"""Write links as lines, one per pair, and go on after a kill.

`F.part` holds the lines so far; `F.part.json` says how many of them and how many bytes count, what
they were made of, and what was counted. Finishing renames the file.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jalign.errors import UserError
from jalign.inference.align_links import Links
from jalign.inference.align_texts import Pair

WORD_SEPARATOR = "<sep>"  # between two words, as awesome-align writes them


def format_lines(links: Links, pairs: Sequence[Pair] | None = None) -> str:
    """Format the links of pairs, one line each: `i-j`, or with `pairs` the words `src<sep>trg`;
    `:score` behind each where there are scores.
    """
    cuts, lines = links.firsts.tolist(), []
    ends = ["{}-{}"] if pairs is None else ["{}" + WORD_SEPARATOR + "{}"]
    form = "".join(ends + ([":{:.4f}"] if links.score_A is not None else [])).format
    for k in range(links.num_pairs):
        at = slice(cuts[k], cuts[k + 1])
        fields = [links.src_A[at].tolist(), links.trg_A[at].tolist()]
        if pairs is not None and fields[0]:
            fields = [_words(text, at) for text, at in zip(pairs[k], fields, strict=True)]
        if links.score_A is not None:
            fields.append(links.score_A[at].tolist())
        lines.append(" ".join(map(form, *fields)) + "\n")
    return "".join(lines)


def _words(text: str, at: Sequence[int]) -> list[str]:
    words = text.split()
    return [words[i] for i in at]


class Stdout:
    """Standard output, with the methods of a LineFile that cannot go on."""

    num_lines, counts = 0, {}

    def __enter__(self) -> Stdout:
        return self

    def __exit__(self, *error: object) -> None: ...

    def append(self, text: str, num_lines: int, counts: Mapping[str, int]) -> None:
        """Write lines; whoever reads them need not wait for the next ones."""
        del num_lines, counts
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()

    def finish(self) -> None:
        """Do nothing: every line is out."""


class LineFile:
    """A text file in the making; `num_lines` are there, also from an earlier run."""

    def __init__(self, path: Path, made_of: Mapping[str, Any] | None) -> None:
        """Open or go on; `made_of` says what decides the lines, None that nothing can (a stream).

        A part that was made of anything else is begun anew. Raises: UserError where the system does
        not let us write; so do the methods.
        """
        self.path = path
        self.part = path.with_name(path.name + ".part")
        self.note = path.with_name(path.name + ".part.json")
        self.made_of = None if made_of is None else json.loads(json.dumps(made_of))
        with self._writing():
            self.num_lines, self.num_bytes, self.counts = self._found()
            self._file = self.part.open("r+b" if self.num_lines else "w+b")
            self._file.truncate(self.num_bytes)
            self._file.seek(self.num_bytes)

    def __enter__(self) -> LineFile:
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

    def _found(self) -> tuple[int, int, dict[str, int]]:
        """Return lines and bytes of an earlier run that hold, and what it counted."""
        nothing = 0, 0, {}
        if self.made_of is None or not self.part.exists() or not self.note.exists():
            return nothing
        try:
            said = json.loads(self.note.read_text(encoding="utf-8"))
            found = int(said["lines"]), int(said["bytes"]), dict(said["counts"])
        except (ValueError, TypeError, KeyError):
            return nothing
        holds = said.get("made_of") == self.made_of and self.part.stat().st_size >= found[1]
        return found if holds else nothing

    def append(self, text: str, num_lines: int, counts: Mapping[str, int]) -> None:
        """Add lines, then note that they are there; `counts` is kept beside them."""
        with self._writing():
            data = text.encode()
            self._file.write(data)
            self._file.flush()
            self.num_lines += num_lines
            self.num_bytes += len(data)
            if self.made_of is None:
                return
            os.fsync(self._file.fileno())
            said = {"lines": self.num_lines, "bytes": self.num_bytes, "counts": dict(counts)}
            new = self.note.with_name(self.note.name + ".new")
            new.write_text(json.dumps({**said, "made_of": self.made_of}, indent=1) + "\n")
            new.replace(self.note)

    def finish(self) -> None:
        """Give the file its name."""
        with self._writing():
            os.fsync(self._file.fileno())
            self._file.close()
            self.part.replace(self.path)
            self.note.unlink(missing_ok=True)
