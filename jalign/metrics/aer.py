"""Score word links against gold: precision, recall, F1, alignment error rate (AER).

Counts are summed over the corpus and divided once; sentences are not averaged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

Link = tuple[int, int]


@dataclass(frozen=True)
class LinkCounts:
    """What the scores need of one sentence, or of many added up: |A|, |S|, |A n S|, |A n P|."""

    found: int = 0
    sure: int = 0
    found_sure: int = 0
    found_possible: int = 0

    def __add__(self, other: LinkCounts) -> LinkCounts:
        return LinkCounts(
            self.found + other.found,
            self.sure + other.sure,
            self.found_sure + other.found_sure,
            self.found_possible + other.found_possible,
        )


class Scores(NamedTuple):
    """Scores between 0 and 1; for `aer` less is better."""

    precision: float
    recall: float
    f1: float
    aer: float


def count_links(
    found: Iterable[Link], sure: Collection[Link], possible: Collection[Link] = ()
) -> LinkCounts:
    """Count the found links of one sentence; repeated links count once, sure ones are possible."""
    found, sure = set(found), set(sure)
    possible = sure.union(possible)
    return LinkCounts(len(found), len(sure), len(found & sure), len(found & possible))


def link_scores(counts: LinkCounts) -> Scores:
    """Compute precision |A n P| / |A|, recall |A n S| / |S|, their F1, and
    AER = 1 - (|A n S| + |A n P|) / (|A| + |S|).

    Without possible links AER = 1 - F1. Ratios of nothing are 0: no links found has precision 0,
    no gold links recall 0, neither of them AER 0.
    Source: Och & Ney 2003, section 6.
    """
    precision = _ratio(counts.found_possible, counts.found)
    recall = _ratio(counts.found_sure, counts.sure)
    f1 = _ratio(2 * precision * recall, precision + recall)
    size = counts.found + counts.sure
    right = counts.found_sure + counts.found_possible
    return Scores(precision, recall, f1, _ratio(size - right, size))


def corpus_counts(
    found: Iterable[Iterable[Link]], gold: Iterable[tuple[Collection[Link], Collection[Link]]]
) -> LinkCounts:
    """Add up the counts of a corpus: links and (sure, possible) per sentence, in one order.

    Raises: ValueError where the two have different numbers of sentences.
    """
    found, gold = list(found), list(gold)
    if len(found) != len(gold):
        raise ValueError(f"links of {len(found)} sentences, gold of {len(gold)}: need as many")
    pairs = zip(found, gold, strict=True)
    return sum((count_links(links, *sides) for links, sides in pairs), LinkCounts())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
