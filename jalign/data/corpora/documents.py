"""Documents in the style of CC-100: paragraphs on lines, a blank line ends a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jalign.data.corpora import Part, one_language
from jalign.data.corpora.lines import cut_flaw, repairs_of
from jalign.data.files import MAX_LINE_BYTES, Line, read_lines
from jalign.data.text import Flaw, Limits, Raw

USAGE = "documents,LANG,FILE[,FILE...]"
# a document may be a book chapter; words are stored in 16 bits
LIMITS = Limits(max_chars=1_000_000, max_words=60_000)
_MAX_BYTES = 8 * MAX_LINE_BYTES
_MAX_REPAIRS = 1 << 16  # remembered per document


def parts(fields: Sequence[str]) -> Iterator[Part]:
    """Yield one part per file of `LANG,FILE[,FILE...]`."""
    return one_language("documents", fields, read, limits=LIMITS)


def read(path: str) -> Iterator[Raw]:
    """Yield each document: paragraphs joined by \\n, the line of the first as its origin."""
    lines: list[Line] = []
    repaired: list[Line] = []  # blank lines too may end in CRLF or begin with a BOM
    size, num_cut = 0, 0
    for line in read_lines(path):
        size += len(line.data) + 1
        if line.repairs and len(repaired) < _MAX_REPAIRS:
            repaired.append(line)
        if not line.data.strip():
            if lines:
                yield _document(lines, path, repaired, num_cut)
                repaired = []
            lines, size, num_cut = [], 0, 0
        elif size <= _MAX_BYTES:
            lines.append(line)
        else:  # no blank line for 8 MiB: count the rest, so that memory stays constant
            num_cut += len(line.data) + 1
    if lines:
        yield _document(lines, path, repaired, num_cut)


def _document(lines: list[Line], path: str, repaired: list[Line], num_cut: int) -> Raw:
    start = lines[0].number
    text = b"\n".join(line.data for line in lines)
    repairs = tuple(r for x in repaired for r in repairs_of(x, lines_down=x.number - start))
    flaw = next(filter(None, map(cut_flaw, lines)), None)
    if num_cut:
        flaw = Flaw("too_long", f"a document of {len(text) + num_cut} bytes, {len(text)} were read")
    return Raw((text,), path, start, repairs, flaw)
