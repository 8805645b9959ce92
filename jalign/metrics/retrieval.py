"""Score translation retrieval: whose nearest neighbour is its own translation; and mine bitext.

Similarity is the cosine, plain or set against how near a vector's neighbours are: the margin of
Artetxe & Schwenk, as LASER and XTREME compute it, or CSLS. Everything follows from the nearest
neighbours both ways, which `search` finds: `nearest_both` here, in NumPy, or the faster one of
`jalign/align/search.py`. Neither makes the square matrix of all similarities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

MARGINS = ("ratio", "distance", "absolute")
SCORINGS = ("cosine", "csls", "ratio", "distance")
RETRIEVALS = ("max", "intersect", "forward", "backward")
_NEIGHBOURS = {"csls": 10, "ratio": 4, "distance": 4}  # of the papers
_BLOCK = 1 << 25  # similarities held at once


class Neighbours(NamedTuple):
    """The nearest rows of a base for each query, nearest first: [N, K] each."""

    sim: np.ndarray
    index: np.ndarray


# search(src_ND, trg_MD, num, offsets=None) -> the nearest of each source and of each target, where
# `offsets` (of either side's rows) are added to the cosines
Search = Callable[..., tuple[Neighbours, Neighbours]]


class Mined(NamedTuple):
    """Mined pairs, best first: score, row of the source, row of the target."""

    score: np.ndarray
    src: np.ndarray
    trg: np.ndarray


def nearest_both(
    src_ND: np.ndarray,
    trg_MD: np.ndarray,
    num: int,
    *,
    offsets: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[Neighbours, Neighbours]:
    """Return the `num` nearest targets of each source, and sources of each target, by cosine."""
    src_N, trg_M = offsets or (0.0, 0.0)
    to_trg = nearest(src_ND, trg_MD, num, offset_M=trg_M)
    return to_trg, nearest(trg_MD, src_ND, num, offset_M=src_N)


def retrieval_accuracy(
    src_ND: np.ndarray,
    trg_ND: np.ndarray,
    *,
    scoring: str = "cosine",
    neighbours: int | None = None,
    search: Search = nearest_both,
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
    found = retrieve_both(src_ND, trg_ND, scoring=scoring, neighbours=neighbours, search=search)
    forward, backward = (float((index == right).mean()) for index in found)
    return forward, backward


def retrieve(
    src_ND: np.ndarray,
    trg_MD: np.ndarray,
    *,
    scoring: str = "cosine",
    neighbours: int | None = None,
    search: Search = nearest_both,
) -> np.ndarray:
    """Return for each source row the row of its best target; see `retrieve_both`."""
    options = dict(scoring=scoring, neighbours=neighbours, search=search)
    return retrieve_both(src_ND, trg_MD, **options)[0]


def retrieve_both(
    src_ND: np.ndarray,
    trg_MD: np.ndarray,
    *,
    scoring: str = "cosine",
    neighbours: int | None = None,
    search: Search = nearest_both,
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each source row its best target, and for each target row its best source.

    cosine: cos(x, y). csls: 2 cos(x, y) - r(x) - r(y), where r is the mean cosine of the K nearest
    on the other side (K = 10). ratio, distance: cos(x, y) divided by, or less, (r(x) + r(y)) / 2,
    where only the K nearest of x compete (K = 4), as in LASER's search.
    Raises: ValueError for another scoring, or no neighbours.
    Source: Conneau et al. 2018, equation 2 (CSLS); Artetxe & Schwenk 2019, equations 2 and 3.
    """
    if scoring not in SCORINGS:
        raise ValueError(f"scoring={scoring!r}: need one of {', '.join(SCORINGS)}")
    num = 1 if scoring == "cosine" else _NEIGHBOURS[scoring] if neighbours is None else neighbours
    to_trg, to_src = search(src_ND, trg_MD, num)
    if scoring == "cosine":
        return to_trg.index[:, 0], to_src.index[:, 0]
    mean_N, mean_M = _means(to_trg), _means(to_src)
    if scoring == "csls":  # halved
        to_trg, to_src = search(src_ND, trg_MD, 1, offsets=(-mean_N / 2, -mean_M / 2))
        return to_trg.index[:, 0], to_src.index[:, 0]
    forward = _best(to_trg, _margins(to_trg, mean_N, mean_M, scoring))
    return forward.trg, _best(to_src, _margins(to_src, mean_M, mean_N, scoring)).trg


def mine(
    src_ND: np.ndarray,
    trg_MD: np.ndarray,
    *,
    neighbours: int = 4,
    search: Search = nearest_both,
    **options: object,
) -> Mined:
    """Mine pairs of translations from two sets of sentence vectors without repetitions.

    Each side takes its best of its `neighbours` nearest by margin; the options are those of
    `pair_up`. Source: Artetxe & Schwenk 2019, section 3.2.
    """
    check_mining(**{k: v for k, v in options.items() if k != "threshold"})
    return pair_up(*search(src_ND, trg_MD, neighbours), **options)


