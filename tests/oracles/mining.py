"""Margin mining as the paper's equations and LASER's protocol say, over the whole matrix, float64.

Slow and obvious: every cosine, a full sort per row. Source: Artetxe & Schwenk 2019, section 3.
"""

from __future__ import annotations

import numpy as np


def cosines(src_ND: np.ndarray, trg_MD: np.ndarray) -> np.ndarray:
    """Return all cosines."""
    src, trg = src_ND.astype(np.float64), trg_MD.astype(np.float64)
    src /= np.linalg.norm(src, axis=1, keepdims=True)
    trg /= np.linalg.norm(trg, axis=1, keepdims=True)
    return src @ trg.T


def sorted_rows(sim_NM: np.ndarray, num: int) -> np.ndarray:
    """Return the `num` best columns of each row; of equal ones the first."""
    return np.argsort(-sim_NM, axis=1, kind="stable")[:, :num]


def margins(sim_NM: np.ndarray, num: int, margin: str) -> np.ndarray:
    """Score every pair: a is its cosine, b the mean of both sides' K highest; a / b, a - b or a."""
    b_N = -np.sort(-sim_NM, axis=1)[:, :num].mean(1)
    b_M = -np.sort(-sim_NM, axis=0)[:num].mean(0)
    b_NM = (b_N[:, None] + b_M[None, :]) / 2
    return {"ratio": sim_NM / b_NM, "distance": sim_NM - b_NM, "absolute": sim_NM}[margin]


def best_candidates(score_NM: np.ndarray, sim_NM: np.ndarray, num: int) -> list[tuple]:
    """Return (score, row, column) of each row's best scored column among its K nearest."""
    found = []
    for i, near in enumerate(sorted_rows(sim_NM, num)):
        j = max(near.tolist(), key=lambda j: score_NM[i, j])
        found.append((score_NM[i, j], i, j))
    return found


def mine(sim_NM: np.ndarray, num: int, margin: str, retrieval: str, threshold: float) -> list:
    """Return (score, source, target), best first."""
    score_NM = margins(sim_NM, num, margin)
    forward = best_candidates(score_NM, sim_NM, num)
    backward = [(s, i, j) for s, j, i in best_candidates(score_NM.T, sim_NM.T, num)]
    if retrieval == "intersect":
        back = {(i, j) for _, i, j in backward}
        found = [item for item in forward if item[1:] in back]
    elif retrieval == "max":
        found, src, trg = [], set(), set()
        for score, i, j in sorted(forward + backward, key=lambda item: -item[0]):
            if i not in src and j not in trg:
                found.append((score, i, j))
                src.add(i)
                trg.add(j)
    else:
        found = forward if retrieval == "forward" else backward
    return sorted((f for f in found if f[0] > threshold), key=lambda item: -item[0])
