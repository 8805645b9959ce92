"""Sinkhorn in both orders, entropic transport, the divergence: hand numbers, loops, POT."""

from __future__ import annotations

import warnings
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jalign.align.transport import (
    Entropic,
    Marginals,
    distances,
    entropic_cost,
    entropic_plan,
    sinkhorn,
    sinkhorn_divergence,
)
from tests.align.cases import LAYOUTS, packed, padded, random_pairs
from tests.oracles import align as oracle

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ot

K = np.array([[4, 1, 0.5, 0.2], [0.5, 3, 2.5, 0.1], [0.3, 0.4, 2, -1]], np.float32)
CONVERGED = Entropic(mu=0.2, num_iters=2000, tolerance=1e-6)


@cache
def compiled(function, **options):
    return jax.jit(partial(function, **options))


def one(function, mat, **options):
    """Apply a function of batches to one matrix; padded, so that it compiles once."""
    laid = padded([np.asarray(mat, np.float32)], 0)
    out = compiled(function, **options)(*laid[:2])
    return jax.tree.map(lambda x: laid.blocks(x)[0], out)


def by_pot(score, mu, a=None, b=None):
    """Return POT's plan in float64, converged."""
    m, n = score.shape
    a = np.full(m, 1 / m) if a is None else a
    b = np.full(n, 1 / n) if b is None else b
    return ot.sinkhorn(
        *(a, b, -score.astype(np.float64), mu),
        method="sinkhorn_log",
        numItermax=20000,
        stopThr=1e-13,
    )


def test_one_round_in_code_order_by_hand():
    want = [
        [0.456054, 0.124378, 0.054726, 0.364842],
        [0.064328, 0.421053, 0.308772, 0.205847],
        [0.112936, 0.164270, 0.722788, 0.000006],
    ]
    np.testing.assert_allclose(one(sinkhorn, K, num_iters=1).pi_BIJ, want, atol=1e-6)


