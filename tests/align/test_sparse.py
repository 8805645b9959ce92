"""1.5-entmax and sparsemax against the package of their authors, masked, and their gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from entmax import entmax15 as their_entmax15
from entmax import sparsemax as their_sparsemax

from jalign.align import extract
from jalign.align.sparse import entmax15, sparsemax
from tests.align.cases import LAYOUTS, random_pairs

MAPS = {"entmax15": (entmax15, their_entmax15), "sparsemax": (sparsemax, their_sparsemax)}
COMPILED = {name: jax.jit(ours, static_argnums=2) for name, (ours, _) in MAPS.items()}


def theirs(name, x, axis):
    return MAPS[name][1](torch.tensor(np.asarray(x, np.float64)), dim=axis).numpy()


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("axis", [-1, -2])
def test_they_equal_the_authors_package(name, axis):
    rng = np.random.default_rng(0)
    for scale in (0.1, 1.0, 10.0, 1000.0):
        x = (scale * rng.normal(size=(2, 30, 40))).astype(np.float32)
        got = np.asarray(COMPILED[name](x, np.ones(x.shape, bool), axis))
        # x itself is only known to one part in 1e7
        np.testing.assert_allclose(got, theirs(name, x, axis), atol=2e-6 * max(scale, 1.0))
        np.testing.assert_allclose(got.sum(axis), 1, rtol=1e-5)


@pytest.mark.parametrize("name", MAPS)
def test_equal_entries_one_entry_and_long_rows(name):
    flat = np.zeros((1, 4096), np.float32)
    np.testing.assert_allclose(COMPILED[name](flat, flat == 0, -1), 1 / 4096, rtol=1e-4)
    alone = np.arange(8, dtype=np.float32)[None]
    assert COMPILED[name](alone, alone == 3, -1)[0].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    x = np.random.default_rng(1).normal(size=(1, 4096)).astype(np.float32)
    got = np.asarray(COMPILED[name](x, flat == 0, -1))
    np.testing.assert_allclose(got, theirs(name, x, -1), atol=2e-6)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_masked_equals_the_matrix_alone(name, layout):
    mats = [4 * mat for mat in random_pairs(0)]
    laid = LAYOUTS[layout](mats, 0)
    for axis in (-1, -2):
        out = COMPILED[name](*laid[:2], axis)
        assert (laid.outside(out) == 0).all()
        for mat, got in zip(mats, laid.blocks(out), strict=True):
            np.testing.assert_allclose(got, theirs(name, mat, axis), atol=2e-6)


@pytest.mark.parametrize("name", MAPS)
def test_gradients_equal_torchs(name):
    rng = np.random.default_rng(2)
    x, weight = rng.normal(size=(2, 5, 9)).astype(np.float32)
    mask = np.ones(x.shape, bool)
    got = jax.jit(jax.grad(lambda x: jnp.sum(weight * MAPS[name][0](x, mask, -1))))(x)
    leaf = torch.tensor(x.astype(np.float64), requires_grad=True)
    (MAPS[name][1](leaf, dim=-1) * torch.tensor(weight)).sum().backward()
    np.testing.assert_allclose(got, leaf.grad.numpy(), atol=1e-5)


@pytest.mark.parametrize("alpha, name", [(1.5, "entmax15"), (2.0, "sparsemax")])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_links_are_the_cells_kept_in_both_directions(alpha, name, layout):
    mats = [6 * mat for mat in random_pairs(3)]
    laid = LAYOUTS[layout](mats, 3)
    links = jax.jit(lambda *a: extract.entmax_links(*a, alpha=alpha))(*laid[:2])
    assert not laid.outside(links).any()
    for mat, got in zip(mats, laid.blocks(links), strict=True):
        np.testing.assert_array_equal(got, (theirs(name, mat, 1) > 0) & (theirs(name, mat, 0) > 0))
