"""Score translation retrieval: whose nearest neighbour is its own translation; and mine bitext.

Similarity is the cosine, plain or set against how near a vector's neighbours are: the margin of
Artetxe & Schwenk, as LASER and XTREME compute it, or CSLS. Similarities are made in blocks, so that
BUCC's half a million sentences a side need no square matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

MARGINS = ("ratio", "distance")
SCORINGS = ("cosine", "csls", *MARGINS)
RETRIEVALS = ("max", "intersect", "forward", "backward")
_NEIGHBOURS = {"csls": 10, "ratio": 4, "distance": 4}  # of the papers
_BLOCK = 1 << 25  # similarities held at once


class Neighbours(NamedTuple):
    """The nearest rows of a base for each query, nearest first: [N, K] each."""

    sim: np.ndarray
    index: np.ndarray


class Mined(NamedTuple):
    """Mined pairs, best first: score, row of the source, row of the target."""

    score: np.ndarray
    src: np.ndarray
    trg: np.ndarray


def retrieval_accuracy(
    src_ND: np.ndarray,
    trg_ND: np.ndarray,
    *,
    scoring: str = "cosine",
    neighbours: int | None = None,
) -> tuple[float, float]:
    """Return the accuracy of nearest-neighbour search, (src -> trg, trg -> src); row i belongs to
    row i.

    Raises: ValueError where the two sides differ in shape.
    Source: Artetxe & Schwenk 2019 (Tatoeba); `scoring` as in `retrieve`. XTREME's Tatoeba is the
    second number, by cosine: it looks for each English sentence among the foreign ones.
    """
    if src_ND.shape != trg_ND.shape or src_ND.ndim != 2:
        raise ValueError(
            f"need two [N, D] arrays of one shape; got {src_ND.shape} and {trg_ND.shape}"
        )
    right = np.arange(len(src_ND))
    forward = retrieve(src_ND, trg_ND, scoring=scoring, neighbours=neighbours)
    backward = retrieve(trg_ND, src_ND, scoring=scoring, neighbours=neighbours)
    return float((forward == right).mean()), float((backward == right).mean())


def retrieve(
    src_ND: np.ndarray,
    trg_MD: np.ndarray,
    *,
    scoring: str = "cosine",
    neighbours: int | None = None,
) -> np.ndarray:
    """Return for each source row the row of its best target.

    cosine: cos(x, y). csls: 2 cos(x, y) - r(x) - r(y), where r is the mean cosine of the K nearest
    on the other side (K = 10). ratio, distance: cos(x, y) divided by, or less, (r(x) + r(y)) / 2,
    where only the K nearest of x compete (K = 4), as in LASER's search.
    Raises: ValueError for another scoring, or no neighbours.
    Source: Conneau et al. 2018, equation 2 (CSLS); Artetxe & Schwenk 2019, equations 2 and 3.
    """
    if scoring not in SCORINGS:
        raise ValueError(f"scoring={scoring!r}: need one of {', '.join(SCORINGS)}")
    if scoring == "cosine":
        return nearest(src_ND, trg_MD, 1).index[:, 0]
    num = _NEIGHBOURS[scoring] if neighbours is None else neighbours
    backward_M = nearest(trg_MD, src_ND, num).sim.mean(1)
    if scoring == "csls":  # r(x) is the same for every y
        blocks = _similarities(src_ND, trg_MD)
        return np.concatenate([(2 * sim_BM - backward_M).argmax(1) for sim_BM in blocks])
    found = nearest(src_ND, trg_MD, num)
    score_NK = _margins(found, found.sim.mean(1), backward_M, scoring)
    return found.index[np.arange(len(src_ND)), score_NK.argmax(1)]


def mine(
    src_ND: np.ndarray,
    trg_MD: np.ndarray,
    *,
    margin: str = "ratio",
    neighbours: int = 4,
    retrieval: str = "max",
    threshold: float = 0.0,
) -> Mined:
    """Mine pairs of translations from two sets of sentence vectors without repetitions.

    Each side takes its best of its `neighbours` nearest by margin. `max`: both directions compete,
    best score first, and a row is used once; only scores above `threshold` remain. `forward`,
    `backward`: one direction, all its pairs; `intersect`: the forward pairs that are backward ones.
    Raises: ValueError for another margin or retrieval.
    Source: Artetxe & Schwenk 2019, section 3.2, as LASER's and XTREME's mine_bitext compute it.
    """
    if margin not in MARGINS or retrieval not in RETRIEVALS:
        raise ValueError(
            f"margin={margin!r}, retrieval={retrieval!r}: need one of {', '.join(MARGINS)} and of "
            f"{', '.join(RETRIEVALS)}"
        )
    to_trg, to_src = nearest(src_ND, trg_MD, neighbours), nearest(trg_MD, src_ND, neighbours)
    mean_N, mean_M = to_trg.sim.mean(1), to_src.sim.mean(1)
    forward = _best(to_trg, _margins(to_trg, mean_N, mean_M, margin))
    backward = _best(to_src, _margins(to_src, mean_M, mean_N, margin))
    backward = Mined(backward.score, backward.trg, backward.src)
    if retrieval == "backward":
        return _take(backward, np.argsort(-backward.score, kind="stable"))
    if retrieval == "forward":
        return _take(forward, np.argsort(-forward.score, kind="stable"))
    if retrieval == "intersect":
        chosen = np.flatnonzero(backward.src[forward.trg] == forward.src)
        return _take(forward, chosen[np.argsort(-forward.score[chosen], kind="stable")])
    both = Mined(*(np.concatenate(columns) for columns in zip(forward, backward, strict=True)))
    return _each_once(both, threshold)


def nearest(query_ND: np.ndarray, base_MD: np.ndarray, num: int) -> Neighbours:
    """Find the `num` nearest base rows of each query by cosine (all of them where there are fewer).

    Of equally near ones the first comes first.
    Raises: ValueError where nothing can be found.
    """
    num = min(num, len(base_MD))
    if num < 1:
        raise ValueError("need at least one neighbour and one row to search")
    sims, indices = [], []
    for sim_BM in _similarities(query_ND, base_MD):
        if num == 1:
            index_BK = sim_BM.argmax(1)[:, None]
        else:
            index_BK = np.sort(np.argpartition(-sim_BM, num - 1, axis=1)[:, :num], axis=1)
            order = np.argsort(-np.take_along_axis(sim_BM, index_BK, 1), axis=1, kind="stable")
            index_BK = np.take_along_axis(index_BK, order, 1)
        sims.append(np.take_along_axis(sim_BM, index_BK, 1))
        indices.append(index_BK)
    return Neighbours(np.concatenate(sims), np.concatenate(indices))


def _similarities(query_ND: np.ndarray, base_MD: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the cosines of blocks of queries with all of the base."""
    query_ND, base_DM = _unit(query_ND), _unit(base_MD).T
    rows = max(1, _BLOCK // max(1, base_DM.shape[1]))
    for first in range(0, len(query_ND), rows):
        yield query_ND[first : first + rows] @ base_DM


def _margins(found: Neighbours, mean_N: np.ndarray, mean_M: np.ndarray, margin: str) -> np.ndarray:
    around_NK = (mean_N[:, None] + mean_M[found.index]) / 2
    return found.sim / around_NK if margin == "ratio" else found.sim - around_NK


def _best(found: Neighbours, score_NK: np.ndarray) -> Mined:
    rows = np.arange(len(score_NK))
    best = score_NK.argmax(1)
    return Mined(score_NK[rows, best], rows, found.index[rows, best])


def _take(mined: Mined, order: np.ndarray) -> Mined:
    return Mined(*(column[order] for column in mined))


def _each_once(mined: Mined, threshold: float) -> Mined:
    """Go through pairs, best first, and keep those whose two rows are both unused."""
    used_src, used_trg, kept = set(), set(), []
    for i in np.argsort(-mined.score, kind="stable").tolist():
        src, trg = int(mined.src[i]), int(mined.trg[i])
        if src not in used_src and trg not in used_trg:
            used_src.add(src)
            used_trg.add(trg)
            if mined.score[i] > threshold:
                kept.append(i)
    return _take(mined, np.array(kept, np.int64))


def _unit(x_ND: np.ndarray) -> np.ndarray:
    return x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12)