def test_two_rounds_in_code_order_by_hand():
    pi, xi = one(sinkhorn, K)
    want_pi = [
        [0.454315, 0.110568, 0.031784, 0.403332],
        [0.075812, 0.442815, 0.212156, 0.269217],
        [0.165856, 0.215280, 0.618854, 0.000010],
    ]
    want_xi = [
        [0.720103, 0.175254, 0.050379, 0.639294],
        [0.101572, 0.593282, 0.284245, 0.360696],
        [0.178324, 0.231464, 0.665375, 0.000011],
    ]
    np.testing.assert_allclose(pi, want_pi, atol=1e-6)
    np.testing.assert_allclose(xi, want_xi, atol=1e-6)
    np.testing.assert_allclose(pi.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(xi.sum(0), 1, rtol=1e-6)


def test_two_rounds_in_paper_order_by_hand():
    want = [
        [0.685389, 0.158991, 0.042641, 0.621534],
        [0.104334, 0.580858, 0.259641, 0.378453],
        [0.210278, 0.260151, 0.697718, 0.000013],
    ]
    np.testing.assert_allclose(one(sinkhorn, K, order="paper").xi_BIJ, want, atol=1e-6)


def test_the_converged_rows_are_the_coupling_of_pot():
    want = [
        [0.151543, 0.031388, 0.007541, 0.142861],
        [0.028411, 0.141234, 0.056554, 0.107135],
        [0.070046, 0.077378, 0.185905, 0.000004],
    ]
    pi, _ = one(sinkhorn, K, num_iters=60)
    np.testing.assert_allclose(pi / 3, want, atol=1e-6)
    for mu in (1.0, 0.3):  # the kernel is exp(score / mu) of mu log K, whatever mu is
        score = mu * np.log(np.where(K > 0, K, 1e-6))
        np.testing.assert_allclose(by_pot(score, mu), want, atol=1e-6)
        plan = one(entropic_plan, score, rule=Entropic(mu=mu, num_iters=60))
        np.testing.assert_allclose(plan, want, atol=1e-6)


def test_the_orders_are_each_other_transposed():
    for mat in random_pairs(1):
        code = one(sinkhorn, mat, num_iters=3)
        turned = padded([mat], 0)
        other = compiled(sinkhorn, num_iters=3, order="paper")(
            turned.score.swapaxes(1, 2), turned.pair.swapaxes(1, 2)
        )
        other = [np.asarray(x).swapaxes(1, 2) for x in other]
        np.testing.assert_allclose(turned.blocks(other[1])[0], code.pi_BIJ, rtol=1e-6)
        np.testing.assert_allclose(turned.blocks(other[0])[0], code.xi_BIJ, rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    order=st.sampled_from(["code", "paper"]),
    num_iters=st.sampled_from([1, 2, 5]),
    layout=st.sampled_from(sorted(LAYOUTS)),
)
def test_padded_and_packed_equal_the_loop_and_padding_has_no_mass(seed, order, num_iters, layout):
    mats = [mat - 0.3 for mat in random_pairs(seed)]
    laid = LAYOUTS[layout](mats, seed)
    balanced = compiled(sinkhorn, num_iters=num_iters, order=order)(*laid[:2])
    wants = [oracle.sinkhorn(mat, num_iters, order) for mat in mats]
    for which, got in enumerate(balanced):
        assert (laid.outside(got) == 0).all()
        for block, want in zip(laid.blocks(got), wants, strict=True):
            assert (block > 0).all()
            np.testing.assert_allclose(block, want[which], rtol=2e-5)


def test_a_constant_factor_changes_nothing():
    mat = random_pairs(7)[0]
    for factor in (1e-3, 40.0, 4000.0):
        for ours, scaled in zip(one(sinkhorn, mat), one(sinkhorn, factor * mat), strict=True):
            np.testing.assert_allclose(scaled, ours, rtol=1e-5)


def test_at_convergence_scaling_rows_and_columns_changes_nothing():
    mat = random_pairs(8)[0] + 0.1
    rng = np.random.default_rng(0)
    scaled = mat * rng.uniform(0.5, 2, (len(mat), 1)) * rng.uniform(0.5, 2, (1, mat.shape[1]))
    plain, other = (one(sinkhorn, x, num_iters=60).pi_BIJ for x in (mat, scaled))
    np.testing.assert_allclose(other, plain, rtol=1e-4)


@pytest.mark.parametrize("order", ["code", "paper"])
def test_beside_a_side_of_one_item_all_mass_is_exactly_equal(order):
    rng = np.random.default_rng(0)
    mats = [rng.random((1, 7)), rng.random((5, 1)), rng.random((1, 1))] * 2
    laid = padded([mat.astype(np.float32) for mat in mats], 0)
    for balanced in compiled(sinkhorn, order=order)(*laid[:2]):
        for block in laid.blocks(balanced):
            assert len(np.unique(block)) == 1


def test_small_positive_similarities_are_kept_and_others_become_the_floor():
    mat = np.array([[1e-8, 1.0], [0.0, -3.0]], np.float32)
    np.testing.assert_allclose(
        one(sinkhorn, mat, num_iters=1).xi_BIJ, oracle.sinkhorn(mat, 1)[1], rtol=1e-6
    )
    assert one(sinkhorn, mat, num_iters=1).xi_BIJ[1, 0] > 0.98


def test_a_bfloat16_similarity_is_balanced_in_float32():
    out = compiled(sinkhorn)(jnp.ones((1, 3, 4), jnp.bfloat16), np.ones((1, 3, 4), bool))
    assert out.pi_BIJ.dtype == jnp.float32


@pytest.mark.parametrize("options", [{"order": "rows"}, {"num_iters": 0}])
def test_wrong_options_of_sinkhorn_are_refused(options):
    with pytest.raises(ValueError, match="need"):
        sinkhorn(K[None], K[None] > 0, **options)


@pytest.mark.parametrize(
    "mu, diagonal, other", [(1.0, 0.334094, 0.165906), (0.1, 0.499544474, 0.000455526)]
)
def test_the_exponential_kernel_by_hand(mu, diagonal, other):
    score = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    plan = one(entropic_plan, score, rule=Entropic(mu=mu, num_iters=5000))
    # of a total mass of 1; in float32 mass moves between the corners once rounds change less than
    # one part in 1e7 of a row, but their product does not depend on convergence
    np.testing.assert_allclose(plan, [[diagonal, other], [other, diagonal]], atol=1e-6)
    np.testing.assert_allclose(plan[0, 1] * plan[1, 0], other**2, rtol=2e-5)


def test_fixed_rounds_with_unit_masses_are_the_printed_iteration():
    for mat in random_pairs(3):
        laid = padded([mat], 1)
        ones = Marginals(*(laid.pair.any(axis).astype(np.float32) for axis in (2, 1)))
        plan = compiled(entropic_plan, rule=Entropic(mu=0.3, num_iters=2))(
            *laid[:2], marginals=ones
        )
        want = oracle.sinkhorn(np.exp(mat.astype(np.float64) / 0.3), 2, "paper")[1]
        np.testing.assert_allclose(laid.blocks(plan)[0], want, rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_plan_equals_pots_in_both_layouts(layout):
    mats = random_pairs(5)
    laid = LAYOUTS[layout](mats, 5)
    plan = compiled(entropic_plan, rule=CONVERGED)(*laid[:2])
    assert (laid.outside(plan) == 0).all()
    for mat, got in zip(mats, laid.blocks(plan), strict=True):
        np.testing.assert_allclose(got, by_pot(mat, 0.2), rtol=1e-4, atol=1e-7)


def test_annealing_needs_far_fewer_rounds():
    # nine points on a line and the same half a line further: the plan is the diagonal
    line = np.linspace(0, 1, 9)
    score = -np.abs(line[:, None] - line - 0.5)
    off = [
        np.abs(one(entropic_plan, score, rule=Entropic(0.01, 20, anneal=a)).sum(1) - 1 / 9).sum()
        for a in (False, True)
    ]
    assert off[0] > 0.1 and off[1] < 1e-4


@pytest.mark.parametrize("anneal", [False, True])
def test_a_small_mu_with_large_scores_is_safe(anneal):
    score = 300 * random_pairs(6)[0]
    rule = Entropic(mu=1.0, num_iters=4000, tolerance=1e-5, anneal=anneal)
    plan = one(entropic_plan, score, rule=rule)
    np.testing.assert_allclose(plan, by_pot(score, 1.0), atol=2e-5)


def test_given_marginals_are_met():
    mat = random_pairs(2)[0]
    rng = np.random.default_rng(1)
    a, b = (rng.dirichlet(np.ones(size)) for size in mat.shape)
    laid = padded([mat], 3)
    _, rows, cols = laid.place[0]
    full = Marginals(np.zeros((1, 9), np.float32), np.zeros((1, 11), np.float32))
    full.src_BI[0, rows], full.trg_BJ[0, cols] = a, b
    plan = compiled(entropic_plan, rule=CONVERGED)(*laid[:2], marginals=full)
    np.testing.assert_allclose(laid.blocks(plan)[0], by_pot(mat, 0.2, a, b), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dustbin", [-1.0, 0.4, 0.9])
def test_the_dustbin_is_one_more_row_and_column(layout, dustbin):
    mats = random_pairs(9)
    laid = LAYOUTS[layout](mats, 9)
    rule = Entropic(mu=0.2, num_iters=2000, tolerance=1e-6, dustbin=dustbin)
    plan = compiled(entropic_plan, rule=rule)(*laid[:2])
    assert (laid.outside(plan) == 0).all()
    for mat, got in zip(mats, laid.blocks(plan), strict=True):
        m, n = mat.shape
        wide = np.full((m + 1, n + 1), dustbin)
        wide[:m, :n] = mat
        want = by_pot(wide, 0.2, np.append(np.ones(m), n), np.append(np.ones(n), m))
        np.testing.assert_allclose(got, want[:m, :n], rtol=2e-4, atol=1e-6)
        assert got.sum(1).max() < 1 and got.sum(0).max() < 1


def test_a_higher_dustbin_leaves_more_unaligned():
    mat = random_pairs(10)[0]
    mass = [
        one(entropic_plan, mat, rule=Entropic(mu=0.1, num_iters=50, dustbin=z)).sum()
        for z in (-2.0, 0.5, 3.0)
    ]
    assert mass[0] > mass[1] > mass[2] and mass[2] < 1e-3


def test_gradients_through_fixed_rounds_are_finite_and_zero_on_padding():
    laid = packed(random_pairs(4), 4, junk=7.0)
    for dustbin in (None, 0.3):
        rule = Entropic(mu=0.1, num_iters=5, dustbin=dustbin)

        def loss(score, rule=rule):
            return jnp.sum(entropic_plan(score, laid.pair, rule) ** 2)

        slope = np.asarray(jax.jit(jax.grad(loss))(laid.score))
        assert np.isfinite(slope).all() and (slope[~laid.pair] == 0).all() and slope.any()


def test_the_transport_cost_equals_the_loop_and_its_gradient_is_the_plan():
    mats = random_pairs(12)
    laid = padded(mats, 12)
    rule = Entropic(mu=0.2, num_iters=3000, tolerance=1e-6)
    value = compiled(entropic_cost, rule=rule)(*laid[:2])
    want = [oracle.entropic_cost(mat.astype(np.float64), 0.2, 3000) for mat in mats]
    np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-6)
    slope = jax.jit(jax.grad(lambda c: entropic_cost(c, laid.pair, rule).sum()))(laid.score)
    assert (laid.outside(slope) == 0).all()
    step = 1e-4
    for mat, got in zip(mats[:3], laid.blocks(slope), strict=False):
        moved = mat.astype(np.float64)
        moved[0, 0] += step
        up = oracle.entropic_cost(moved, 0.2, 3000)
        moved[0, 0] -= 2 * step
        down = oracle.entropic_cost(moved, 0.2, 3000)
        np.testing.assert_allclose(got[0, 0], (up - down) / (2 * step), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="dustbin"):
        entropic_cost(*laid[:2], Entropic(dustbin=0.0))


RULE = Entropic(mu=0.5, num_iters=500, tolerance=1e-6, anneal=True)


def clouds(seed, num_src=8, num_trg=6, size=5):
    """Make two sets of vectors, the second shifted, with junk beyond the masks."""
    rng = np.random.default_rng(seed)
    src, trg = rng.normal(size=(1, 10, size)), rng.normal(size=(1, 10, size)) + 0.5
    src, trg = src.astype(np.float32), trg.astype(np.float32)
    keep = np.arange(10)[None]
    return src, trg, keep < num_src, keep < num_trg


def divergence(*args):
    return compiled(sinkhorn_divergence, rule=RULE)(*args)


def test_the_divergence_equals_the_loop():
    src, trg, src_mask, trg_mask = clouds(0)
    x, y = src[src_mask].astype(np.float64), trg[trg_mask].astype(np.float64)

    def cost(a, b):
        return oracle.entropic_cost(np.linalg.norm(a[:, None] - b[None], axis=2), 0.5, 3000)

    want = cost(x, y) - cost(x, x) / 2 - cost(y, y) / 2
    np.testing.assert_allclose(divergence(src, trg, src_mask, trg_mask), [want], rtol=1e-4)


def test_the_divergence_is_zero_for_equal_sets_else_positive_and_symmetric():
    for seed in range(5):
        src, trg, src_mask, trg_mask = clouds(seed)
        here = divergence(src, trg, src_mask, trg_mask)
        assert here > 0.01
        np.testing.assert_allclose(divergence(trg, src, trg_mask, src_mask), here, rtol=1e-4)
        assert abs(divergence(src, src, src_mask, src_mask)[0]) < 1e-6
        order = np.random.default_rng(seed).permutation(8)
        shuffled = src.copy()
        shuffled[:, :8] = src[:, order]
        assert abs(divergence(src, shuffled, src_mask, src_mask)[0]) < 1e-5


def test_the_gradient_of_the_divergence_pulls_the_sets_together():
    src, trg, src_mask, trg_mask = clouds(1)
    slope = jax.jit(jax.value_and_grad(lambda x: divergence(x, trg, src_mask, trg_mask)[0]))
    before, grad = slope(src)
    assert np.isfinite(grad).all() and (np.asarray(grad)[~src_mask] == 0).all()
    for _ in range(30):
        src = src - 1.0 * slope(src)[1]
    assert slope(src)[0] < before / 3
    assert np.isfinite(slope(np.where(src_mask[..., None], trg[:, :1], 0))[1]).all()


def test_distances_survive_a_large_common_mean_and_equal_vectors():
    rng = np.random.default_rng(2)
    x, y = (rng.normal(size=(2, 1, 7, 64)) + 300.0).astype(np.float32)
    y[0, 3] = x[0, 2]
    got = compiled(distances)(x, y)
    want = np.linalg.norm(x[0, :, None].astype(np.float64) - y[0, None], axis=2)
    np.testing.assert_allclose(got[0], want, rtol=1e-5)
    assert got[0, 2, 3] == 0


def test_rules_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="mu > 0"):
        Entropic(mu=0.0)
    with pytest.raises(ValueError, match="rounds >= 1"):
        Entropic(num_iters=0)
