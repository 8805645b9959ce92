"""Read and write word links: Pharaoh lines (`0-0 1p2`) and the NAACL gold format.

In memory links are 0-based pairs (source word, target word). Files count from `base`, 0 or 1; which
one no file says, so the caller must.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jalign.errors import BadData

Link = tuple[int, int]

_PHARAOH = re.compile(r"([0-9]+)([-p])([0-9]+)")
_NAACL = re.compile(r"([0-9]+)\s+([0-9]+)\s+([0-9]+)(?:\s+([SP]))?(?:\s+[0-9.]+)?")


class Gold(NamedTuple):
    """The links of one sentence: sure ones, and possible ones, which include the sure."""

    sure: frozenset[Link]
    possible: frozenset[Link]


def parse_pharaoh(line: str, where: str, *, base: int = 0) -> Gold:
    """Parse one line of `i-j` (sure) and `ipj` (possible) links; an empty line has none.

    `where` is the file and line number for the message.
    Raises: BadData for anything else, and for an index below `base`.
    """
    sure, possible = set(), set()
    for field in line.split():
        match = _PHARAOH.fullmatch(field)
        if not match:
            raise BadData(
                f"{where}: {field!r} is no link; need i-j (sure) or ipj (possible), "
                "separated by spaces"
            )
        link = _link(match[1], match[3], base, where)
        possible.add(link)
        if match[2] == "-":
            sure.add(link)
    return Gold(frozenset(sure), frozenset(possible))


def parse_pharaoh_lines(lines: Iterable[str], name: str, *, base: int = 0) -> list[Gold]:
    """Parse every line of a Pharaoh file, one sentence each; `name` is the file for messages."""
    return [parse_pharaoh(line, f"{name}:{n}", base=base) for n, line in enumerate(lines, 1)]


def format_pharaoh(links: Iterable[Link], possible: Iterable[Link] = (), *, base: int = 0) -> str:
    """Format links as one Pharaoh line, sorted; those that are only possible as `ipj`."""
    sure = set(links)
    return " ".join(
        f"{i + base}{'-' if (i, j) in sure else 'p'}{j + base}"
        for i, j in sorted(sure | set(possible))
    )


def parse_naacl_lines(
    lines: Iterable[str], name: str, *, base: int = 1, skip_null: bool = False
) -> dict[int, Gold]:
    """Parse NAACL gold lines `sentence source target [S|P] [confidence]` (S unless said) into
    {sentence number: links}, in the order in which the file names the sentences.

    Word 0 of a file that counts words from 1 is the empty word: `skip_null` leaves its links out,
    as SimAlign and XLM-Align do for en-hi; otherwise it is an error.
    Raises: BadData for a malformed line.
    Source: Mihalcea & Pedersen 2003.
    """
    sure: dict[int, set[Link]] = {}
    possible: dict[int, set[Link]] = {}
    for number, line in enumerate(lines, 1):
        match, where = _NAACL.fullmatch(line.strip()), f"{name}:{number}"
        if not match:
            if not line.strip():
                continue
            raise BadData(f"{where}: {line.strip()!r}; need 'sentence source target [S|P]'")
        links = possible.setdefault(int(match[1]), set())
        if skip_null and base == 1 and 0 in (int(match[2]), int(match[3])):
            continue
        link = _link(match[2], match[3], base, where)
        links.add(link)
        if match[4] != "P":
            sure.setdefault(int(match[1]), set()).add(link)
    return {n: Gold(frozenset(sure.get(n, ())), frozenset(p)) for n, p in possible.items()}


def naacl_sentences(gold: Mapping[int, Gold], num_sentences: int, name: str) -> list[Gold]:
    """Lay NAACL gold beside a text of `num_sentences`.

    Numbers within 1 to `num_sentences` are taken as they are, and sentences that the file does not
    name have no links. Files that count from 0 or have gaps (ro-en of 199 sentences ends with 203,
    en-hi starts with 26) must name as many sentences as the text has, in its order.
    Raises: BadData where neither holds.
    """
    if all(1 <= n <= num_sentences for n in gold):
        nothing = Gold(frozenset(), frozenset())
        return [gold.get(n, nothing) for n in range(1, num_sentences + 1)]
    if len(gold) == num_sentences:
        return list(gold.values())
    raise BadData(
        f"{name}: {len(gold)} sentences numbered {min(gold)} to {max(gold)}; need numbers 1 to "
        f"{num_sentences}, or exactly {num_sentences} sentences in the order of the text"
    )


def check_links(links: Iterable[Link], num_src: int, num_trg: int, where: str) -> None:
    """Check that links point at words that are there.

    Raises: BadData, with the hint that the file may count from 1.
    """
    for i, j in links:
        if not (0 <= i < num_src and 0 <= j < num_trg):
            raise BadData(
                f"{where}: link {i}-{j} (counted from 0) points outside {num_src} source and "
                f"{num_trg} target words; does the file count from 1, or are the sides swapped?"
            )


def _link(src: str, trg: str, base: int, where: str) -> Link:
    link = int(src) - base, int(trg) - base
    if min(link) < 0:
        raise BadData(
            f"{where}: link {src} {trg} lies before the first word, {base}; "
            f"does this file count from {base - 1}?"
        )
    return link
