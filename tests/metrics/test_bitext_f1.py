"""Mined pairs against gold, and the threshold, by hand and by trying every one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jalign.metrics.bitext_f1 import above, best_threshold, bitext_f1, distinct_rows, scores_by_id
from jalign.metrics.precision_recall import Score
from jalign.metrics.retrieval import Mined


def test_f1_by_hand():
    gold = [("de-1", "en-1"), ("de-2", "en-2"), ("de-3", "en-3")]
    found = [("de-1", "en-1"), ("de-1", "en-1"), ("de-2", "en-3")]
    assert bitext_f1(found, gold) == Score(0.5, 1 / 3, 0.4, 3)
    assert bitext_f1([], gold) == Score(0.0, 0.0, 0.0, 3)


def test_threshold_by_hand_lies_between_the_last_taken_and_the_next():
    scores = {("a", "a"): 1.4, ("b", "x"): 1.3, ("c", "c"): 1.2, ("d", "x"): 1.0}
    # F1 with 1, 2, 3, 4 pairs: 2/3, 1/2, 4/5, 2/3
    assert best_threshold(scores, {("a", "a"), ("c", "c")}) == pytest.approx(1.1)
    assert above(scores, 1.1) == {("a", "a"), ("b", "x"), ("c", "c")}


def test_every_pair_is_taken_where_that_is_best_and_none_found_gives_zero():
    scores = {("a", "a"): 1.4, ("b", "b"): 1.1}
    assert best_threshold(scores, {("a", "a"), ("b", "b")}) == pytest.approx(1.1)
    assert len(above(scores, 1.1)) == 2
    assert best_threshold(scores, {("q", "q")}) == 0.0
    assert best_threshold({}, {("q", "q")}) == 0.0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, unique_by=lambda x: x[0]),
    st.integers(0, 3),
)
def test_no_other_threshold_is_better(items, num_missed):
    scores = {(f"s{i}", f"t{i}"): value / 10 for i, (value, _) in enumerate(items)}
    gold = {pair for pair, (_, right) in zip(scores, items, strict=True) if right}
    gold |= {(f"m{i}", "x") for i in range(num_missed)}
    chosen = bitext_f1(above(scores, best_threshold(scores, gold)), gold).f1
    every = [bitext_f1(above(scores, value), gold).f1 for value in scores.values()]
    assert chosen == pytest.approx(max(every))


def test_repeated_sentences_are_mined_once_and_their_pairs_left_out_and_counted():
    src_texts, trg_texts = ["x", "y", "x", "z"], ["u", "v"]
    assert distinct_rows(src_texts).tolist() == [0, 1, 3]
    mined = Mined(np.array([1.5, 1.2, 1.1]), np.array([0, 2, 1]), np.array([0, 1, 1]))
    counts = Counter()
    found = scores_by_id(
        mined, (["s0", "s1", "s2", "s3"], src_texts), (["t0", "t1"], trg_texts), counts
    )
    assert found == {("s3", "t1"): 1.2, ("s1", "t1"): 1.1}
    assert counts == {"pair of a repeated sentence": 1}
