"""Plain text, one example per line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jalign.data.corpora import Part, one_language
from jalign.data.files import Line, read_lines
from jalign.data.text import Flaw, Raw

USAGE = "lines,LANG,FILE[,FILE...]"


def parts(fields: Sequence[str]) -> Iterator[Part]:
    """Yield one part per file of `LANG,FILE[,FILE...]`."""
    return one_language("lines", fields, read)


def read(path: str) -> Iterator[Raw]:
    """Yield every line of a file."""
    for line in read_lines(path):
        yield Raw((line.data,), path, line.number, repairs_of(line), cut_flaw(line))


_REPAIRS = {
    "bom": "the line begins with a byte order mark (EF BB BF)",
    "crlf": "the line ends in \\r\\n",
}


def repairs_of(line: Line, *, side: int = 0, lines_down: int = 0) -> tuple[Flaw, ...]:
    """Return what was taken off a line as flaws that are mended already."""
    return tuple(Flaw(reason, _REPAIRS[reason], side, lines_down) for reason in line.repairs)


def cut_flaw(line: Line, *, side: int = 0) -> Flaw | None:
    """Return the flaw of a line that was too long to be read whole."""
    if not line.num_cut:
        return None
    num_bytes = len(line.data) + line.num_cut
    return Flaw(
        "too_long", f"a line of {num_bytes} bytes, of which {len(line.data)} were read", side
    )
