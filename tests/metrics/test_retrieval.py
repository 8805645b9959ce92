"""Retrieval and mining by hand and against loops that follow the equations."""

from __future__ import annotations

import numpy as np
import pytest

from jalign.metrics import retrieval
from jalign.metrics.retrieval import mine, nearest, retrieval_accuracy, retrieve


def vectors(seed, num_src=14, num_trg=11, dim=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_src, dim)) + 0.8, rng.normal(size=(num_trg, dim)) + 0.8


def cosine(x, y):
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def mean_near(x, others, num):
    """Compute r(x): the mean cosine of the `num` nearest."""
    return float(np.mean(sorted((cosine(x, y) for y in others), reverse=True)[:num]))


def loop_score(x, y, src, trg, scoring, num):
    """Score one pair from the equations."""
    r_x, r_y = mean_near(x, trg, num), mean_near(y, src, num)
    if scoring == "csls":
        return 2 * cosine(x, y) - r_x - r_y
    return (
        cosine(x, y) / ((r_x + r_y) / 2) if scoring == "ratio" else cosine(x, y) - (r_x + r_y) / 2
    )


def loop_best(x, src, trg, scoring, num):
    """Find the best target of x; with a margin only its nearest compete."""
    near = sorted(range(len(trg)), key=lambda j: -cosine(x, trg[j]))
    near = near if scoring == "csls" else near[:num]
    return max(near, key=lambda j: loop_score(x, trg[j], src, trg, scoring, num))


def test_accuracy_by_hand():
    src = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    trg = np.array([[2.0, 0.1], [1.0, 1.0], [0.2, 1.0]])
    # forward: 0 -> 0; 1 -> 2 (cosine .98); 2 -> 1. backward: 0 -> 0; 1 -> 2; 2 -> 1
    assert retrieval_accuracy(src, trg) == (1 / 3, 1 / 3)


@pytest.mark.parametrize("scoring", retrieval.SCORINGS)
def test_scale_of_a_row_does_not_matter_and_identity_is_perfect(scoring):
    x = np.random.default_rng(0).normal(size=(20, 4))
    x[:, 0] += 3  # positive means, as of real sentence vectors: a ratio needs them
    scaled = x * np.linspace(0.1, 9, 20)[:, None]
    src, trg = vectors(3)
    assert retrieval_accuracy(x, scaled)[0] == 1.0
    np.testing.assert_array_equal(
        retrieve(src, trg, scoring=scoring), retrieve(5 * src, trg, scoring=scoring)
    )


def test_csls_takes_a_hub_down_by_hand():
    def at(*degrees):
        return np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], axis=1)

    src, trg = at(0, 25), at(5, 47, -40)
    assert retrieve(src, trg).tolist() == [0, 0]  # the hub at 5 degrees is nearest to both
    # r with K = 1: cos 5 = .9962, cos 22 = .9272, cos 40 = .7660. 2 cos - r of the second query:
    # 2 cos 20 - .9962 = .8832 for the hub, 2 cos 22 - .9272 = .9272 for the next
    assert retrieve(src, trg, scoring="csls", neighbours=1).tolist() == [0, 1]


@pytest.mark.parametrize("scoring", ["csls", "ratio", "distance"])
@pytest.mark.parametrize(("seed", "num"), [(0, 4), (1, 2), (2, 10), (3, 100)])
def test_retrieval_equals_loops_over_the_equations(scoring, seed, num):
    src, trg = vectors(seed)
    wanted = [loop_best(x, src, trg, scoring, num) for x in src]
    assert retrieve(src, trg, scoring=scoring, neighbours=num).tolist() == wanted


@pytest.mark.parametrize("margin", ["ratio", "distance"])
@pytest.mark.parametrize("seed", range(4))
def test_mining_equals_loops_over_the_equations(margin, seed):
    src, trg = vectors(seed)
    swapped = {"forward": (src, trg), "backward": (trg, src)}
    found = {}
    for name, (one, other) in swapped.items():
        best = [loop_best(x, one, other, margin, 4) for x in one]
        score = [
            loop_score(x, other[j], one, other, margin, 4) for x, j in zip(one, best, strict=True)
        ]
        rows = [
            (s, i, j) if name == "forward" else (s, j, i)
            for i, (s, j) in enumerate(zip(score, best, strict=True))
        ]
        found[name] = sorted(rows, reverse=True)
    ends = {(i, j) for _, i, j in found["backward"]}
    found["intersect"] = [row for row in found["forward"] if row[1:] in ends]
    used, found["max"] = set(), []
    for score, i, j in sorted(found["forward"] + found["backward"], reverse=True):
        if not {("src", i), ("trg", j)} & used:
            used |= {("src", i), ("trg", j)}
            found["max"] += [(score, i, j)] if score > 0 else []
    for name, wanted in found.items():
        mined = mine(src, trg, margin=margin, retrieval=name)
        np.testing.assert_allclose(mined.score, [score for score, _, _ in wanted], rtol=1e-9)
        pairs = sorted(zip(mined.src.tolist(), mined.trg.tolist(), strict=True))
        assert pairs == sorted((i, j) for _, i, j in wanted)


def test_a_threshold_takes_away_the_worst_pairs():
    src, trg = vectors(1)
    every = mine(src, trg, threshold=-9)
    assert every.score[0] > 1.05 > every.score[-1]
    some = mine(src, trg, threshold=1.05)
    assert some.score.tolist() == every.score[every.score > 1.05].tolist()


def test_blocks_change_nothing(monkeypatch):
    src, trg = vectors(5, 37, 29)
    whole = mine(src, trg), retrieve(src, trg, scoring="csls")
    monkeypatch.setattr(retrieval, "_BLOCK", 64)
    parts = mine(src, trg), retrieve(src, trg, scoring="csls")
    for one, other in zip((*whole[0], whole[1]), (*parts[0], parts[1]), strict=True):
        np.testing.assert_allclose(one, other)


def test_of_equally_near_rows_the_first_comes_first():
    base = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    assert nearest(np.array([[1.0, 0.0]]), base, 3).index.tolist() == [[1, 2, 3]]
    assert nearest(np.array([[1.0, 0.0]]), base, 9).index.shape == (1, 4)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        retrieval_accuracy(np.ones((2, 3)), np.ones((3, 3)))
    with pytest.raises(ValueError, match="need one of cosine, csls, ratio, distance"):
        retrieve(np.ones((2, 3)), np.ones((3, 3)), scoring="euclid")
    with pytest.raises(ValueError, match="at least one neighbour"):
        retrieve(np.ones((2, 3)), np.ones((3, 3)), scoring="csls", neighbours=0)
    with pytest.raises(ValueError, match="need one of ratio"):
        mine(np.ones((2, 3)), np.ones((3, 3)), margin="cosine")
