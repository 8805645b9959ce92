"""AMBER's word agreement: the worked numbers of methods.md 10.3, range, symmetry and padding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jalign.align.agreement import word_agreement
from tests.tiny import rows_of

TRG_READS = np.array([[0.7, 0.2], [0.1, 0.8], [0.3, 0.3]])  # 3 target by 2 source words
SRC_READS = np.array([[0.6, 0.1, 0.2], [0.1, 0.7, 0.1]])


jitted = jax.jit(word_agreement, static_argnames="renormalize")


def one_pair(num_src, num_trg, length, begin):
    """Make a row with one pair: <s> source </s> target </s>."""
    side = [0] + [1] * num_src + [0] + [2] * num_trg + [0]
    row = np.zeros((2, length), np.int32)
    row[0, begin : begin + len(side)], row[1, begin : begin + len(side)] = side, 1
    return {"side": row[:1], "example": row[1:]}


def laid_out(batch, src_IJ, trg_JI, heads=1, elsewhere=0.0):
    """Lay two attention matrices of one pair out on its row; other cells hold `elsewhere`."""
    src, trg = (np.flatnonzero(batch["side"][0] == s) for s in (1, 2))
    length = batch["side"].shape[1]
    out = np.full((2, 1, heads, length, length), elsewhere, np.float32)
    out[0][0, :, src[:, None], trg] = np.asarray(src_IJ)[..., None]
    out[1][0, :, trg[:, None], src] = np.asarray(trg_JI)[..., None]
    return out[0], out[1]


def agree(src_IJ, trg_JI, length=16, begin=0, heads=1, elsewhere=0.0, **options):
    batch = one_pair(*np.shape(src_IJ), length, begin)
    return jitted(*laid_out(batch, src_IJ, trg_JI, heads, elsewhere), batch, **options)


def test_the_worked_number():
    loss = agree(SRC_READS, TRG_READS)
    # .7 x .6 + .2 x .1 + .1 x .1 + .8 x .7 + .3 x .2 + .3 x .1 = 1.1, over min(2, 3)
    assert loss.total == pytest.approx(0.45, rel=1e-6) and loss.count == 1
    mass = SRC_READS.sum() + TRG_READS.sum()
    assert loss.metrics["mass"].total == pytest.approx(mass, rel=1e-6)
    assert loss.metrics["mass"].count == 5


def test_equal_permutations_agree_fully_and_uniform_attention_does_not():
    rng = np.random.default_rng(0)
    permutation = np.eye(5)[rng.permutation(5)]
    assert agree(permutation, permutation.T).total == pytest.approx(0.0, abs=1e-6)
    uniform = np.full((4, 4), 0.25)
    assert agree(uniform, uniform).total == pytest.approx(0.75, rel=1e-6)
    # all mass on one pair is no minimum (methods.md 3.2)
    one = np.zeros((4, 3))
    one[0, 0] = 1.0
    assert agree(one, one.T).total == pytest.approx(1 - 1 / 3, rel=1e-6)


def test_range_symmetry_and_padding():
    rng = np.random.default_rng(1)
    for _ in range(5):
        n, m = rng.integers(1, 7, 2)
        src, trg = rng.dirichlet(np.ones(m), n), rng.dirichlet(np.ones(n), m)
        loss = agree(src, trg).total
        assert 0 <= loss <= 1
        np.testing.assert_allclose(agree(trg, src).total, loss, rtol=1e-5, atol=1e-6)
        far = agree(src, trg, length=30, begin=7, heads=3, elsewhere=0.5)
        np.testing.assert_allclose(far.total, loss, rtol=1e-5, atol=1e-6)
        expected = 1 - np.einsum("ij,ji->", src, trg) / min(n, m)
        np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)


def test_heads_are_averaged_and_pairs_added_up():
    packed = {k: jnp.array(v) for k, v in rows_of("joint").rows(0, 3).items()}
    length = packed["ids"].shape[1]
    probs = jax.random.uniform(jax.random.key(0), (2, 3, 4, length, length))
    expected = 0.0
    for b in range(3):
        for e in range(1, int(packed["example"][b].max()) + 1):
            mine = np.asarray(packed["example"][b]) == e
            src, trg = (np.flatnonzero(mine & (np.asarray(packed["side"][b]) == s)) for s in (1, 2))
            x, y = (np.asarray(p[b], np.float64) for p in probs)
            cells = x[:, src[:, None], trg] * y[:, trg[:, None], src].swapaxes(1, 2)
            expected += 1 - cells.sum((1, 2)).mean() / min(len(src), len(trg))
    loss = jitted(*probs, packed)
    np.testing.assert_allclose(loss.total, expected, rtol=1e-5)
    assert loss.count == packed["example"].max(axis=1).sum()


def test_renormalised_it_is_awesome_aligns_consistency_plus_one():
    # methods.md 10.3: CO = -0.6637413 on these products
    sim = np.array([[2.0, 0, 0], [0, 1, 0]])
    src, trg = (np.exp(s) / np.exp(s).sum(axis=1, keepdims=True) for s in (sim, sim.T))
    loss = agree(0.3 * src, 0.7 * trg, renormalize=True)  # mass that went elsewhere
    assert float(loss.total) == pytest.approx(1 - 0.6637413, rel=1e-6)
    assert float(agree(src, trg).total) == pytest.approx(1 - 0.6637413, rel=1e-6)
    lost = agree(0.3 * src, 0.7 * trg).total
    assert float(lost) == pytest.approx(1 - 0.21 * 0.6637413, rel=1e-6)


def test_an_empty_side_counts_nothing_and_gradients_are_finite():
    batch = {"side": jnp.array([[0, 1, 1, 0, 0]]), "example": jnp.array([[1, 1, 1, 1, 1]])}

    def total(probs):
        return word_agreement(*probs, batch, renormalize=True).total

    probs = jnp.ones((2, 1, 2, 5, 5))
    value, grad = jax.jit(jax.value_and_grad(total))(probs)
    assert value == 0 and jitted(*probs, batch).count == 0
    np.testing.assert_array_equal(grad, np.zeros_like(grad))
