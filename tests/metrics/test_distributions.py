"""Distances of related and unrelated pairs, by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import paired_cosine_distances

from jalign.metrics.distributions import auc, distances, histograms, mean_norm, summarize


def test_distances_by_hand():
    src, trg = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(distances(src, trg), [5, 2**0.5])
    np.testing.assert_allclose(distances(src, trg, kind="cosine"), [1, 1])
    assert mean_norm(src, trg) == pytest.approx(7 / 4)
    np.testing.assert_allclose(distances(src, trg, kind="relative"), np.array([5, 2**0.5]) / 1.75)


def test_summary_by_hand():
    found = summarize(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 7.0]))
    assert found[:3] == pytest.approx((2.0, 11 / 3, 5 / 3))
    assert found.difference_std == pytest.approx(np.std([1, 0, 4]))
    assert found.error_rate == pytest.approx(1 / 3)  # a tie is an error
    assert found.auc == pytest.approx((2 * (1 + 0.5) + 3) / 9)
    assert found.num == 3


@pytest.mark.parametrize("seed", range(5))
def test_area_and_cosine_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    low, high = rng.integers(0, 6, 40), rng.integers(2, 9, 70)  # many ties
    wanted = roc_auc_score(np.repeat([0, 1], [40, 70]), np.concatenate([low, high]))
    assert auc(low, high) == pytest.approx(wanted)
    src, trg = rng.normal(size=(2, 30, 5)).astype(np.float32)
    np.testing.assert_allclose(
        distances(src, trg, kind="cosine"), paired_cosine_distances(src, trg), atol=1e-6
    )


def test_a_common_scale_moves_means_and_nothing_without_scale():
    rng = np.random.default_rng(0)
    src, trg, other = rng.normal(size=(3, 50, 4))
    plain = summarize(distances(src, trg), distances(src, other))
    large = summarize(distances(7 * src, 7 * trg), distances(7 * src, 7 * other))
    assert large[:4] == pytest.approx([7 * x for x in plain[:4]])
    assert large[4:] == pytest.approx(plain[4:])
    for kind in ("cosine", "relative"):
        np.testing.assert_allclose(
            distances(src, trg, kind=kind), distances(7 * src, 7 * trg, kind=kind)
        )


def test_histograms_share_their_edges_and_lose_nothing():
    values = {"related": np.array([0.0, 1.0, 1.0]), "unrelated": np.array([4.0])}
    edges, counts = histograms(values, bins=4)
    np.testing.assert_allclose(edges, [0, 1, 2, 3, 4])
    assert {name: c.tolist() for name, c in counts.items()} == {
        "related": [1, 2, 0, 0],
        "unrelated": [0, 0, 0, 1],
    }


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="one of l2, cosine, relative"):
        distances(np.ones((1, 2)), np.ones((1, 2)), kind="l1")
    with pytest.raises(ValueError, match="one shape"):
        distances(np.ones((1, 2)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="as many unrelated"):
        summarize(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="at least one value"):
        auc(np.ones(0), np.ones(3))
