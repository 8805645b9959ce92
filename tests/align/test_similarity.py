"""Similarities of items and the masks of real cells, padded and packed."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jalign.align.similarity import KINDS, distort, pair_mask, row_pair_mask, similarity
from tests.align.cases import LAYOUTS, packed, random_pairs
from tests.oracles import align as oracle

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from simalign import SentenceAligner


def vectors(seed=0, size=16):
    rng = np.random.default_rng(seed)
    src, trg = rng.normal(size=(3, 5, size)), rng.normal(size=(3, 7, size))
    return src.astype(np.float32), trg.astype(np.float32)


def test_similarities_by_hand():
    src, trg = jnp.array([[[3.0, 4.0], [0.0, 0.0]]]), jnp.array([[[2.0, 0.0], [-6.0, -8.0]]])
    assert similarity(src, trg).tolist() == [[[6.0, -50.0], [0.0, 0.0]]]
    np.testing.assert_allclose(similarity(src, trg, kind="cosine")[0], [[0.6, -1], [0, 0]])
    np.testing.assert_allclose(similarity(src, trg, kind="simalign")[0], [[0.8, 0], [0.5, 0.5]])


def test_simaligns_similarity_equals_theirs():
    src, trg = vectors()
    got = similarity(src, trg, kind="simalign")
    for b in range(3):
        want = SentenceAligner.get_similarity(src[b], trg[b])
        np.testing.assert_allclose(got[b], want, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_row_holds_the_blocks_of_its_pairs(kind):
    src, trg = vectors()
    row, example, side = np.zeros((1, 40, 16), np.float32), np.zeros((2, 1, 40), np.int32), None
    example, side = example
    places = []
    for b in range(3):
        first = 1 + 13 * b
        places.append((np.arange(first, first + 5), np.arange(first + 5, first + 12)))
        row[0, places[b][0]], row[0, places[b][1]] = src[b], trg[b]
        example[0, first : first + 12] = b + 1
        side[0, places[b][0]], side[0, places[b][1]] = 1, 2
    sim, pair = similarity(row, row, kind=kind)[0], np.asarray(row_pair_mask(example, side))[0]
    want = np.zeros((40, 40), bool)
    for b, place in enumerate(places):
        want[np.ix_(*place)] = True
        np.testing.assert_allclose(
            np.asarray(sim)[np.ix_(*place)], similarity(src, trg, kind=kind)[b], rtol=1e-5
        )
    np.testing.assert_array_equal(pair, want)


def test_the_masks_know_sides_examples_specials_and_padding():
    laid = packed(random_pairs(0), 0)
    np.testing.assert_array_equal(row_pair_mask(laid.example, laid.side), laid.pair)
    src, trg = jnp.array([[True, False]]), jnp.array([[True, True, False]])
    assert pair_mask(src, trg).tolist() == [[[True, True, False], [False, False, False]]]
    side = jnp.array([[1, 2]])  # padding has example 0, whatever its side says
    assert not row_pair_mask(jnp.zeros((1, 2), jnp.int32), side).any()


def test_bfloat16_products_add_up_in_float32():
    # 1 + 2^-9 is no bfloat16: a bfloat16 sum would lose the small terms
    src = jnp.array([[[16.0] + [0.125] * 8]], jnp.bfloat16)
    sim = similarity(src, src)
    assert sim.dtype == jnp.float32 and sim[0, 0, 0] == 256.125
    assert similarity(src, src, kind="cosine").dtype == jnp.float32


def test_raw_dot_products_of_thousands_keep_their_order():
    rng = np.random.default_rng(3)
    src = rng.normal(size=(1, 20, 768)).astype(np.float32) + 3.0
    want = src[0].astype(np.float64) @ src[0].T.astype(np.float64)
    np.testing.assert_allclose(similarity(src, src)[0], want, rtol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_distortion_equals_simaligns_and_the_loop(layout, ratio):
    mats = random_pairs(5, num=12)
    laid = LAYOUTS[layout](mats, 5)
    got = laid.blocks(jax.jit(distort, static_argnums=2)(*laid[:2], ratio))
    for mat, ours in zip(mats, got, strict=True):
        np.testing.assert_allclose(ours, oracle.distort(mat, ratio), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(
            ours, SentenceAligner.apply_distortion(mat, ratio), rtol=1e-5, atol=1e-7
        )


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="dot, cosine, simalign"):
        similarity(*vectors(), kind="euclid")
