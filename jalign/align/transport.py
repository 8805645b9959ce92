"""Balance similarities towards a transport plan: Sinkhorn as XLM-Align runs it, and in the log
domain to convergence.

Every function takes scores [B, I, J] and the mask of real cells (`align/similarity.py`), so padded
pairs and packed rows run through the same code: a sum over a row of the matrix sees one pair only.
Padding has exactly zero mass. float32 throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jalign.types import Array

LOW = -1e30  # finite, so that the difference of two of them is a number


class Balanced(NamedTuple):
    """A kernel after its last row normalisation (`pi`, rows sum to 1) and after its last column
    normalisation (`xi`, columns sum to 1).
    """

    pi_BIJ: Array
    xi_BIJ: Array


def sinkhorn(
    sim_BIJ: Array,
    pair_BIJ: Array,
    *,
    num_iters: int = 2,
    order: str = "code",
    floor: float = 1e-6,
) -> Balanced:
    """Balance the kernel max(similarity, 0) by alternate normalisation, `num_iters` times.

    Non-positive similarities become `floor`. The order `code` is columns then rows, that of the
    released training code, whose result is `pi`; `paper` is rows then columns, with result `xi`;
    code(K) = paper(K^T)^T. Multiplying the similarities by a constant changes nothing.
    Raises: ValueError for another order or num_iters < 1.
    Source: Chi et al. 2021, section 3.1. Differs: the kernel is the clamped dot product itself, as
    in the released code, not its exponential (methods.md 4.2).
    """
    if order not in ("code", "paper") or num_iters < 1:
        raise ValueError(
            f"order={order!r}, num_iters={num_iters}: need order 'code' or 'paper', num_iters >= 1"
        )
    sim_BIJ = sim_BIJ.astype(jnp.float32)
    kernel_BIJ = jnp.where(pair_BIJ, jnp.where(sim_BIJ > 0, sim_BIJ, floor), 0.0)

    # What is alone in its row or column gets exactly 1, whatever the compiler makes of x / x: with
    # one item on a side the rest is exactly equal then, and the tie falls to the first one, as in
    # the released code.
    alone_BIJ = {axis: pair_BIJ & (pair_BIJ.sum(axis=axis, keepdims=True) == 1) for axis in (1, 2)}

    def normalised(x_BIJ, axis):
        total = jnp.sum(x_BIJ, axis=axis, keepdims=True)
        return jnp.where(alone_BIJ[axis], 1.0, x_BIJ / jnp.where(total > 0, total, 1.0))

    def round_(_, balanced):
        pi_BIJ, xi_BIJ = balanced
        if order == "code":
            xi_BIJ = normalised(pi_BIJ, axis=1)
            return Balanced(normalised(xi_BIJ, axis=2), xi_BIJ)
        pi_BIJ = normalised(xi_BIJ, axis=2)
        return Balanced(pi_BIJ, normalised(pi_BIJ, axis=1))

    start = Balanced(kernel_BIJ, kernel_BIJ)
    return jax.lax.fori_loop(0, num_iters, round_, start, unroll=num_iters <= 4)


@dataclass(frozen=True)
class Entropic:
    """How to solve an entropic transport problem.

    `mu` is the weight of the entropy. Without `tolerance` exactly `num_iters` rounds run, and the
    gradient flows through them; with it they end once no row's mass is off by more than that part
    of it, after `num_iters` at the latest, and there is no gradient. `anneal` starts with a large
    mu and halves it every round: far fewer rounds where mu is small against the scores.
    `dustbin` is the score of leaving an item unaligned (`entropic_plan`).
    """

    mu: float = 1.0
    num_iters: int = 100
    tolerance: float | None = None
    anneal: bool = False
    dustbin: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers. Raises: ValueError."""
        if self.mu <= 0 or self.num_iters < 1:
            raise ValueError(f"mu={self.mu}, num_iters={self.num_iters}: need mu > 0, rounds >= 1")


class Marginals(NamedTuple):
    """The mass of every item, 0 on padding."""

    src_BI: Array
    trg_BJ: Array


