"""Compare the distances of related and of unrelated pairs of vectors.

Related: two words that translate each other. Unrelated: the first of them and another word of the
same sentence. Fine-tuning may shrink both, so the paired difference counts, not the first alone;
and it changes norms, so there are forms without scale.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

KINDS = ("l2", "cosine", "relative")


class Summary(NamedTuple):
    """What one model does: means, the mean of unrelated - related and its standard deviation over
    pairs, the share of pairs where that is not positive, and the area under the ROC curve.
    """

    related: float
    unrelated: float
    difference: float
    difference_std: float
    error_rate: float
    auc: float
    num: int


def distances(src_ND: np.ndarray, trg_ND: np.ndarray, *, kind: str = "l2") -> np.ndarray:
    """Return the distance of each row of `src` to its row of `trg`, in float64.

    `l2`; `cosine`: 1 - cosine, 1 for a vector of zeros; `relative`: l2 divided by the mean norm of
    all rows given, which no common scale changes. To compare two sets in this form, divide both by
    one `mean_norm`.
    Raises: ValueError for another kind or unequal shapes.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: need one of {', '.join(KINDS)}")
    if src_ND.shape != trg_ND.shape or src_ND.ndim != 2:
        raise ValueError(f"need two [N, D] arrays of one shape; got {src_ND.shape}, {trg_ND.shape}")
    src_ND, trg_ND = src_ND.astype(np.float64), trg_ND.astype(np.float64)
    if kind == "cosine":
        return 1 - np.einsum("ND,ND->N", _unit(src_ND), _unit(trg_ND))
    scale = mean_norm(src_ND, trg_ND) if kind == "relative" else 1.0
    return np.linalg.norm(src_ND - trg_ND, axis=1) / (scale or 1.0)


def mean_norm(*arrays_ND: np.ndarray) -> float:
    """Return the mean l2 norm of the rows of all arrays."""
    norms = [np.linalg.norm(x_ND.astype(np.float64), axis=1) for x_ND in arrays_ND]
    return float(np.concatenate(norms).mean())


def summarize(related_N: np.ndarray, unrelated_N: np.ndarray) -> Summary:
    """Summarise the distances of N pairs; entry i of both shares its source word.

    Raises: ValueError where they differ in length or are empty.
    Source: Efimov et al. 2022 for the idea; the error rate and the area are ours.
    """
    if related_N.shape != unrelated_N.shape or related_N.ndim != 1 or not related_N.size:
        raise ValueError(
            "need as many unrelated as related distances, and some; got "
            f"{unrelated_N.shape} and {related_N.shape}"
        )
    difference_N = unrelated_N.astype(np.float64) - related_N
    return Summary(
        float(related_N.mean()),
        float(unrelated_N.mean()),
        float(difference_N.mean()),
        float(difference_N.std()),
        float((difference_N <= 0).mean()),
        auc(related_N, unrelated_N),
        related_N.size,
    )


def auc(low_N: np.ndarray, high_M: np.ndarray) -> float:
    """Return how often a random element of `high` exceeds one of `low`; a tie counts half.

    Raises: ValueError where one is empty.
    """
    if not low_N.size or not high_M.size:
        raise ValueError("need at least one value on either side")
    sorted_N = np.sort(low_N)
    below = np.searchsorted(sorted_N, high_M, "left").sum(dtype=np.int64)
    not_above = np.searchsorted(sorted_N, high_M, "right").sum(dtype=np.int64)
    return float((below + not_above) / (2 * low_N.size * high_M.size))


def histograms(values: dict[str, np.ndarray], bins: int = 60) -> tuple[np.ndarray, dict]:
    """Count values into bins that all entries share: (edges [bins + 1], counts by name)."""
    every = np.concatenate(list(values.values()))
    edges = np.histogram_bin_edges(every, bins)
    return edges, {name: np.histogram(x, edges)[0] for name, x in values.items()}


def _unit(x_ND: np.ndarray) -> np.ndarray:
    return x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12)
