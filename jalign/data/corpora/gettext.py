"""Message catalogues of programs (.po, .mo), translated from English into many languages.

A path is a catalogue, a folder of them, or `package:NAME`: an installed Python package, which is
looked up and not imported. The English is the msgid, or the `#. Default: "..."` comment where ids
are symbolic (Plone).
"""

from __future__ import annotations

import gettext
import importlib.util
import re
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import polib

from jalign.data.corpora import Part, check_fields
from jalign.data.corpora._markup import clean_pair, has_letters
from jalign.data.files import expand, read_bytes
from jalign.data.languages import from_locale, normalize_tag, stand_ins
from jalign.data.text import Flaw, Raw
from jalign.errors import UserError

USAGE = "gettext,en,LANG[+LANG...],PATH[,PATH...]  (PATH: a file, a folder or package:NAME)"
_BOM = b"\xef\xbb\xbf"
_SUFFIXES = (".po", ".mo", ".po.gz", ".mo.gz", ".po.xz", ".mo.xz", ".po.zst", ".mo.zst")


@dataclass(frozen=True)
class Catalogue:
    """A file of messages, the locale it is for, and how its place is written in origins."""

    path: Path
    locale: str | None
    shown: str


def parts(fields: Sequence[str]) -> Iterator[Part]:
    """Yield one part per language of `en,LANG[+LANG...],PATH[,PATH...]`.

    Raises: UserError where a path has no catalogue for a language, naming those it has.
    """
    check_fields("gettext", fields, 2, 1)
    src = normalize_tag(fields[0])
    if src.partition("-")[0] != "en":
        raise UserError(f"catalogues are translated from en, not {src}; type --corpus={USAGE}")
    for lang in map(normalize_tag, fields[1].split("+")):
        for path in fields[2:]:
            chosen = find(path, lang)
            left_out: Counter = Counter()
            files = tuple(str(catalogue.path) for catalogue in chosen)
            yield Part((src, lang), files, partial(_read_all, chosen, left_out), left_out=left_out)


def _read_all(catalogues: Sequence[Catalogue], left_out: Counter) -> Iterator[Raw]:
    for catalogue in catalogues:
        yield from read(str(catalogue.path), left_out=left_out, shown=catalogue.shown)


def find(path: str, lang: str) -> list[Catalogue]:
    """Return the catalogues of a language under a path; .po goes before .mo of the same name.

    Raises: UserError if there are none.
    """
    catalogues = _catalogues(path)
    if len(catalogues) == 1 and str(catalogues[0].path) == path:  # named by itself: taken as it is
        return list(catalogues)
    by_locale: dict[str, list[Catalogue]] = {}
    for catalogue in catalogues:
        by_locale.setdefault(catalogue.locale, []).append(catalogue)
    for tag in stand_ins(lang):
        if tag in by_locale:
            return by_locale[tag]
    have = ", ".join(sorted(by_locale)) or "no catalogues at all"
    raise UserError(f"{path} has no catalogues for {lang}; it has {have}.")


@cache
def _catalogues(path: str) -> tuple[Catalogue, ...]:
    if path.startswith("package:"):
        roots = [(root, path) for root in _package_folders(path.removeprefix("package:"))]
    else:
        roots = [(Path(p), p) for p in expand(path)]
    found = []
    for root, shown in roots:
        for file in _catalogue_files(root) if root.is_dir() else [root]:
            if not root.is_dir():
                found.append(Catalogue(file, _locale_of(file, root.parent), shown))
            elif locale := _locale_of(file, root):
                found.append(Catalogue(file, locale, str(Path(shown) / file.relative_to(root))))
    return tuple(found)


def _package_folders(name: str) -> list[Path]:
    try:
        spec = importlib.util.find_spec(
            name
        )  # of plone.app.locales this imports plone.app, no more
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"no installed package {name!r}; install it with pip (those of the quickstart "
            "are Django and plone.app.locales) or correct --corpus."
        )
    return [Path(folder) for folder in spec.submodule_search_locations]


def _catalogue_files(root: Path) -> list[Path]:
    files = sorted(p for p in root.rglob("*") if p.name.endswith(_SUFFIXES) and p.is_file())
    texts = {_stem(p) for p in files if ".po" in p.suffixes}
    return [p for p in files if ".po" in p.suffixes or _stem(p) not in texts]


def _stem(path: Path) -> Path:
    return path.with_name(re.sub(r"\.(po|mo)(\.gz|\.xz|\.zst)?$", "", path.name))


def _locale_of(file: Path, root: Path) -> str | None:
    """Read the locale from `<locale>/LC_MESSAGES/x.po`, `<locale>.po` or `<locale>/x.po`."""
    if file.parent.name == "LC_MESSAGES":
        return from_locale(file.parent.parent.name)
    names = [_stem(file).name] + ([file.parent.name] if file.parent != root else [])
    names = [name for name in names if re.match("[a-zA-Z]{2,3}([_@.-]|$)", name)]
    return next(filter(None, map(from_locale, names)), None)


