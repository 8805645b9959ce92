"""Score classes, of sentences or of tokens: accuracy, and precision, recall and F1 per class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from jalign.metrics.precision_recall import Score, make_score


def accuracy(gold: Sequence[Hashable], found: Sequence[Hashable]) -> float:
    """Return the share of items whose class was found.

    Raises: ValueError where the two differ in length or are empty.
    """
    _check(len(gold), len(found))
    return sum(g == f for g, f in zip(gold, found, strict=True)) / len(gold)


def token_accuracy(
    gold: Sequence[Sequence[Hashable]], found: Sequence[Sequence[Hashable]]
) -> float:
    """Return the share of tokens, over all sentences, whose tag was found.

    Raises: ValueError where a sentence has more tags on one side, or there are none.
    """
    return accuracy(*flat(gold, found))


def class_scores(gold: Sequence[str], found: Sequence[str]) -> dict[str, Score]:
    """Return the score of every class that either side has, sorted by name.

    Raises: ValueError where the two differ in length or are empty.
    """
    _check(len(gold), len(found))
    num_gold, num_found = Counter(gold), Counter(found)
    right = Counter(g for g, f in zip(gold, found, strict=True) if g == f)
    names = sorted(num_gold.keys() | num_found.keys())
    return {name: make_score(right[name], num_found[name], num_gold[name]) for name in names}


def flat(
    gold: Sequence[Sequence[Hashable]], found: Sequence[Sequence[Hashable]]
) -> tuple[list[Hashable], list[Hashable]]:
    """Join the tags of sentences.

    Raises: ValueError where the two sides do not have the same tokens.
    """
    if len(gold) != len(found):
        raise ValueError(f"need as many predicted sentences as gold: {len(found)} and {len(gold)}")
    for number, (g, f) in enumerate(zip(gold, found, strict=True)):
        if len(g) != len(f):
            raise ValueError(f"sentence {number} has {len(g)} gold tags and {len(f)} predicted")
    return [tag for tags in gold for tag in tags], [tag for tags in found for tag in tags]


def _check(num_gold: int, num_found: int) -> None:
    if num_gold != num_found or not num_gold:
        raise ValueError(f"need one prediction per gold class: {num_found} and {num_gold}")
