"""Turn similarities into links: bool [B, I, J], True where source item i and target item j align.

Every function takes scores and the mask of real cells (`align/similarity.py`) and works on padded
pairs and on packed rows alike, `matching` included. Links are bool, so no gradient passes them.

Ties: the first maximum wins, that is the smallest target index in a row and the smallest source
index in a column, as in numpy and in the aligners compared with. `argmax_ties` and `itermax_ties`
tell where that mattered, with a tolerance also where rounding may have decided.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from jalign.align.sparse import entmax15, sparsemax
from jalign.types import Array

LOW = float(np.finfo(np.float32).min)  # finite: 0 times it is a number

_SRC, _TRG = 1, 2  # the axes of [B, I, J]


def forward_links(score_BIJ: Array, pair_BIJ: Array) -> Array:
    """Link every source item to its best target item."""
    return _best(_real(score_BIJ, pair_BIJ), _TRG) & pair_BIJ


def reverse_links(score_BIJ: Array, pair_BIJ: Array) -> Array:
    """Link every target item to its best source item."""
    return _best(_real(score_BIJ, pair_BIJ), _SRC) & pair_BIJ


def mutual_links(score_BIJ: Array, pair_BIJ: Array) -> Array:
    """Link the items that are each other's best: the intersection of forward and reverse.

    Source: SimAlign's argmax (`inter`).
    """
    score_BIJ = _real(score_BIJ, pair_BIJ)
    return _best(score_BIJ, _TRG) & _best(score_BIJ, _SRC) & pair_BIJ


def plan_links(pi_BIJ: Array, xi_BIJ: Array, pair_BIJ: Array) -> Array:
    """Link i and j where j is the best of row i in `pi` and i the best of column j in `xi`.

    `pi` and `xi` are what `transport.sinkhorn` returns. Source: the aligner released with
    XLM-Align. Differs: that script leaves negative similarities in, by a slip (methods.md 4.2).
    """
    src_BIJ, trg_BIJ = _real(pi_BIJ, pair_BIJ), _real(xi_BIJ, pair_BIJ)
    return _best(src_BIJ, _TRG) & _best(trg_BIJ, _SRC) & pair_BIJ


def itermax(
    score_BIJ: Array, pair_BIJ: Array, *, count: int = 2, alpha: float = 0.9, rule: str = "code"
) -> Array:
    """Link by mutual argmax, then again among what is left, `count` times in all.

    Before each further round cells whose row or column is aligned are multiplied by `alpha`. Rule
    `code`, that of SimAlign and of XLM-Align's training: cells whose row and column are both
    aligned become 0 and are never added. Rule `paper`, the printed form of XLM-Align: only aligned
    cells become 0, and the others count `alpha` even where row and column are both taken. A pair
    stops where all its rows or all its columns are aligned; one with a side of at most two items
    gets the first round only. Meant for scores >= 0: a cell at 0 still competes.
    Raises: ValueError for another rule or count < 1.
    Source: Jalili Sabet et al. 2020, section 3.2, and `iter_max` of their code.
    """
    score_BIJ, open_BIJ = _real(score_BIJ, pair_BIJ), _has_rounds(pair_BIJ, count, rule)
    links_BIJ = mutual_links(score_BIJ, pair_BIJ)
    for _ in range(count - 1):
        left_BIJ, closed_BIJ, going_BIJ = _left(score_BIJ, pair_BIJ, links_BIJ, (alpha, rule))
        links_BIJ |= mutual_links(left_BIJ, pair_BIJ) & ~closed_BIJ & going_BIJ & open_BIJ
    return links_BIJ


def softmax_links(score_BIJ: Array, pair_BIJ: Array, *, threshold: float = 1e-3) -> Array:
    """Link where both the softmax over targets and the softmax over sources exceed `threshold`.

    Where the probability equals the threshold up to rounding, links may differ from another
    program's; two calls with thresholds around it tell where.
    Source: Dou & Neubig 2021, section 2.1 (dot products, 1e-3); AccAlign uses 0.1.
    """
    score_BIJ = _real(score_BIJ, pair_BIJ)
    above = pair_BIJ
    for axis in (_TRG, _SRC):
        exp_BIJ, total_BIJ = _exp(score_BIJ, pair_BIJ, axis)
        above &= exp_BIJ > threshold * total_BIJ
    return above


def entmax_links(
    score_BIJ: Array, pair_BIJ: Array, *, alpha: float = 1.5, threshold: float = 0.0
) -> Array:
    """Link where both the alpha-entmax over targets and that over sources exceed `threshold`.

    `alpha` is 1.5 (awesome-align's entmax) or 2 (sparsemax).
    Raises: ValueError for another alpha.
    """
    if alpha not in (1.5, 2.0):
        raise ValueError(f"alpha={alpha}: need 1.5 (entmax) or 2 (sparsemax)")
    sparse = entmax15 if alpha == 1.5 else sparsemax
    above = pair_BIJ
    for axis in (_TRG, _SRC):
        above &= sparse(score_BIJ, pair_BIJ, axis) > threshold
    return above


def softmax_scores(score_BIJ: Array, pair_BIJ: Array) -> Array:
    """Return a confidence in [0, 1] for every cell: the harmonic mean of the two softmaxes, with
    scores divided by the square root of the number of candidates.

    Source: awesome-align's `output_prob`.
    """
    score_BIJ = score_BIJ.astype(jnp.float32)
    probs = []
    for axis in (_TRG, _SRC):
        num_BIJ = jnp.maximum(pair_BIJ.sum(axis=axis, keepdims=True), 1)
        cooled_BIJ = _real(score_BIJ / jnp.sqrt(num_BIJ.astype(jnp.float32)), pair_BIJ)
        exp_BIJ, total_BIJ = _exp(cooled_BIJ, pair_BIJ, axis)
        probs.append(exp_BIJ / jnp.where(total_BIJ > 0, total_BIJ, 1.0))
    return 2.0 * probs[0] * probs[1] / (probs[0] + probs[1] + 1e-9)


def matching(score_BIJ: np.ndarray, pair_BIJ: np.ndarray) -> np.ndarray:
    """Link one to one so that the sum of the scores is largest: min(m, n) links per pair. On the
    host, numpy in and out.

    Equals networkx's `max_weight_matching(maxcardinality=True)`, SimAlign's `mwmf`, unless optima
    tie or a score is exactly 0 (no edge there).
    """
    score_BIJ, pair_BIJ = np.asarray(score_BIJ), np.asarray(pair_BIJ)
    links_BIJ = np.zeros(pair_BIJ.shape, bool)
    for b, pair_IJ in enumerate(pair_BIJ):
        for rows, cols in _blocks(pair_IJ):
            src, trg = linear_sum_assignment(score_BIJ[b][np.ix_(rows, cols)], maximize=True)
            links_BIJ[b, rows[src], cols[trg]] = True
    return links_BIJ


def last_links(links_BIJ: Array) -> tuple[Array, Array]:
    """Return the one link each item keeps: the largest target index per source item, the largest
    source index per target item, -1 where none. Int32 [B, I] and [B, J].

    Source: the order in which XLM-Align's criterion overwrites its labels (methods.md 4.3).
    """
    return tuple(
        jnp.max(jnp.where(links_BIJ, _index(links_BIJ, axis), -1), axis=axis)
        for axis in (_TRG, _SRC)
    )


def argmax_ties(
    score_BIJ: Array, pair_BIJ: Array, *, tolerance: float = 0.0
) -> tuple[Array, Array]:
    """Tell which source items and which target items have more than one best partner. Bool [B, I]
    and [B, J].

    A second score counts as equal where it lies within `tolerance` times the best one's size.
    """
    score_BIJ = _real(score_BIJ, pair_BIJ)

    def tied(axis):
        top = jnp.max(score_BIJ, axis=axis, keepdims=True)
        near_BIJ = (score_BIJ >= top - tolerance * jnp.abs(top)) & pair_BIJ
        return near_BIJ.sum(axis=axis) > 1

    return tied(_TRG), tied(_SRC)


def itermax_ties(
    score_BIJ: Array,
    pair_BIJ: Array,
    *,
    count: int = 2,
    alpha: float = 0.9,
    rule: str = "code",
    tolerance: float = 0.0,
) -> tuple[Array, Array]:
    """Tell which items had more than one best partner in any round of `itermax`. Bool [B, I] and
    [B, J].

    Rounds after a pair has stopped are left out: all its closed cells tie at 0 and decide nothing.
    """
    score_BIJ, open_BIJ = _real(score_BIJ, pair_BIJ), _has_rounds(pair_BIJ, count, rule)
    links_BIJ = mutual_links(score_BIJ, pair_BIJ)
    src_BI, trg_BJ = argmax_ties(score_BIJ, pair_BIJ, tolerance=tolerance)
    for _ in range(count - 1):
        left_BIJ, closed_BIJ, going_BIJ = _left(score_BIJ, pair_BIJ, links_BIJ, (alpha, rule))
        going_BIJ &= open_BIJ
        more_BI, more_BJ = argmax_ties(left_BIJ, going_BIJ, tolerance=tolerance)
        src_BI, trg_BJ = src_BI | more_BI, trg_BJ | more_BJ
        links_BIJ |= mutual_links(left_BIJ, pair_BIJ) & ~closed_BIJ & going_BIJ
    return src_BI, trg_BJ


def _real(score_BIJ: Array, pair_BIJ: Array) -> Array:
    return jnp.where(pair_BIJ, score_BIJ.astype(jnp.float32), LOW)


def _index(x_BIJ: Array, axis: int) -> Array:
    return jax.lax.broadcasted_iota(jnp.int32, x_BIJ.shape, axis)


def _best(score_BIJ: Array, axis: int) -> Array:
    """Mark the first maximum along an axis.

    Two plain reductions: XLA turns them into vector code, which it does not do for argmax.
    """
    index_BIJ = _index(score_BIJ, axis)
    is_top_BIJ = score_BIJ == jnp.max(score_BIJ, axis=axis, keepdims=True)
    far = score_BIJ.shape[axis]
    first = jnp.min(jnp.where(is_top_BIJ, index_BIJ, far), axis=axis, keepdims=True)
    return index_BIJ == first


def _exp(score_BIJ: Array, pair_BIJ: Array, axis: int) -> tuple[Array, Array]:
    """Return exp(score - max) and its sum, the softmax before the division."""
    top = jnp.max(score_BIJ, axis=axis, keepdims=True)
    exp_BIJ = jnp.where(pair_BIJ, jnp.exp(score_BIJ - top), 0.0)
    return exp_BIJ, jnp.sum(exp_BIJ, axis=axis, keepdims=True)


def _has_rounds(pair_BIJ: Array, count: int, rule: str) -> Array:
    """Mark the pairs with more than two items on both sides. Raises: ValueError."""
    if rule not in ("code", "paper") or count < 1:
        raise ValueError(f"rule={rule!r}, count={count}: need 'code' or 'paper', count >= 1")
    num_src, num_trg = (pair_BIJ.sum(axis=axis, keepdims=True) for axis in (_SRC, _TRG))
    return pair_BIJ & (num_src > 2) & (num_trg > 2)


def _left(
    score_BIJ: Array, pair_BIJ: Array, links_BIJ: Array, setting: tuple[float, str]
) -> tuple[Array, Array, Array]:
    """Return the discounted scores, the cells that may not be added, and the cells of pairs that
    have rows and columns left: all of this per pair, though a packed row holds several.
    """
    alpha, rule = setting
    row_BI1 = links_BIJ.any(axis=_TRG, keepdims=True)
    col_B1J = links_BIJ.any(axis=_SRC, keepdims=True)
    all_cols_BI1 = (col_B1J | ~pair_BIJ).all(axis=_TRG, keepdims=True)
    all_rows_B1J = (row_BI1 | ~pair_BIJ).all(axis=_SRC, keepdims=True)
    closed_BIJ = row_BI1 & col_B1J if rule == "code" else links_BIJ
    factor_BIJ = jnp.where(closed_BIJ, 0.0, jnp.where(row_BI1 | col_B1J, alpha, 1.0))
    left_BIJ = jnp.where(pair_BIJ, score_BIJ * factor_BIJ, LOW)
    return left_BIJ, closed_BIJ, pair_BIJ & ~all_cols_BI1 & ~all_rows_B1J


def _blocks(pair_IJ: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """List the row and column indices of each pair of one matrix."""
    blocks, left = [], pair_IJ.any(1)
    while left.any():
        cols = pair_IJ[np.argmax(left)]
        rows = pair_IJ[:, np.argmax(cols)]
        blocks.append((np.flatnonzero(rows), np.flatnonzero(cols)))
        left &= ~rows
    return blocks
