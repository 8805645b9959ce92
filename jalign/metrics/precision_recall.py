"""Compute precision, recall and F1 from counts."""

from __future__ import annotations

from typing import NamedTuple


class Score(NamedTuple):
    """Ratios between 0 and 1; `support` is how many gold items there are."""

    precision: float
    recall: float
    f1: float
    support: int


def make_score(right: int, found: int, gold: int) -> Score:
    """Compute the score of `right` out of `found` and `gold` items; a ratio of nothing is 0."""
    precision = right / found if found else 0.0
    recall = right / gold if gold else 0.0
    total = precision + recall
    return Score(precision, recall, 2 * precision * recall / total if total else 0.0, gold)


def mean_f1(scores: dict[str, Score]) -> float:
    """Average the F1 over classes, each with one vote (macro F1)."""
    return sum(score.f1 for score in scores.values()) / len(scores) if scores else 0.0