def check_mining(margin: str = "ratio", retrieval: str = "max") -> None:
    """Check what was asked for. Raises: ValueError."""
    if margin not in MARGINS or retrieval not in RETRIEVALS:
        raise ValueError(
            f"margin={margin!r}, retrieval={retrieval!r}: need one of {', '.join(MARGINS)} and of "
            f"{', '.join(RETRIEVALS)}"
        )


def pair_up(
    to_trg: Neighbours,
    to_src: Neighbours,
    *,
    margin: str = "ratio",
    retrieval: str = "max",
    threshold: float | None = None,
) -> Mined:
    """Pair rows that are near each other both ways, best pairs first.

    `margin`: the cosine divided by (ratio) or less (distance) the mean cosine of both rows with
    their neighbours, or itself (absolute). `forward`, `backward`: every row of that side has a
    pair; `intersect`: the forward pairs that are backward ones; `max`: both directions compete,
    best score first, and a row is used once. Only scores above `threshold` remain; None is what
    LASER does: 0 for `max`, and no threshold for the others. Of equal scores the forward pair comes
    first, then the lower row; of equal margins of one row, the nearer and then the lower one.
    Raises: ValueError for another margin or retrieval.
    Source: Artetxe & Schwenk 2019, section 3.2, as LASER's and XTREME's mine_bitext compute it.
    """
    check_mining(margin, retrieval)
    mean_N, mean_M = _means(to_trg), _means(to_src)
    forward = _best(to_trg, _margins(to_trg, mean_N, mean_M, margin))
    backward = _best(to_src, _margins(to_src, mean_M, mean_N, margin))
    backward = Mined(backward.score, backward.trg, backward.src)
    if retrieval == "max":
        both = Mined(*(np.concatenate(columns) for columns in zip(forward, backward, strict=True)))
        return _each_once(both, 0.0 if threshold is None else threshold)
    found = backward if retrieval == "backward" else forward
    keep = np.ones(len(found.score), bool) if threshold is None else found.score > threshold
    if retrieval == "intersect":
        keep &= backward.src[forward.trg] == forward.src
    chosen = np.flatnonzero(keep)
    return _take(found, chosen[np.argsort(-found.score[chosen], kind="stable")])


def nearest(
    query_ND: np.ndarray, base_MD: np.ndarray, num: int, *, offset_M: np.ndarray | float = 0.0
) -> Neighbours:
    """Find the `num` nearest base rows of each query by cosine (all of them where there are fewer).

    Of equally near ones the first comes first. `offset_M` is added to the cosines.
    Raises: ValueError where nothing can be found.
    """
    num = min(num, len(base_MD))
    if num < 1:
        raise ValueError("need at least one neighbour and one row to search")
    sims, indices = [], []
    for sim_BM in _similarities(query_ND, base_MD):
        sim_BM += offset_M
        if num == 1:
            index_BK = sim_BM.argmax(1)[:, None]
        else:
            index_BK = _highest(sim_BM, num)
            order = np.argsort(-np.take_along_axis(sim_BM, index_BK, 1), axis=1, kind="stable")
            index_BK = np.take_along_axis(index_BK, order, 1)
        sims.append(np.take_along_axis(sim_BM, index_BK, 1))
        indices.append(index_BK)
    return Neighbours(np.concatenate(sims), np.concatenate(indices))


def _highest(sim_BM: np.ndarray, num: int) -> np.ndarray:
    """Return the columns of the highest entries of each row, in order; of equal ones the first."""
    least_B1 = -np.partition(-sim_BM, num - 1, axis=1)[:, num - 1 : num]
    above_BM, equal_BM = sim_BM > least_B1, sim_BM == least_B1
    room_B1 = num - above_BM.sum(1, keepdims=True)
    above_BM |= equal_BM & (equal_BM.cumsum(1) <= room_B1)
    return np.nonzero(above_BM)[1].reshape(-1, num)


def _similarities(query_ND: np.ndarray, base_MD: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the cosines of blocks of queries with all of the base."""
    query_ND, base_DM = _unit(query_ND), _unit(base_MD).T
    rows = max(1, _BLOCK // max(1, base_DM.shape[1]))
    for first in range(0, len(query_ND), rows):
        yield query_ND[first : first + rows] @ base_DM


def _means(found: Neighbours) -> np.ndarray:
    return found.sim.mean(1, dtype=np.float64)


def _margins(found: Neighbours, mean_N: np.ndarray, mean_M: np.ndarray, margin: str) -> np.ndarray:
    if margin == "absolute":
        return found.sim.astype(np.float64)
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
    # bytes, one per row: sets of millions of ints would take hundreds of megabytes
    used_src, used_trg = (bytearray(int(rows.max()) + 1) for rows in (mined.src, mined.trg))
    order, kept = np.argsort(-mined.score, kind="stable"), []
    pairs = zip(mined.src[order].tolist(), mined.trg[order].tolist(), strict=True)
    for at, (src, trg) in enumerate(pairs):
        if not used_src[src] and not used_trg[trg]:
            used_src[src] = used_trg[trg] = 1
            kept.append(at)
    chosen = order[np.array(kept, np.int64)]
    return _take(mined, chosen[mined.score[chosen] > threshold])


def _unit(x_ND: np.ndarray) -> np.ndarray:
    return x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12)