class _Potentials(NamedTuple):
    """What the scores are shifted by: P = exp((score + src + trg) / mu).

    The last two belong to the dustbins: that of the row bin lies on the target items of its pair,
    that of the column bin on the source items, since a packed row holds several pairs.
    """

    src_BI: Array
    trg_BJ: Array
    row_bin_BJ: Array
    col_bin_BI: Array


def uniform_marginals(pair_BIJ: Array, *, total: bool = True) -> Marginals:
    """Give every real item the same mass: 1 / m and 1 / n with `total`, else 1 each.

    Items of a pair whose other side is empty get none.
    """
    real_BI, real_BJ = pair_BIJ.any(2).astype(jnp.float32), pair_BIJ.any(1).astype(jnp.float32)
    if not total:
        return Marginals(real_BI, real_BJ)
    m_BJ, n_BI = pair_BIJ.sum(1), pair_BIJ.sum(2)
    m_BI = jnp.where(pair_BIJ, m_BJ[:, None, :], 0).max(2)
    n_BJ = jnp.where(pair_BIJ, n_BI[:, :, None], 0).max(1)
    return Marginals(real_BI / jnp.maximum(m_BI, 1), real_BJ / jnp.maximum(n_BJ, 1))


def entropic_plan(
    score_BIJ: Array, pair_BIJ: Array, rule: Entropic, marginals: Marginals | None = None
) -> Array:
    """Return the plan P that maximises sum P score - mu sum P log P under the marginals: float32
    [B, I, J].

    P = diag(u) exp(score / mu) diag(v), rows scaled first, then columns, in the log domain, so any
    mu is safe; exact in the columns, and in the rows up to convergence. The marginals are uniform
    (1 / m and 1 / n) unless given.

    With `rule.dustbin` = z each pair gets one more row and one more column of constant score z, so
    that an item may stay unaligned. Items have mass 1 (unless marginals are given), the extra
    column has the mass of all source items and the extra row that of all target items, hence
    feasible for any lengths and contents. The extra row and column are not returned: what a row
    lacks to its mass is unaligned.
    Source: Chi et al. 2021, section 3.1 (the printed form); dustbin: Sarlin et al. 2020, SuperGlue,
    equations 7-9.
    """
    if marginals is None:
        marginals = uniform_marginals(pair_BIJ, total=rule.dustbin is None)
    shift = _solve(score_BIJ, pair_BIJ, rule, marginals)
    return _plan(score_BIJ, pair_BIJ, shift, rule.mu)


def entropic_cost(
    cost_BIJ: Array, pair_BIJ: Array, rule: Entropic, marginals: Marginals | None = None
) -> Array:
    """Return min <P, cost> + mu KL(P | src x trg) per batch entry: float32 [B].

    The value is that of the dual. Its gradient with respect to the cost is the plan, which holds at
    convergence (envelope theorem) and needs no gradient through the rounds.
    Raises: ValueError for a rule with a dustbin.
    """
    if rule.dustbin is not None:
        raise ValueError("entropic_cost has no dustbin: need a rule with dustbin=None")
    if marginals is None:
        marginals = uniform_marginals(pair_BIJ)
    still_BIJ = jax.lax.stop_gradient(cost_BIJ.astype(jnp.float32))
    shift = _solve(-still_BIJ, pair_BIJ, rule, marginals)
    value_B = jnp.zeros(cost_BIJ.shape[:1], jnp.float32)
    for mass, potential in zip(marginals, shift[:2], strict=True):
        log_mass = jnp.log(jnp.where(mass > 0, mass, 1.0))
        value_B += jnp.sum(mass * (potential - rule.mu * log_mass), axis=1)
    plan_BIJ = _plan(-still_BIJ, pair_BIJ, shift, rule.mu)
    change_BIJ = jnp.where(pair_BIJ, cost_BIJ - still_BIJ, 0.0)  # 0, and its gradient is not
    return value_B + jnp.sum(plan_BIJ * change_BIJ, axis=(1, 2))


