"""Alignment error rate by hand, on published counts, and its properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jalign.metrics.aer import LinkCounts, Scores, corpus_counts, count_links, link_scores

LINKS = st.frozensets(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=10)


def test_scores_by_hand():
    sure, possible = {(1, 1), (2, 2)}, {(1, 1), (2, 2), (3, 2)}
    counts = count_links({(1, 1), (3, 2), (3, 3)}, sure, possible)
    assert counts == LinkCounts(found=3, sure=2, found_sure=1, found_possible=2)
    scores = link_scores(counts)
    assert scores == pytest.approx(Scores(2 / 3, 1 / 2, 4 / 7, 0.4))


def test_published_counts_give_the_published_scores():
    # fast_align grow-diag on de-en, methods.md 8.2
    scores = link_scores(LinkCounts(7419, 9613, 6158, 6272))
    assert [round(100 * score, 2) for score in scores] == [84.54, 64.06, 72.89, 27.02]


def test_sure_links_are_possible_even_if_not_listed_and_repeats_count_once():
    assert count_links([(0, 0), (0, 0)], [(0, 0)], [(1, 1)]) == LinkCounts(1, 1, 1, 1)


def test_sentences_are_summed_not_averaged():
    gold = [({(0, 0)}, set()), ({(i, i) for i in range(9)}, set())]
    counts = corpus_counts([{(0, 0)}, set()], gold)
    assert counts == LinkCounts(1, 10, 1, 1)
    assert link_scores(counts).recall == pytest.approx(0.1)  # the mean of sentences would be 0.5


def test_corpora_of_different_length_are_refused():
    with pytest.raises(ValueError, match="1 sentences, gold of 2"):
        corpus_counts([set()], [(set(), set()), (set(), set())])


@given(found=LINKS, sure=LINKS)
def test_without_possible_links_the_error_rate_is_one_minus_f1(found, sure):
    scores = link_scores(count_links(found, sure))
    if found or sure:
        assert scores.aer == pytest.approx(1 - scores.f1)


@given(found=LINKS, sure=LINKS, possible=LINKS)
def test_scores_stay_between_zero_and_one_and_swapping_sides_changes_nothing(found, sure, possible):
    scores = link_scores(count_links(found, sure, possible))
    assert all(0 <= score <= 1 for score in scores)
    turned = [[(j, i) for i, j in links] for links in (found, sure, possible)]
    assert link_scores(count_links(*turned)) == scores


@given(sure=LINKS, possible=LINKS)
def test_the_sure_links_themselves_and_all_sets_between_them_and_the_possible_have_no_error(
    sure, possible
):
    assert link_scores(count_links(sure, sure, possible)).aer == 0
    assert link_scores(count_links(sure | possible, sure, possible)).aer == 0


def test_nothing_found_and_nothing_to_find():
    assert link_scores(count_links([], [(0, 0)])) == Scores(0, 0, 0, 1)
    assert link_scores(count_links([(0, 0)], [])) == Scores(0, 0, 0, 1)
    assert link_scores(LinkCounts()) == Scores(0, 0, 0, 0)