def read(path: str, *, left_out: Counter | None = None, shown: str | None = None) -> Iterator[Raw]:
    """Yield the messages of one catalogue as pairs (English, translation).

    What is no pair of texts is counted by reason in `left_out`: untranslated, fuzzy, obsolete,
    symbolic_id (no English given), other_plural_form, no_letters, same_as_english.
    """
    left_out = Counter() if left_out is None else left_out
    shown = shown or path
    repairs: tuple[Flaw, ...] = ()
    try:
        data = read_bytes(path)
        if data.startswith(_BOM):
            data, repairs = data[len(_BOM) :], (Flaw("bom", "begins with a byte order mark"),)
        catalogue = _parse(data, is_po=".po" in Path(path).suffixes)
        plural = _plural_rule(catalogue)
    except (OSError, UnicodeError, ValueError, LookupError, struct.error) as error:
        yield Raw((b"",), shown, _error_line(error), repairs, _error_flaw(error))
        return
    symbolic = any(_default(entry) for entry in catalogue)
    for index, entry in enumerate(catalogue, start=1):
        line = getattr(entry, "linenum", None) or index  # a .mo has no lines: the message
        for src, trg in _pairs(entry, plural, symbolic, left_out):
            src, trg = clean_pair(src, trg)
            if not has_letters(src) or not has_letters(trg):
                left_out["no_letters"] += 1
            elif src == trg:
                left_out["same_as_english"] += 1
            else:
                yield Raw((src.encode(), trg.encode()), shown, line, repairs)
                repairs = ()


def _error_line(error: Exception) -> int:
    if isinstance(error, UnicodeDecodeError):
        return error.object.count(b"\n", 0, error.start) + 1
    match = re.search(r"line (\d+)", str(error))
    return int(match[1]) if match else 1


def _error_flaw(error: Exception) -> Flaw:
    detail = re.sub(r"\s+", " ", str(error))[:200]
    return Flaw("bad_utf8" if isinstance(error, UnicodeError) else "bad_catalogue", detail)


def _parse(data: bytes, *, is_po: bool) -> polib.POFile | polib.MOFile:
    """Parse a catalogue from a file: polib would cut a string at U+2028 and its like."""
    charset = re.search(rb'"Content-Type:[^"]*charset=([\w.-]+)', data) if is_po else None
    encoding = charset[1].decode() if charset and charset[1] != b"CHARSET" else "utf-8"
    if is_po:
        data.decode(encoding)  # fail here, where the position is that in the file
    with tempfile.NamedTemporaryFile(suffix=".po" if is_po else ".mo") as file:
        file.write(data)
        file.flush()
        return polib.pofile(file.name, encoding=encoding) if is_po else polib.mofile(file.name)


def _plural_rule(catalogue: polib.POFile | polib.MOFile) -> Callable[[int], int]:
    header = catalogue.metadata.get("Plural-Forms", "")
    match = re.search(r"plural\s*=\s*([^;]+)", header)
    try:
        return gettext.c2py(match[1]) if match else lambda n: int(n != 1)
    except ValueError:
        return lambda n: int(n != 1)


def _default(entry: polib.POEntry | polib.MOEntry) -> str | None:
    """Return the English of a `Default: "..."` comment; it may run over several lines."""
    match = re.search(r'\bDefault:\s*"(.*)"\s*$', getattr(entry, "comment", "") or "", re.DOTALL)
    return match[1].replace('\\"', '"').replace("\n", " ") if match else None


def _pairs(
    entry: polib.POEntry | polib.MOEntry,
    plural: Callable[[int], int],
    symbolic: bool,
    left_out: Counter,
) -> Iterator[tuple[str, str]]:
    """Yield the text pairs of one message: one, or singular and plural; count what is left out."""
    if entry.obsolete:
        left_out["obsolete"] += 1
    elif "fuzzy" in (entry.flags or ()):
        left_out["fuzzy"] += 1
    elif entry.msgid_plural:
        yield from _plural_pairs(entry, plural, left_out)
    elif not entry.msgstr:
        left_out["untranslated"] += 1
    elif default := _default(entry):
        yield default, entry.msgstr
    elif symbolic and re.fullmatch(r"[a-z0-9]+([_.:-][\w.:-]*)+", entry.msgid):
        left_out["symbolic_id"] += 1
    else:
        yield entry.msgid, entry.msgstr


def _plural_pairs(
    entry: polib.POEntry | polib.MOEntry, plural: Callable[[int], int], left_out: Counter
) -> Iterator[tuple[str, str]]:
    """Yield (singular, form for 1) and (plural, form for 100); Arabic and others have more."""
    forms = {int(index): text for index, text in entry.msgstr_plural.items()}
    chosen = {plural(100): entry.msgid_plural}
    if plural(1) not in chosen:
        chosen = {plural(1): entry.msgid, **chosen}
    for index, src in chosen.items():
        if forms.get(index):
            yield src, forms[index]
        else:
            left_out["untranslated"] += 1
    if others := sum(1 for i in forms if i not in chosen):
        left_out["other_plural_form"] += others