def sinkhorn_divergence(
    src_BID: Array,
    trg_BJD: Array,
    src_BI: Array,
    trg_BJ: Array,
    rule: Entropic = Entropic(mu=0.05, anneal=True),  # noqa: B008 (frozen)
) -> Array:
    """Return S = OT(src, trg) - OT(src, src) / 2 - OT(trg, trg) / 2 between two sets of vectors,
    with Euclidean cost and uniform weights: float32 [B].

    Never negative at convergence, symmetric, and 0 for equal sets. The gradient reaches both sides.
    Source: WordOT (Alqahtani et al. 2021), which takes the words of the whole batch as one set
    (B = 1) and GeomLoss's defaults: mu 0.05, p = 1; Feydy et al. 2019, equation 3.
    """
    src_BID, trg_BJD = src_BID.astype(jnp.float32), trg_BJD.astype(jnp.float32)

    def cost(x_BID, x_BI, y_BJD, y_BJ):
        pair_BIJ = x_BI[:, :, None] & y_BJ[:, None, :]
        return entropic_cost(distances(x_BID, y_BJD), pair_BIJ, rule)

    cross_B = cost(src_BID, src_BI, trg_BJD, trg_BJ)
    self_B = cost(src_BID, src_BI, src_BID, src_BI) + cost(trg_BJD, trg_BJ, trg_BJD, trg_BJ)
    return cross_B - self_B / 2.0


def distances(x_BID: Array, y_BJD: Array) -> Array:
    """Return the Euclidean distances between two sets of vectors: float32 [B, I, J]; the gradient
    between two equal vectors is 0.
    """
    x_BID, y_BJD = x_BID.astype(jnp.float32), y_BJD.astype(jnp.float32)
    # a common shift changes no distance, but keeps |x|^2 + |y|^2 - 2 x.y from cancelling: hidden
    # states share a large mean
    centre_B1D = jax.lax.stop_gradient(x_BID.mean(axis=1, keepdims=True))
    x_BID, y_BJD = x_BID - centre_B1D, y_BJD - centre_B1D
    dot_BIJ = jnp.einsum("BID,BJD->BIJ", x_BID, y_BJD, precision=jax.lax.Precision.HIGHEST)
    x_BI, y_BJ = jnp.square(x_BID).sum(2), jnp.square(y_BJD).sum(2)
    square_BIJ = x_BI[:, :, None] + y_BJ[:, None, :] - 2.0 * dot_BIJ
    noise_BIJ = 1e-6 * (x_BI[:, :, None] + y_BJ[:, None, :])  # f32: below it, equal vectors
    apart_BIJ = square_BIJ > noise_BIJ
    return jnp.where(apart_BIJ, jnp.sqrt(jnp.where(apart_BIJ, square_BIJ, 1.0)), 0.0)


def _plan(score_BIJ: Array, pair_BIJ: Array, shift: _Potentials, mu: float) -> Array:
    exponent_BIJ = score_BIJ + shift.src_BI[:, :, None] + shift.trg_BJ[:, None, :]
    return jnp.where(pair_BIJ, jnp.exp(jnp.where(pair_BIJ, exponent_BIJ / mu, 0.0)), 0.0)


def _solve(score_BIJ: Array, pair_BIJ: Array, rule: Entropic, mass: Marginals) -> _Potentials:
    """Alternate the two updates of the potentials, starting from zero."""
    score_BIJ = score_BIJ.astype(jnp.float32)
    zero_BI, zero_BJ = jnp.zeros_like(mass.src_BI), jnp.zeros_like(mass.trg_BJ)
    start = _Potentials(zero_BI, zero_BJ, zero_BJ, zero_BI)
    span = jnp.max(jnp.where(pair_BIJ, jnp.abs(score_BIJ), 0.0))

    def mu_at(round_):
        if not rule.anneal:
            return jnp.float32(rule.mu)
        return jnp.maximum(rule.mu, span * 0.5 ** round_.astype(jnp.float32))

    def update(round_, shift):
        return _round(score_BIJ, pair_BIJ, mass, shift, (mu_at(round_), rule.dustbin))

    if rule.tolerance is None:
        return jax.lax.fori_loop(0, rule.num_iters, update, start)

    def open_(state):
        round_, off, _ = state
        return (round_ < rule.num_iters) & (off > rule.tolerance)

    def step(state):
        round_, _, shift = state
        new = update(round_, shift)
        # a change of the source potential by d multiplies the row sums by exp(-d / mu)
        off = jnp.max(jnp.abs(new.src_BI - shift.src_BI)) / rule.mu
        return round_ + 1, jnp.where(mu_at(round_) > rule.mu, jnp.inf, off), new

    return jax.lax.while_loop(open_, step, (jnp.int32(0), jnp.float32(jnp.inf), start))[2]


