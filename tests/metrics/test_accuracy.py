"""Accuracy and scores per class, by hand and against scikit-learn."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from jalign.metrics.accuracy import accuracy, class_scores, token_accuracy
from jalign.metrics.precision_recall import Score, mean_f1

CLASSES = ["contradiction", "entailment", "neutral"]


def test_scores_by_hand():
    gold, found = ["a", "a", "b", "c"], ["a", "b", "b", "a"]
    assert accuracy(gold, found) == 0.5
    assert class_scores(gold, found) == {
        "a": Score(0.5, 0.5, 0.5, 2),
        "b": Score(0.5, 1.0, 2 / 3, 1),
        "c": Score(0.0, 0.0, 0.0, 1),
    }


def test_tokens_count_alike_whatever_sentence_they_are_in():
    assert token_accuracy([["a", "b", "c"], ["a"]], [["a", "b", "x"], ["x"]]) == 0.5


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=1))
def test_scores_equal_scikit_learn(pairs):
    gold, found = zip(*pairs, strict=True)
    scores = class_scores(gold, found)
    wanted = precision_recall_fscore_support(gold, found, labels=sorted(scores), zero_division=0)
    for number, score in enumerate(scores.values()):
        assert score == pytest.approx([column[number] for column in wanted])
    assert mean_f1(scores) == pytest.approx(wanted[2].mean())
    assert accuracy(gold, found) == pytest.approx(accuracy_score(gold, found))


@pytest.mark.parametrize(("gold", "found"), [([], []), (["a"], ["a", "b"])])
def test_nothing_to_score_and_unequal_lengths_are_refused(gold, found):
    for score in (accuracy, class_scores):
        with pytest.raises(ValueError, match="one prediction per gold class"):
            score(gold, found)
