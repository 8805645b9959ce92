"""Read the entries of bilingual dictionary files as they stand: columns, FreeDict TEI, dictd.

Columns: `src trg` (MUSE, xling-eval) or `src<TAB>trg[<TAB>weight]`; with tabs a side may have
several words. A line that is `#` alone or begins with `# ` is a comment (`#the #der` is an entry).
TEI: the XML source of FreeDict. dictd: its compiled form, two files, X.index and X.dict or
X.dict.dz; the index is held in memory, and the articles are typeset text, taken apart by rules that
are right for most entries (the TEI source is better).
"""

from __future__ import annotations

import gzip
import io
import itertools
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from jalign.data.files import Line, open_stream, read_lines
from jalign.errors import BadData, ConfigError

FORMATS = ("columns", "tei", "dictd")
_PEEKED_LINES = 1000  # enough to tell tabs from spaces
_BAD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]")
_BRACKETS = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|<[^<>]*>|\{[^{}]*\}|/[^/]*/")
_DIGITS = {c: i for i, c in enumerate(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
)}  # fmt: skip


class Entry(NamedTuple):
    """A word or phrase, one translation of it, and its weight if the file has one."""

    src: str
    trg: str
    weight: float | None = None


def format_of(path: Path | str) -> str:
    """Tell the format of a file from its name."""
    name = Path(path).name.lower()
    if name.endswith((".index", ".dict", ".dict.dz")):
        return "dictd"
    packed = name.removesuffix(".gz").removesuffix(".xz").removesuffix(".zst")
    return "tei" if packed.endswith((".tei", ".xml")) else "columns"


def read_entries(path: Path | str, format: str, counts: Counter[str]) -> Iterator[Entry]:
    """Yield the entries of a file; what is left out is counted in `counts` by its reason.

    `counts["entries"]` counts what was an entry at all: a line, or a translation of an article.
    Raises: ConfigError for a missing file or an unknown format; BadData for a damaged file.
    """
    readers: dict[str, Callable] = {"columns": _columns, "tei": _tei, "dictd": _dictd}
    if format not in readers:
        raise ConfigError(f"dictionary format {format!r}: need one of {', '.join(FORMATS)}.")
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(f"the dictionary {path} {what}; name a file of word pairs.")
    yield from readers[format](path, counts)


def _columns(path: Path, counts: Counter[str]) -> Iterator[Entry]:
    lines = read_lines(path)
    first = list(itertools.islice(lines, _PEEKED_LINES))
    tabs = 2 * sum(b"\t" in line.data for line in first) > sum(bool(line.data) for line in first)
    for line in itertools.chain(first, lines):
        fields = _fields(line, tabs, counts)
        if len(fields) < 2:
            continue
        if len(fields) == 2:
            yield Entry(*fields)
            continue
        weight = _number(fields[2])
        if weight is None and not tabs:
            counts["needs two columns"] += 1
        elif weight is not None and not (0 < weight < math.inf):
            counts["weight is not positive"] += 1
        else:
            counts["with more columns than used"] += weight is None or len(fields) > 3
            yield Entry(fields[0], fields[1], weight)


