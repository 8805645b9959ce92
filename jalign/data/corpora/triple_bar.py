"""Bitext as `src ||| trg` lines, the input of fast_align and awesome-align."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jalign.data.corpora import Part, tsv, two_languages
from jalign.data.text import Raw

USAGE = "triple_bar,SRC,TRG,FILE[,FILE...]"


def parts(fields: Sequence[str]) -> Iterator[Part]:
    """Yield one part per file of `SRC,TRG,FILE[,FILE...]`."""
    return two_languages("triple_bar", fields, read)


def read(path: str) -> Iterator[Raw]:
    """Yield every line as a pair, without the spaces around the bar."""
    for raw in tsv.read(path, separator=b"|||"):
        if raw.flaw:
            yield raw
        else:
            yield raw._replace(sides=(raw.sides[0].rstrip(b" "), raw.sides[1].lstrip(b" ")))
