"""Read word-aligned gold sets, and score links against them.

A set is named `NAME,BITEXT,LINKS`, `NAME,SOURCE,TARGET,LINKS` or, for tab-separated lines of
source, target and links, `NAME,FILE`. Bitext is tab-separated or `|||`; its words stand between
spaces. Options may follow: `format=pharaoh|naacl` where the lines do not tell, `base=0|1` (pharaoh
0, naacl 1), `null=skip` for NAACL links to word 0, the empty word. Files may be .gz, .xz or .zst.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jalign.data.files import read_lines
from jalign.errors import BadData, ConfigError
from jalign.metrics.aer import LinkCounts, count_links, link_scores
from jalign.metrics.links import (
    Gold,
    Link,
    check_links,
    naacl_sentences,
    parse_naacl_lines,
    parse_pharaoh,
)
from jalign.types import Result

USAGE = "NAME,BITEXT,LINKS[,base=1], NAME,SOURCE,TARGET,LINKS or NAME,THREE_COLUMNS"
METRICS = ("precision", "recall", "f1", "aer")
_OPTIONS = {
    "format": ("pharaoh", "naacl"),
    "base": ("0", "1"),
    "null": ("skip",),
}
_NAACL = re.compile(r"\s*[0-9]+\s+[0-9]+\s+[0-9]+(\s+[SP])?(\s+[0-9.]+)?\s*")
_ENOUGH = 20  # sentences of which one at least links a first word


class GoldSet(NamedTuple):
    """Sentence pairs, tokenised at spaces, and the links of each."""

    name: str
    pairs: list[tuple[str, str]]
    gold: list[Gold]

    def counts(self, found: Iterable[Iterable[Link]], first: int = 0) -> LinkCounts:
        """Count the links found in the sentences from `first` on."""
        rows = zip(found, self.gold[first:], strict=False)
        return sum((count_links(links, g.sure, g.possible) for links, g in rows), LinkCounts())

    def described(self) -> str:
        """Return the numbers of sentences and links as text."""
        sure = sum(len(g.sure) for g in self.gold)
        possible = sum(len(g.possible) for g in self.gold) - sure
        return f"{len(self.gold):,} sentences, {sure:,} sure links, {possible:,} only possible"


def task_name(method: str, layer: int) -> str:
    """Return the name under which results of a method at a layer are kept."""
    return f"word_alignment/{method}/layer{layer}"


def results(task: str, lang: str, counts: LinkCounts, num: int) -> Iterator[Result]:
    """Yield precision, recall, F1 and AER; for AER less is better."""
    for metric, value in link_scores(counts)._asdict().items():
        yield Result(task, lang, metric, value, num)


def read_gold_sets(specs: Iterable[str]) -> list[GoldSet]:
    """Read gold sets, each with a name of its own. Raises: as `read_gold`."""
    sets = [read_gold(spec) for spec in specs]
    names = [s.name for s in sets]
    if len(set(names)) < len(names) or "avg" in names:
        raise ConfigError(
            f"gold sets {', '.join(names)}: every set needs a name of its own, and 'avg' is taken"
        )
    return sets


def read_gold(spec: str) -> GoldSet:
    """Read a gold set. Raises: ConfigError for the spec, BadData with its place for a file."""
    fields = spec.split(",")
    files = [f for f in fields[1:] if "=" not in f]
    options = dict(f.split("=", 1) for f in fields[1:] if "=" in f)
    for name, value in options.items():
        if value not in _OPTIONS.get(name, ()):
            known = ", ".join(f"{n}={'|'.join(v)}" for n, v in _OPTIONS.items())
            raise ConfigError(f"--gold={spec}: {name}={value} is no option; there are {known}")
    if not fields[0] or "=" in fields[0] or not 1 <= len(files) <= 3:
        raise ConfigError(f"--gold={spec}: need {USAGE}")
    paths = [str(Path(f).expanduser()) for f in files]
    for path in paths:
        if not Path(path).is_file():
            raise ConfigError(f"--gold={spec}: no file {path}")
    columns = _columns(paths)
    pairs, lines = [(row[0], row[1]) for row in columns.rows], columns.links
    kind = options.get("format") or _kind(lines)
    if kind != "naacl" and "null" in options:
        raise ConfigError(f"--gold={spec}: null=skip is for NAACL links, and these are {kind}")
    base = int(options.get("base", kind == "naacl"))
    if kind == "naacl":
        gold = _naacl(lines, columns.path, len(pairs), base, "null" in options)
    else:
        gold = _pharaoh(lines, columns.path, len(pairs), base)
    set_ = GoldSet(fields[0], pairs, gold)
    _check(set_, columns.path, guessed="base" not in options and base == 0)
    return set_


class _Columns(NamedTuple):
    """Rows of source and target, the lines of links, and the path of these."""

    rows: list[tuple[str, ...]]
    links: list[str]
    path: str


def _columns(paths: Sequence[str]) -> _Columns:
    if len(paths) == 3:
        src, trg = (_texts(path) for path in paths[:2])
        if len(src) != len(trg):
            raise BadData(
                f"{paths[0]} has {len(src)} lines and {paths[1]} {len(trg)}: line i of one must "
                "translate line i of the other"
            )
        rows = list(zip(src, trg, strict=True))
    else:
        rows = _split(_texts(paths[0]), paths[0], 4 - len(paths))
    if not rows:
        raise BadData(f"{paths[0]}: no sentences")
    links = [row[2] for row in rows] if len(paths) == 1 else _texts(paths[-1])
    return _Columns(rows, links, paths[-1])


def _texts(path: str) -> list[str]:
    texts = []
    for line in read_lines(path):
        try:
            texts.append(line.data.decode())
        except UnicodeDecodeError as error:
            raise BadData(f"{path}:{line.number}: not UTF-8 ({error.reason})") from error
        if line.num_cut:
            raise BadData(f"{path}:{line.number}: the line is too long")
    return texts


def _split(texts: Sequence[str], path: str, num: int) -> list[tuple[str, ...]]:
    """Split lines at tabs, or at `|||` where there are no tabs."""
    rows = []
    for number, text in enumerate(texts, 1):
        row = tuple(text.split("\t" if "\t" in text else "|||"))
        if len(row) != num:
            raise BadData(
                f"{path}:{number}: {len(row)} columns, separated by tabs or |||; need {num}"
                + (" (source, target, links)" if num == 3 else " (source, target)")
            )
        rows.append(row)
    return rows


def _kind(lines: Sequence[str]) -> str:
    """Tell the format by the first line that has links."""
    first = next((line for line in lines if line.strip()), "")
    return "naacl" if _NAACL.fullmatch(first) else "pharaoh"


def _naacl(lines: Sequence[str], path: str, num: int, base: int, skip_null: bool) -> list[Gold]:
    parsed = parse_naacl_lines(lines, path, base=base, skip_null=skip_null)
    if not parsed:
        raise BadData(f"{path}: no links")
    return naacl_sentences(parsed, num, path)


def _pharaoh(lines: Sequence[str], path: str, num: int, base: int) -> list[Gold]:
    gold = [parse_pharaoh(line, f"{path}:{n}", base=base) for n, line in enumerate(lines, 1)]
    if len(gold) != num:
        raise BadData(f"{path} has the links of {len(gold)} sentences, and the text has {num}")
    return gold


def _check(set_: GoldSet, path: str, *, guessed: bool) -> None:
    """Check that links point at words, and where nobody said so that they count from 0."""
    touched = 0
    for number, (pair, gold) in enumerate(zip(set_.pairs, set_.gold, strict=True), 1):
        sizes = [len(side.split()) for side in pair]
        check_links(gold.possible, *sizes, f"{path}: sentence {number}")
        touched += any(0 in link for link in gold.possible)
    linked = sum(bool(gold.possible) for gold in set_.gold)
    if not linked:
        raise BadData(f"{path}: no links")
    if guessed and linked >= _ENOUGH and not touched:
        raise BadData(
            f"{path}: no link of {linked} sentences touches a first word; does the file count from "
            "1? Then type base=1, else base=0."
        )