def _round(
    score_BIJ: Array,
    pair_BIJ: Array,
    mass: Marginals,
    shift: _Potentials,
    setting: tuple[Array, float | None],
) -> _Potentials:
    """Fit the rows, then the columns, each with its bin where there is a dustbin score."""
    mu, dustbin = setting
    a_BI, b_BJ = mass
    src_BI, trg_BJ, row_bin_BJ, col_bin_BI = shift
    lse_BI = _log_sum((score_BIJ + trg_BJ[:, None, :]) / mu, pair_BIJ, 2)
    if dustbin is not None:
        lse_BI = jnp.logaddexp(lse_BI, (dustbin + col_bin_BI) / mu)
        b_sum_BI = jnp.sum(jnp.where(pair_BIJ, b_BJ[:, None, :], 0.0), axis=2)
        bin_BI = _log_sum(trg_BJ[:, None, :] / mu, pair_BIJ, 2)
        bin_BI = jnp.logaddexp(bin_BI, col_bin_BI / mu) + dustbin / mu
        bin_BI = _fit(b_sum_BI, bin_BI, mu)
        row_bin_BJ = _spread(bin_BI[:, :, None], pair_BIJ, 1)
    src_BI = _fit(a_BI, lse_BI, mu)
    lse_BJ = _log_sum((score_BIJ + src_BI[:, :, None]) / mu, pair_BIJ, 1)
    if dustbin is not None:
        lse_BJ = jnp.logaddexp(lse_BJ, (dustbin + row_bin_BJ) / mu)
        a_sum_BJ = jnp.sum(jnp.where(pair_BIJ, a_BI[:, :, None], 0.0), axis=1)
        bin_BJ = _log_sum(src_BI[:, :, None] / mu, pair_BIJ, 1)
        bin_BJ = jnp.logaddexp(bin_BJ, row_bin_BJ / mu) + dustbin / mu
        bin_BJ = _fit(a_sum_BJ, bin_BJ, mu)
        col_bin_BI = _spread(bin_BJ[:, None, :], pair_BIJ, 2)
    return _Potentials(src_BI, _fit(b_BJ, lse_BJ, mu), row_bin_BJ, col_bin_BI)


def _fit(mass: Array, lse: Array, mu: Array) -> Array:
    """Return the potential that gives an item its mass; 0 where there is none to give."""
    real = (mass > 0) & (lse > LOW / 2)
    return jnp.where(real, mu * (jnp.log(jnp.where(real, mass, 1.0)) - lse), 0.0)


def _spread(x_BIJ: Array, pair_BIJ: Array, axis: int) -> Array:
    """Carry what all items of one side of a pair share to the items of the other side."""
    found = jnp.max(jnp.where(pair_BIJ, x_BIJ, LOW), axis=axis)
    return jnp.where(found > LOW, found, 0.0)


def _log_sum(x_BIJ: Array, pair_BIJ: Array, axis: int) -> Array:
    x_BIJ = jnp.where(pair_BIJ, x_BIJ, LOW)
    top = jax.lax.stop_gradient(jnp.max(x_BIJ, axis=axis, keepdims=True))
    total = jnp.sum(jnp.where(pair_BIJ, jnp.exp(x_BIJ - top), 0.0), axis=axis)
    return jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1.0)) + top.squeeze(axis), LOW)
