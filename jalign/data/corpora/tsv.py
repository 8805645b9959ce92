"""Bitext as tab-separated lines: `src<TAB>trg`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jalign.data.corpora import Part, two_languages
from jalign.data.corpora.lines import cut_flaw, repairs_of
from jalign.data.files import read_lines
from jalign.data.text import Flaw, Raw

USAGE = "tsv,SRC,TRG,FILE[,FILE...]"


def parts(fields: Sequence[str]) -> Iterator[Part]:
    """Yield one part per file of `SRC,TRG,FILE[,FILE...]`."""
    return two_languages("tsv", fields, read)


def read(path: str, *, separator: bytes = b"\t") -> Iterator[Raw]:
    """Yield every line as a pair; a line of one side or of three comes whole, with its flaw."""
    name = "tab" if separator == b"\t" else repr(separator.decode())
    for line in read_lines(path):
        sides, flaw = line.data.split(separator), cut_flaw(line)
        if len(sides) != 2 and not flaw:
            reason = "missing_separator" if len(sides) == 1 else "extra_separator"
            got = f"{len(sides) - 1} times {name}" if len(sides) > 1 else f"no {name}"
            flaw = Flaw(reason, f"the line has {got}, not one")
        raw = tuple(sides) if len(sides) == 2 else (line.data,)
        yield Raw(raw, path, line.number, repairs_of(line), flaw)
