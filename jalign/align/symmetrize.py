"""Combine the links of two directions into one set, on the host, with sets of (source, target).

Both directions come as pairs (source word, target word); a file of a reverse aligner whose pairs
are (target, source) must be swapped first. What `grow` adds depends on the order of the neighbours
and of the scan; both are fixed here. Intersection and union of links on the device are `&` and `|`.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Sequence

Link = tuple[int, int]
Neighbours = Sequence[Link]

# the order behind the results published with lilt/alignment-scripts (methods.md 8.2)
NEIGHBOURS: Neighbours = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, 0), (1, -1), (1, 1))

# the order in Moses' symal, for comparison
MOSES_NEIGHBOURS: Neighbours = (
    *((-1, 0), (0, -1), (1, 0), (0, 1)),
    *((-1, -1), (-1, 1), (1, -1), (1, 1)),
)

METHODS = (
    "intersection",
    "union",
    "grow-diag",
    "grow-diag-final",
    "grow-diag-final-and",
)

_RULES: dict[str, Callable[[bool, bool], bool]] = {
    "and": lambda row_free, col_free: row_free and col_free,
    "or": lambda row_free, col_free: row_free or col_free,
}


def symmetrize(
    forward: Iterable[Link],
    reverse: Iterable[Link],
    method: str,
    *,
    neighbour_rule: str = "or",
    neighbours: Neighbours = NEIGHBOURS,
) -> set[Link]:
    """Combine two directions into one set of links.

    `grow-diag` starts from the intersection, scans its links row by row, and takes over neighbours
    that are in the union and have a free word: `or`, the usual rule, wants the source or the target
    word unaligned, `and` both. A link added counts at once. `final` then adds links of the forward
    and of the reverse direction in row-major order whose source or target word is free,
    `final-and` those whose words are both free. The `grow-diag-final` of lilt/alignment-scripts is
    `grow-diag-final-and` here, with neighbour_rule="and".
    Raises: ValueError for another method or rule.
    Source: Koehn, Och & Marcu 2003; Och & Ney 2003.
    """
    if method not in METHODS or neighbour_rule not in _RULES:
        raise ValueError(
            f"method={method!r}, neighbour_rule={neighbour_rule!r}: need one of "
            f"{', '.join(METHODS)} and one of {', '.join(_RULES)}"
        )
    forward, reverse = set(forward), set(reverse)
    if method == "union":
        return forward | reverse
    chosen = _Chosen(forward & reverse)
    if method == "intersection":
        return chosen.links
    _grow(chosen, forward | reverse, _RULES[neighbour_rule], neighbours)
    if method != "grow-diag":
        allowed = _RULES["and" if method == "grow-diag-final-and" else "or"]
        for direction in (forward, reverse):
            for link in sorted(direction):
                chosen.add_if(link, allowed)
    return chosen.links


class _Chosen:
    """The links so far, and the words that they take."""

    def __init__(self, links: set[Link]):
        self.links = links
        self.rows = {row for row, _ in links}
        self.cols = {col for _, col in links}

    def add_if(self, link: Link, allowed: Callable[[bool, bool], bool]) -> bool:
        if link in self.links or not allowed(link[0] not in self.rows, link[1] not in self.cols):
            return False
        self.links.add(link)
        self.rows.add(link[0])
        self.cols.add(link[1])
        return True


def _grow(
    chosen: _Chosen,
    union: set[Link],
    allowed: Callable[[bool, bool], bool],
    neighbours: Neighbours,
) -> None:
    """Scan row by row until a scan adds nothing.

    A link needs one visit only: what its neighbours lack can never come back. So a scan visits the
    links that the one before added behind itself, and those that it adds ahead of itself.
    """
    scan = sorted(chosen.links)
    while scan:
        behind: list[Link] = []
        at = 0
        while at < len(scan):
            here = scan[at]
            at += 1
            for down, right in neighbours:
                link = here[0] + down, here[1] + right
                if link in union and chosen.add_if(link, allowed):
                    if link > here:
                        insort(scan, link, lo=at)
                    else:
                        behind.append(link)
        scan = sorted(behind)
