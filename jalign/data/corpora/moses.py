"""Bitext in the style of Moses: two files, line i of one translates line i of the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import zip_longest

from jalign.data.corpora import Part, check_fields, language_pair
from jalign.data.corpora.lines import cut_flaw, repairs_of
from jalign.data.files import expand, read_lines
from jalign.data.text import Raw
from jalign.errors import BadData, UserError

USAGE = "moses,SRC,TRG,SRC_FILE,TRG_FILE"


def parts(fields: Sequence[str]) -> Iterator[Part]:
    """Yield one part per pair of files; globs must match in number."""
    check_fields("moses", fields, 2, 2)
    if len(fields) != 4:
        raise UserError(f"moses takes two files, got {len(fields) - 2}; type --corpus={USAGE}")
    langs = language_pair(*fields[:2])
    src_paths, trg_paths = expand(fields[2]), expand(fields[3])
    if len(src_paths) != len(trg_paths):
        raise UserError(
            f"{fields[2]} names {len(src_paths)} files but {fields[3]} names {len(trg_paths)}; "
            "they must pair up in sorted order."
        )
    for src, trg in zip(src_paths, trg_paths, strict=True):
        yield Part(langs, (src, trg), partial(read, src, trg))


def read(src_path: str, trg_path: str) -> Iterator[Raw]:
    """Yield the pairs; their origin is the line of the source file.

    Raises: BadData if one file has more lines, in every mode: nobody can know where pairing broke.
    """
    src_lines, trg_lines = read_lines(src_path), read_lines(trg_path)
    for number, (src, trg) in enumerate(zip_longest(src_lines, trg_lines), start=1):
        if src is None or trg is None:
            more = sum(1 for _ in (src_lines if trg is None else trg_lines))
            raise BadData(_unequal(src_path, trg_path, number, more, src is None))
        repairs = repairs_of(src) + repairs_of(trg, side=1)
        flaw = cut_flaw(src) or cut_flaw(trg, side=1)
        yield Raw((src.data, trg.data), src_path, number, repairs, flaw, trg_path)


def _unequal(src_path: str, trg_path: str, number: int, more: int, src_ended: bool) -> str:
    short, long = (src_path, trg_path) if src_ended else (trg_path, src_path)
    return (
        f"{long}:{number}: unequal_line_counts: {short} ends after {number - 1} lines, {long} has "
        f"{number + more}. Line i of one file must translate line i of the other; where they came "
        "apart cannot be known, so quarantine cannot help either: restore them from their origin."
    )
