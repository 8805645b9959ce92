"""Score mined bitext against gold pairs, and choose the threshold of the score (BUCC).

XTREME chooses it on the development set, where the gold pairs are known, and mines the test set
with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence

import numpy as np

from jalign.metrics.precision_recall import Score, make_score
from jalign.metrics.retrieval import Mined

Pair = tuple[Hashable, Hashable]


def bitext_f1(found: Collection[Pair], gold: Collection[Pair]) -> Score:
    """Score found pairs against gold pairs; repeated ones count once.

    Source: Zweigenbaum et al. 2018 (BUCC).
    """
    found, gold = set(found), set(gold)
    return make_score(len(found & gold), len(found), len(gold))


def best_threshold(scores: Mapping[Pair, float], gold: Collection[Pair]) -> float:
    """Return the score at which the pairs at or above it have the best F1.

    It lies half-way between the last pair taken and the next one; of equal F1 the highest counts;
    0 where no pair is right.
    Differs: where taking every pair is best it is the lowest score; the published bucc_optimize
    reads past its list there.
    Source: LASER's bucc.py, as in XTREME.
    """
    gold = set(gold)
    items = sorted(scores.items(), key=lambda item: -item[1])
    value = np.array([score for _, score in items], np.float64)
    right = np.cumsum([pair in gold for pair, _ in items])
    if not len(items) or not right[-1]:
        return 0.0
    precision = right / np.arange(1, len(items) + 1)
    recall = right / len(gold)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    best = int(f1.argmax())
    return float(value[best : best + 2].mean())


def above(scores: Mapping[Pair, float], threshold: float) -> set[Pair]:
    """Return the pairs whose score is at least the threshold."""
    return {pair for pair, score in scores.items() if score >= threshold}


def distinct_rows(texts: Sequence[str]) -> np.ndarray:
    """Return the row at which each different text first stands: mining takes every text once."""
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        first.setdefault(text, row)
    return np.fromiter(first.values(), np.int64, len(first))


def scores_by_id(
    mined: Mined,
    src: tuple[Sequence[str], Sequence[str]],
    trg: tuple[Sequence[str], Sequence[str]],
    counts: Counter | None = None,
) -> dict[Pair, float]:
    """Name mined pairs by the ids of their sentences; `src` and `trg` are (ids, texts) whose
    `distinct_rows` were mined.

    Which id a text has that stands in a file more than once is not known: pairs with such a text
    are left out, as in XTREME, and counted as "pair of a repeated sentence" in `counts`.
    """
    counts = Counter() if counts is None else counts
    sides = []
    for ids, texts in (src, trg):
        times = Counter(texts)
        rows = distinct_rows(texts)
        sides.append([ids[row] if times[texts[row]] == 1 else None for row in rows.tolist()])
    found: dict[Pair, float] = {}
    for score, i, j in zip(*(column.tolist() for column in mined), strict=True):
        pair = sides[0][i], sides[1][j]
        if None in pair:
            counts["pair of a repeated sentence"] += 1
        else:
            found[pair] = max(score, found.get(pair, score))
    return found