def _fields(line: Line, tabs: bool, counts: Counter[str]) -> list[str]:
    """Return the columns of a line, [] after counting why it has none."""
    try:
        text = line.data.decode()
    except UnicodeDecodeError:
        counts["entries"] += 1
        counts["not UTF-8"] += 1
        return []
    fields = [field.strip() for field in text.split("\t")] if tabs else text.split()
    while fields and not fields[-1]:  # tabs at the end
        fields.pop()
    if not fields or fields[0] == "#" or text.startswith(("# ", "#\t")):
        counts["comment or empty line"] += 1
        return []
    counts["entries"] += 1
    if line.num_cut or _BAD.search(text):
        counts["line too long" if line.num_cut else "control character"] += 1
    elif len(fields) < 2 or not (fields[0] and fields[1]) or (len(fields) > 3 and not tabs):
        counts["needs two columns"] += 1
    else:
        return fields
    return []


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _tei(path: Path, counts: Counter[str]) -> Iterator[Entry]:
    try:
        with open_stream(path) as stream:
            parents: list[ElementTree.Element] = []
            for event, element in ElementTree.iterparse(stream, events=("start", "end")):
                if event == "start":
                    parents.append(element)
                    continue
                parents.pop()
                if _name(element) == "entry":
                    yield from _tei_entry(element, counts)
                    parents[-1].remove(element)  # or the whole file would stay in memory
    except (ElementTree.ParseError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadData(f"{path} is no whole XML file ({error}); copy it again.") from error


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _tei_entry(entry: ElementTree.Element, counts: Counter[str]) -> Iterator[Entry]:
    heads = [_clean(_text(orth)) for orth in entry.findall("{*}form/{*}orth")]
    found = list(_tei_translations(entry))
    if not found:  # small dictionaries have only definitions, which are lists of words
        texts = (_text(element) for element in entry.iter() if _name(element) == "def")
        found = [part for text in texts for part in _split(text)]
    yield from _all_pairs(heads, [_clean(text) for text in found], counts)


def _tei_translations(element: ElementTree.Element) -> Iterator[str]:
    """Yield the translations below an element, but not those of examples."""
    for child in element:
        kind = child.get("type", "")
        if _name(child) == "cit" and kind.startswith("trans"):
            yield from (_text(quote) for quote in child if _name(quote) == "quote")
        elif _name(child) == "tr":
            yield _text(child)
        elif not (_name(child) == "cit" and kind):
            yield from _tei_translations(child)


def _text(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def _split(text: str) -> list[str]:
    return re.split(r"[,;]", _strip_brackets(text))


def _strip_brackets(text: str) -> str:
    while (shorter := _BRACKETS.sub(" ", text)) != text:
        text = shorter
    return text


def _clean(text: str) -> str:
    return " ".join(_strip_brackets(text).split())


def _all_pairs(heads: list[str], found: list[str], counts: Counter[str]) -> Iterator[Entry]:
    """Pair the headwords of an article with its translations."""
    heads, found = ([text for text in texts if text] for texts in (heads, found))
    if not (heads and found):
        counts["entries"] += 1
        counts["no headword" if not heads else "no translation"] += 1
    for head in heads:
        for text in found:
            counts["entries"] += 1
            yield Entry(head, text)


def _dictd(path: Path, counts: Counter[str]) -> Iterator[Entry]:
    base = str(path).removesuffix(".dz").removesuffix(".dict").removesuffix(".index")
    index = Path(base + ".index")
    articles = next(
        (p for p in (Path(base + ".dict"), Path(base + ".dict.dz")) if p.exists()), None
    )
    if articles is None or not index.exists():
        raise ConfigError(
            f"a dictd dictionary is two files, {base}.index and {base}.dict or .dict.dz; "
            f"{'the index' if articles else 'the text'} is missing."
        )
    places = sorted(_dictd_places(index, counts), key=lambda place: place[1:])
    try:
        with _open_dictd(articles) as stream:
            # In the order of the file, an article of several headwords once: gzip cannot go back.
            for (start, length), group in itertools.groupby(places, key=lambda place: place[1:]):
                stream.seek(start)
                text = stream.read(length).decode(errors="replace")
                for head, *_ in group:
                    yield from _article(head, text, counts)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadData(f"{articles} is cut short or damaged ({error}); copy it again.") from error


def _open_dictd(path: Path) -> io.BufferedReader:
    # .dict.dz is gzip with an index in its header, which gzip skips
    return io.BufferedReader(gzip.open(path) if path.suffix == ".dz" else path.open("rb"), 1 << 18)


def _dictd_places(index: Path, counts: Counter[str]) -> Iterator[tuple[str, int, int]]:
    for line in read_lines(index):
        fields = line.data.decode(errors="replace").split("\t")
        if len(fields) < 3 or not all(c in _DIGITS for field in fields[1:3] for c in field):
            raise BadData(f"{index}:{line.number}: need headword, offset and length with tabs")
        if not fields[0].startswith("00"):
            yield fields[0], _base64(fields[1]), _base64(fields[2])


def _base64(digits: str) -> int:
    value = 0
    for digit in digits:
        value = 64 * value + _DIGITS[digit]
    return value


def _article(head: str, text: str, counts: Counter[str]) -> Iterator[Entry]:
    """Take an article apart: headword, pronunciation and class on a line, then translations."""
    first, *lines = text.split("\n")
    written = re.split(r" [/<\[]", first)[0].strip()
    if written.casefold() == head.casefold():  # the index has it in lower case
        head = written
    found = []
    for line in lines:
        body = re.sub(r"^\s*[0-9]+\.", "", line)
        note = line[:1] == " " and line[1:2] != "["  # remarks are indented, usage is in brackets
        if not note and not re.match(r'\s*(["\']|see:|Synonym|Note)', body):
            found += _split(body)
    yield from _all_pairs([_clean(head)], [_clean(part) for part in found], counts)
