"""Correlations: by hand, against scipy, and the published ones of ALIGN-MLM."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jalign.metrics.correlation import (
    average_ranks,
    bootstrap_interval,
    fisher_interval,
    pearson,
    spearman,
)

# MLM, XLM, DICT-MLM, ALIGN-MLM x trans, trans+inv, trans+syn (methods.md 2.8)
ALIGNMENT = [90.0, 0.3, 57.3, 97.7, 85.6, 98.6, 95.7, 64.2, 93.7, 98.4, 95.2, 98.2]
# (supervised BS, zero-shot BZ) of the published table, in that order
TABLE = {
    "xnli": [(76.4, 74.9), (73.9, 56.7), (73.5, 69.0), (77.3, 77.5), (75.4, 67.2), (76.1, 74.1),
             (77.0, 75.9), (74.5, 65.3), (74.3, 72.2), (75.1, 75.5), (75.5, 68.8), (74.7, 71.1)],
    "ner": [(80.6, 78.0), (79.2, 35.9), (71.3, 52.3), (80.8, 79.7), (80.0, 60.7), (71.5, 59.6),
            (79.3, 78.3), (79.1, 59.8), (71.4, 57.6), (79.4, 78.6), (80.0, 64.5), (71.3, 58.3)],
    "pos": [(95.0, 94.6), (95.0, 56.5), (93.6, 91.6), (95.0, 94.8), (95.0, 61.8), (93.7, 92.7),
            (95.1, 94.8), (95.0, 76.0), (93.6, 92.6), (94.9, 94.8), (95.0, 92.0), (93.7, 92.9)],
}  # fmt: skip
# the gaps BS - BZ as the authors plotted them, from scores with more digits than the table prints
PLOTTED = {
    "xnli": [1.5, 17.2, 4.5, -0.2, 8.2, 1.9, 1.1, 9.2, 2.2, -0.5, 6.7, 3.6],
    "ner": [2.6, 43.3, 19.0, 1.1, 19.4, 11.9, 1.1, 19.3, 13.8, 0.8, 15.5, 13.1],
    "pos": [0.4, 38.5, 2.0, 0.2, 33.2, 0.9, 0.3, 19.0, 1.0, 0.1, 3.0, 0.8],
}
# methods.md 10.2 prints -0.7810871 for NER; scipy and we get -0.78108701
PUBLISHED = {"xnli": -0.7272727, "ner": -0.7810870, "pos": -0.7342657}
# the parent paper: seven settings, BZ - BS
PARENT_ALIGNMENT = [90, 43, 11.8, 0.16, 0.01, 57.3, 4.9]
PARENT = {
    "xnli": ([-2.1, -3.8, -5.7, -19.2, -27.7, -5.7, -9.2], 0.9369750),
    "ner": ([-2.3, -4.1, -14.3, -51.5, -46.3, -14.2, -19.1], 0.9285714),
    "pos": ([-0.5, -0.7, -1.5, -42.7, -59, -2, -2.5], 0.8928571),
}
NUMBERS = st.lists(st.integers(-9, 9).map(float), min_size=2, max_size=40)


@pytest.mark.parametrize("task", PUBLISHED)
def test_the_published_rhos_come_out_of_the_plotted_values(task):
    assert spearman(ALIGNMENT, PLOTTED[task]) == pytest.approx(PUBLISHED[task], abs=5e-8)


@pytest.mark.parametrize(
    ("task", "rho"),
    # POS differs from the published -0.734: one digit after the point makes a tie (twice 1.0)
    [("xnli", -0.7272727), ("ner", -0.7810870), ("pos", -0.7145370)],
)
def test_the_rounded_table_gives_the_same_but_where_rounding_makes_ties(task, rho):
    gaps = [round(bs - bz, 1) for bs, bz in TABLE[task]]
    assert spearman(ALIGNMENT, gaps) == pytest.approx(rho, abs=5e-8)


@pytest.mark.parametrize("task", PARENT)
def test_the_seven_settings_of_the_parent_paper(task):
    gaps, rho = PARENT[task]
    assert spearman(PARENT_ALIGNMENT, gaps) == pytest.approx(rho, abs=5e-8)


def test_ranks_by_hand():
    assert average_ranks([30, 10, 20, 10, 10]).tolist() == [5, 2, 4, 2, 2]
    assert average_ranks([7]).tolist() == [1]


def test_correlations_by_hand():
    # deviations (-1, 0, 1) and (-1, 2, -1): r = 0; then (-1, -1, 2): 3 / sqrt(2 * 6)
    assert pearson([1, 2, 3], [1, 4, 1]) == pytest.approx(0)
    assert pearson([1, 2, 3], [0, 0, 3]) == pytest.approx(3 / math.sqrt(12))
    assert spearman([1, 2, 3, 4], [1, 8, 27, 64]) == 1.0
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == -1.0


@given(NUMBERS, st.randoms())
def test_agrees_with_scipy_on_numbers_with_many_ties(x, random):
    y = [random.randint(-3, 3) for _ in x]
    if len(set(x)) == 1 or len(set(y)) == 1:
        with pytest.raises(ValueError, match="undefined"):
            spearman(x, y)
        return
    np.testing.assert_allclose(average_ranks(x), stats.rankdata(x))
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)


@given(NUMBERS.filter(lambda x: len(set(x)) > 1), st.integers(0, 99))
def test_spearman_sees_only_the_order_and_both_are_symmetric(x, seed):
    y = np.random.default_rng(seed).normal(size=len(x))
    assert spearman(np.exp(x), y**3) == pytest.approx(spearman(x, y), abs=1e-12)
    assert pearson(3 * np.array(x) - 5, y) == pytest.approx(pearson(x, y), abs=1e-12)
    assert spearman(x, y) == pytest.approx(spearman(y, x), abs=1e-12)
    assert spearman(x, -y) == pytest.approx(-spearman(x, y), abs=1e-12)


def test_tiny_and_huge_numbers_do_not_underflow():
    x = np.array([1.0, 2.0, 4.0])
    assert pearson(x * 1e-200, x * 1e150) == pytest.approx(1)


def test_fisher_intervals_by_hand():
    # z = atanh(.5) = .549306; 1.959964 / sqrt(25) = .391993
    low, high, *_ = fisher_interval(0.5, 28, ranks=False)
    assert (low, high) == pytest.approx((math.tanh(0.157313), math.tanh(0.941299)), abs=1e-6)
    # ranks: the error grows by sqrt(1 + .125)
    low, high, *_ = fisher_interval(0.5, 28, ranks=True)
    spread = 0.391993 * math.sqrt(1.125)
    assert (math.atanh(low), math.atanh(high)) == pytest.approx(
        (0.549306 - spread, 0.549306 + spread), abs=1e-5
    )
    oracle = stats.pearsonr([1, 2, 3, 4, 6], [2, 1, 4, 3, 5]).confidence_interval(0.9)
    ours = fisher_interval(pearson([1, 2, 3, 4, 6], [2, 1, 4, 3, 5]), 5, level=0.9, ranks=False)
    assert ours[:2] == pytest.approx(tuple(oracle))
    assert fisher_interval(-1.0, 9, ranks=True)[:2] == (-1, -1)


def test_the_interval_of_the_published_pos_correlation_excludes_zero_but_is_wide():
    low, high, *_ = fisher_interval(PUBLISHED["pos"], 12, ranks=True)
    assert -0.95 < low < -0.9 and -0.3 < high < -0.1
    boot = bootstrap_interval(ALIGNMENT, PLOTTED["pos"], num_resamples=2000)
    assert boot.low < PUBLISHED["pos"] < boot.high < 0


def test_the_fisher_interval_covers_the_truth_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(600):
        x, y = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 40).T
        low, high, *_ = fisher_interval(pearson(x, y), 40, level=0.9, ranks=False)
        covered += low < 0.6 < high
    assert 0.86 < covered / 600 < 0.94


def test_the_bootstrap_is_reproducible_and_counts_what_is_undefined():
    x, y = [1, 1, 1, 2], [1, 2, 3, 4]
    one = bootstrap_interval(x, y, num_resamples=500, seed=1)
    assert one == bootstrap_interval(x, y, num_resamples=500, seed=1)
    assert one != bootstrap_interval(x, y, num_resamples=500, seed=2)
    # x is constant when the last point is never or always drawn: (3/4)^4 + (1/4)^4 = 0.32
    assert 0.25 < one.num_undefined / 500 < 0.40
    straight = bootstrap_interval([1, 2, 3, 4], [2, 3, 4, 5], num_resamples=200)
    assert straight[:2] == pytest.approx((1, 1))


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        ([1, 2], [1, 2, 3], "equal length"),
        ([1], [1], "2 or more"),
        ([1, 2], [3, 3], "second series"),
        ([1, math.nan], [1, 2], "finite"),
    ],
)
def test_what_has_no_correlation_is_refused(x, y, said):
    for function in (pearson, spearman, bootstrap_interval):
        with pytest.raises(ValueError, match=said):
            function(x, y)


def test_impossible_intervals_are_refused():
    with pytest.raises(ValueError, match="4 points"):
        fisher_interval(0.5, 3, ranks=False)
    with pytest.raises(ValueError, match="lies in"):
        fisher_interval(1.5, 9, ranks=False)
    with pytest.raises(ValueError, match="level"):
        fisher_interval(0.5, 9, level=95, ranks=False)
