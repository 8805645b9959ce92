"""One reader per corpus format: `read(...)` yields records as found, with their origin.

A format is a file of this folder with `USAGE` (the fields of `--corpus`), `parts(fields)`, which
turns those fields into parts, and `read`. To add one, add a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from jalign.data.files import expand
from jalign.data.languages import normalize_tag
from jalign.data.text import Limits, Raw
from jalign.errors import UserError


@dataclass(frozen=True)
class Part:
    """Some files of one source and how to read them.

    `left_out` counts what a reader passes over as no text to begin with: untranslated messages.
    A part travels to other machines: `read` can be pickled.
    """

    langs: tuple[str, ...]
    files: tuple[str, ...]
    read: Callable[[], Iterator[Raw]]
    limits: Limits = Limits()
    left_out: Counter = field(default_factory=Counter)

    @property
    def stream(self) -> str:
        """Return `mono` for one language, `pair` for two."""
        return "mono" if len(self.langs) == 1 else "pair"


def check_fields(name: str, fields: Sequence[str], num_langs: int, min_paths: int) -> None:
    """Check that a `--corpus` has its languages and paths.

    Raises: UserError with the usage of the format.
    """
    if len(fields) < num_langs + min_paths or not all(fields):
        from jalign import plugin

        usage = plugin.load("data/corpora", name).USAGE
        raise UserError(f"--corpus={','.join([name, *fields])} lacks fields; type --corpus={usage}")


def one_language(
    name: str, fields: Sequence[str], read: Callable[[str], Iterator[Raw]], **options: Limits
) -> Iterator[Part]:
    """Yield a part per file of `LANG,FILE[,FILE...]`."""
    check_fields(name, fields, 1, 1)
    langs = (normalize_tag(fields[0]),)
    for path in (path for pattern in fields[1:] for path in expand(pattern)):
        yield Part(langs, (path,), partial(read, path), **options)


def two_languages(
    name: str, fields: Sequence[str], read: Callable[[str], Iterator[Raw]]
) -> Iterator[Part]:
    """Yield a part per file of `SRC,TRG,FILE[,FILE...]`."""
    check_fields(name, fields, 2, 1)
    langs = language_pair(*fields[:2])
    for path in (path for pattern in fields[2:] for path in expand(pattern)):
        yield Part(langs, (path,), partial(read, path))


def language_pair(src: str, trg: str) -> tuple[str, str]:
    """Return the two tags in their usual case.

    Raises: UserError if they are the same.
    """
    langs = (normalize_tag(src), normalize_tag(trg))
    if langs[0] == langs[1]:
        raise UserError(f"a pair needs two languages, got {langs[0]} twice.")
    return langs
