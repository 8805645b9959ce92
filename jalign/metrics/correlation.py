"""Correlate two series of numbers: Pearson, Spearman, and intervals that say how sure they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

Statistic = Callable[[np.ndarray, np.ndarray], float]
Numbers = Sequence[float] | np.ndarray


class Interval(NamedTuple):
    """A confidence interval and the method behind it.

    `num_undefined` counts the resamples left out because one side had a single value.
    """

    low: float
    high: float
    level: float
    method: str
    num_undefined: int = 0


def average_ranks(x_N: Numbers) -> np.ndarray:
    """Rank numbers from 1; equal ones share the mean of their ranks. float64 [N]."""
    x_N = np.asarray(x_N, np.float64)
    _, group_N, count_G = np.unique(x_N, return_inverse=True, return_counts=True)
    last_G = np.cumsum(count_G)
    return (last_G - (count_G - 1) / 2)[group_N]


def pearson(x_N: Numbers, y_N: Numbers) -> float:
    """Return Pearson's r.

    Raises: ValueError for unequal lengths, fewer than two points, NaN or infinity, and a side whose
    values are all equal (r is then undefined).
    """
    x_N, y_N = _points(x_N, y_N)
    # Scale first: squares of numbers like 1e-200 would be 0 and the quotient nan.
    dx_N, dy_N = (_unit_scale(side_N) for side_N in (x_N, y_N))
    r = float((dx_N @ dy_N) / math.sqrt((dx_N @ dx_N) * (dy_N @ dy_N)))
    return min(1.0, max(-1.0, r))


def spearman(x_N: Numbers, y_N: Numbers) -> float:
    """Return Spearman's rho: Pearson's r of the ranks, ties with average ranks.

    Raises: as `pearson`.
    Source: the correlation of Deshpande et al. 2022 and of ALIGN-MLM (alignment against transfer).
    """
    return pearson(*map(average_ranks, _points(x_N, y_N)))


def fisher_interval(r: float, num_points: int, *, level: float = 0.95, ranks: bool) -> Interval:
    """Return the interval of a correlation by Fisher's z = atanh(r), a normal approximation.

    The standard error of z is 1 / sqrt(n - 3) for Pearson; for Spearman (`ranks`)
    sqrt((1 + r^2 / 2) / (n - 3)). A correlation of exactly +-1 has no interval but itself.
    Raises: ValueError for fewer than 4 points, r outside [-1, 1] or a level outside (0, 1).
    Source: Fisher 1921; Bonett & Wright 2000 for ranks.
    """
    if num_points < 4:
        raise ValueError(f"Fisher's interval needs 4 points or more; got {num_points}")
    if not -1 <= r <= 1:
        raise ValueError(f"a correlation lies in [-1, 1]; got {r}")
    method = "fisher (ranks)" if ranks else "fisher"
    quantile = NormalDist().inv_cdf(0.5 + _checked(level) / 2)
    if abs(r) == 1:
        return Interval(r, r, level, method)
    spread = quantile * math.sqrt((1 + r * r / 2 if ranks else 1.0) / (num_points - 3))
    z = math.atanh(r)
    return Interval(math.tanh(z - spread), math.tanh(z + spread), level, method)


def bootstrap_interval(
    x_N: Numbers,
    y_N: Numbers,
    *,
    statistic: Statistic = spearman,
    level: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of a statistic over resamples of the points (in pairs).

    With few points (12 in the published table) it is rough; report it beside Fisher's.
    Resamples in which one side has a single value are left out and counted.
    Raises: ValueError as `pearson`, and if no resample is defined.
    Source: Efron & Tibshirani 1993, chapter 13.
    """
    x_N, y_N = _points(x_N, y_N)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(num_resamples):
        pick_N = rng.integers(0, len(x_N), len(x_N))
        x, y = x_N[pick_N], y_N[pick_N]
        if np.ptp(x) > 0 and np.ptp(y) > 0:
            values.append(statistic(x, y))
    if not values:
        raise ValueError("no resample has two different values on both sides: too few points")
    tail = (1 - _checked(level)) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high), level, "bootstrap", num_resamples - len(values))


def _points(x_N: Numbers, y_N: Numbers) -> tuple[np.ndarray, np.ndarray]:
    x_N, y_N = (np.asarray(side, np.float64) for side in (x_N, y_N))
    if x_N.shape != y_N.shape or x_N.ndim != 1 or len(x_N) < 2:
        raise ValueError(
            f"need two series of equal length, 2 or more; got shapes {x_N.shape} and {y_N.shape}"
        )
    if not (np.isfinite(x_N).all() and np.isfinite(y_N).all()):
        raise ValueError("need finite numbers: leave out the points that have none")
    for name, side_N in (("first", x_N), ("second", y_N)):
        if np.ptp(side_N) == 0:
            raise ValueError(
                f"all values of the {name} series are {side_N[0]:g}: correlation is undefined"
            )
    return x_N, y_N


def _unit_scale(x_N: np.ndarray) -> np.ndarray:
    x_N = x_N - x_N.mean()
    return x_N / np.abs(x_N).max()


def _checked(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"a confidence level lies between 0 and 1; got {level}")
    return level
