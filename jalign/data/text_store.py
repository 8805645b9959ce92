"""Keep the texts of a file on disk, each once, to be read in order and by number.

In: one text per line, or `id<TAB>text` (BUCC). Out: a TextStore: 16 bytes per text in memory, the
rest in a file.
"""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jalign.data.files import MAX_LINE_BYTES, read_lines
from jalign.data.spool import DuplicateFinder
from jalign.errors import BadData


@dataclass(frozen=True)
class TextStore:
    """The kept texts: row i of the file at `path` is `name<TAB>text`, or the text alone.

    `counts` says what was left out, `sha256` what was kept.
    """

    source: str
    path: Path
    named: bool
    start_N: np.ndarray
    line_N: np.ndarray  # in the source, from 1
    sha256: str
    counts: Counter = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.start_N)

    def texts(self, first: int = 0) -> Iterator[str]:
        """Yield the texts in order, from `first` on."""
        for row in self._rows(range(first, len(self))):
            yield row.partition("\t")[2] if self.named else row

    def names(self, rows: np.ndarray) -> Iterator[str]:
        """Yield the names of some rows, or their texts where they have no names."""
        for row in self._rows(rows):
            yield row.partition("\t")[0] if self.named else row

    def place(self, row: int) -> str:
        """Return where a row stands, as file:line."""
        return f"{self.source}:{self.line_N[row]}"

    def _rows(self, rows: range | np.ndarray) -> Iterator[str]:
        with self.path.open("rb", buffering=1 << 16) as file:
            at = 0
            for row in rows:
                start = int(self.start_N[row])
                if start != at:  # a seek would throw the buffer away
                    file.seek(start)
                data = file.readline()
                at = start + len(data)
                yield data[:-1].decode()


def store_texts(
    source: Path | str, path: Path, *, named: bool = False, distinct: bool = True
) -> TextStore:
    """Write the texts of `source` to `path`, without white space around them.

    Empty texts are left out, and, where `distinct`, those that came before; both are counted.
    Raises: BadData with file:line for what is no UTF-8, too long, has a tab in a text (tabs part
    the fields of what is written), or, where `named`, none between a name and a text; and where no
    text remains.
    """
    counts: Counter = Counter()
    starts, lines = array("q"), array("q")
    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix="keys-") as folder,
        path.open("wb", buffering=1 << 20) as file,
    ):
        finder = DuplicateFinder(Path(folder) / "keys")
        at = 0
        for number, name, text in _read(source, named):
            if not text:
                counts["line without text, left out"] += 1
                continue
            if distinct:
                finder.append((text,))
            starts.append(at)
            lines.append(number)
            at += file.write((f"{name}\t{text}\n" if named else text + "\n").encode())
        keep_N = np.ones(len(starts), bool)
        if distinct:
            keep_N &= ~finder.find()[0]
    if not len(starts):
        raise BadData(f"{source}: no text in it; need a sentence per line")
    counts["repeated text, taken once"] = int((~keep_N).sum())
    start_N, line_N = (np.frombuffer(x, np.int64)[keep_N] for x in (starts, lines))
    said = hashlib.sha256(start_N.tobytes())
    with path.open("rb") as file:
        said.update(hashlib.file_digest(file, "sha256").digest())
    return TextStore(str(source), path, named, start_N, line_N, said.hexdigest(), +counts)


def _read(source: Path | str, named: bool) -> Iterator[tuple[int, str, str]]:
    """Yield number, name and text of each line. Raises: BadData."""
    for line in read_lines(source):
        place = f"{source}:{line.number}"
        if line.num_cut:
            raise BadData(
                f"{place}: a line of more than {MAX_LINE_BYTES:,} bytes; need a sentence per line: "
                "split it."
            )
        try:
            text = line.data.decode()
        except UnicodeDecodeError as error:
            raise BadData(
                f"{place}: byte 0x{line.data[error.start]:02x} at position {error.start} is not "
                "UTF-8; convert the file (iconv -f CHARSET -t UTF-8)."
            ) from error
        name, tab, rest = text.partition("\t")
        if named and not (tab and name.strip()):
            raise BadData(f"{place}: {text[:60]!r}; need an id, a tab, and a sentence")
        name, text = (name.strip(), rest.strip()) if named else ("", text.strip())
        if "\t" in text:
            what = "a second tab" if named else "a tab"
            raise BadData(
                f"{place}: {what} in {text[:60]!r}; need a sentence without one: replace it "
                "(or type --ids for lines of id, tab, sentence)."
            )
        yield line.number, name, text
