"""Links from similarities: hand examples, loops, the aligners compared with, both layouts."""

from __future__ import annotations

import warnings
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jalign.align import extract
from jalign.align.transport import sinkhorn
from tests.align.cases import LAYOUTS, packed, padded, random_pairs
from tests.oracles import align as oracle

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from simalign import SentenceAligner

S = np.array(
    [[0.9, 0.2, 0.1, 0.1, 0.1], [0.2, 0.8, 0.7, 0.1, 0.1], [0.1, 0.3, 0.2, 0.6, 0.5]]
    + [[0.1, 0.1, 0.1, 0.55, 0.2]],
    np.float32,
)
S2 = np.array([[0.9, 0.85, 0.1], [0.1, 0.88, 0.2], [0.1, 0.2, 0.7], [0.3, 0.1, 0.65]], np.float32)


METHODS = {
    "forward": (extract.forward_links, oracle.forward),
    "reverse": (extract.reverse_links, oracle.reverse),
    "mutual": (extract.mutual_links, oracle.mutual),
    "itermax": (extract.itermax, oracle.itermax),
    "itermax_4": (partial(extract.itermax, count=4), partial(oracle.itermax, count=4)),
    "itermax_paper": (
        partial(extract.itermax, count=3, rule="paper"),
        partial(oracle.itermax, count=3, rule="paper"),
    ),
    "softmax": (
        partial(extract.softmax_links, threshold=0.15),
        partial(oracle.softmax_links, threshold=0.15),
    ),
    "plan": (
        lambda score, pair: extract.plan_links(*sinkhorn(score, pair), pair),
        lambda mat: oracle.plan_links(*oracle.sinkhorn(mat)),
    ),
}
COMPILED = {name: jax.jit(ours) for name, (ours, _) in METHODS.items()}


def balanced_then_itermax(score, pair, **options):
    return extract.itermax(sinkhorn(score, pair).pi_BIJ, pair, **options)


@cache
def compiled(function, **options):
    return jax.jit(partial(function, **options))


def one(function, mat, **options):
    """Apply a function of batches to one matrix; padded, so that it compiles once."""
    laid = padded([np.asarray(mat, np.float32)], 0)
    return laid.blocks(compiled(function, **options)(*laid[:2]))[0]


def pairs_of(links):
    return {(int(i), int(j)) for i, j in np.argwhere(links)}


def test_itermax_by_hand():
    first = {(0, 0), (1, 1), (2, 3)}
    assert pairs_of(one(extract.itermax, S, count=1)) == first
    assert pairs_of(one(extract.itermax, S)) == first | {(1, 2), (2, 4), (3, 3)}
    assert pairs_of(one(extract.itermax, S, count=3)) == first | {(1, 2), (2, 4), (3, 3)}


def test_itermax_after_sinkhorn_by_hand():
    assert pairs_of(one(balanced_then_itermax, S)) == {(0, 0), (1, 2), (2, 4), (3, 3)}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_itermax_stops_where_all_columns_are_taken(count):
    assert pairs_of(one(extract.itermax, S2, count=count)) == {(0, 0), (1, 1), (2, 2)}


def test_itermax_has_one_round_where_a_side_has_two_items():
    # with a second round (1, 2) would come: row 1 has its best in a taken column
    mat = np.array([[0.9, 0.2, 0.1], [0.8, 0.1, 0.3]], np.float32)
    for side in (mat, mat.T):
        assert (one(extract.itermax, side, count=3) == oracle.mutual(side)).all()
        assert one(extract.itermax, side, count=3).sum() == 1


def test_the_printed_rule_of_itermax_by_hand():
    # after (1, 1) and (2, 2) the code closes (1, 2), row and column being taken, and (0, 2) with
    # 0.9 x 0.7 is column 2's best; the printed rule lets (1, 2) compete with 0.9 x 0.8
    mat = [[0.5, 0.4, 0.7, 0.1], [0.4, 0.9, 0.8, 0.3], [0.2, 0.3, 0.9, 0.4]]
    both = {(1, 1), (2, 2), (2, 3)}
    assert pairs_of(one(extract.itermax, mat)) == both | {(0, 2)}
    assert pairs_of(one(extract.itermax, mat, rule="paper")) == both | {(1, 2)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), coarse=st.booleans())
def test_padded_and_packed_equal_the_loop_over_single_pairs(method, layout, seed, coarse):
    mats = random_pairs(seed, coarse=coarse)
    if method == "plan" and coarse:
        return  # sums of equal scores in another order: rounding decides their ties
    laid = LAYOUTS[layout](mats, seed, junk=1e9)
    links = COMPILED[method](laid.score, laid.pair)
    assert not laid.outside(links).any()
    for mat, got in zip(mats, laid.blocks(links), strict=True):
        np.testing.assert_array_equal(got, METHODS[method][1](mat))


@pytest.mark.parametrize("method", METHODS)
def test_nan_in_padding_is_never_seen(method):
    mats = random_pairs(3)
    for lay in LAYOUTS.values():
        laid = lay(mats, 3, junk=np.nan)
        for mat, got in zip(mats, laid.blocks(COMPILED[method](*laid[:2])), strict=True):
            np.testing.assert_array_equal(got, METHODS[method][1](mat))


@pytest.mark.parametrize("coarse", [False, True])
def test_argmax_and_itermax_equal_simaligns(coarse):
    mats = [mat for seed in range(40) for mat in random_pairs(seed, coarse=coarse)]
    laid = padded(mats, 0)
    itermax = {
        count: laid.blocks(compiled(extract.itermax, count=count)(*laid[:2]))
        for count in (1, 2, 3, 4)
    }
    forward, reverse = (laid.blocks(COMPILED[m](*laid[:2])) for m in ("forward", "reverse"))
    for n, mat in enumerate(mats):
        theirs = SentenceAligner.get_alignment_matrix(mat)
        np.testing.assert_array_equal(forward[n], theirs[0] > 0)
        np.testing.assert_array_equal(reverse[n], theirs[1] > 0)
        for count, links in itermax.items():
            np.testing.assert_array_equal(links[n], SentenceAligner.iter_max(mat, count) > 0)


def test_itermax_equals_simaligns_on_zeros_and_large_matrices():
    rng = np.random.default_rng(5)
    mats = np.maximum(rng.normal(size=(5, 40, 37)), 0).astype(np.float32)
    links = compiled(extract.itermax, count=5)(mats, np.ones(mats.shape, bool))
    for mat, ours in zip(mats, links, strict=True):
        np.testing.assert_array_equal(ours, SentenceAligner.iter_max(mat, 5) > 0)


def test_matching_equals_networkx_by_simalign():
    mats = [mat for seed in range(8) for mat in random_pairs(seed)]
    for lay in LAYOUTS.values():
        laid = lay(mats, 1)
        links = extract.matching(*laid[:2])
        assert not laid.outside(links).any()
        for mat, got in zip(mats, laid.blocks(links), strict=True):
            np.testing.assert_array_equal(got, SentenceAligner.get_max_weight_match(mat) > 0)


def test_matching_is_one_to_one_and_at_least_as_heavy_as_the_mutual_links():
    mats = random_pairs(11, num=20)
    laid = padded(mats, 0)
    found = zip(
        *(laid.blocks(f(*laid[:2])) for f in (extract.matching, COMPILED["mutual"])), strict=True
    )
    for mat, (best, mutual) in zip(mats, found, strict=True):
        assert best.sum() == min(mat.shape)
        assert best.sum(0).max() == best.sum(1).max() == 1
        assert mat[best].sum() >= mat[mutual].sum()


def test_matching_takes_negative_scores():
    laid = padded([np.array([[-1.0, -5.0], [-2.0, -9.0]], np.float32)], 0)
    assert pairs_of(laid.blocks(extract.matching(*laid[:2]))[0]) == {(0, 1), (1, 0)}


def test_softmax_by_hand():
    # S_xy row 0 = (.787, .107, .107), row 1 = (.212, .576, .212);
    # S_yx column 0 = (.881, .119), column 1 = (.269, .731), column 2 = (.5, .5)
    mat = np.array([[2.0, 0, 0], [0, 1, 0]], np.float32)
    assert pairs_of(one(extract.softmax_links, mat, threshold=0.5)) == {(0, 0), (1, 1)}
    assert pairs_of(one(extract.softmax_links, mat, threshold=0.2)) == {(0, 0), (1, 1), (1, 2)}
    assert pairs_of(one(extract.softmax_links, mat, threshold=0.11)) == {
        *((0, 0), (1, 0), (1, 1), (1, 2))
    }
    assert one(extract.softmax_links, mat).all()


def test_softmax_links_are_safe_for_raw_dot_products():
    mat = np.array([[3000.0, 10.0, -3000.0], [2990.0, 2995.0, 0.0]], np.float32)
    np.testing.assert_array_equal(
        one(extract.softmax_links, mat), oracle.softmax_links(mat.astype(np.float64), 1e-3)
    )


def test_softmax_scores_equal_the_loop_in_both_layouts():
    mats = [4 * mat for mat in random_pairs(21)]
    for lay in LAYOUTS.values():
        laid = lay(mats, 2)
        scores = compiled(extract.softmax_scores)(*laid[:2])
        assert (laid.outside(scores) == 0).all()
        for mat, got in zip(mats, laid.blocks(scores), strict=True):
            np.testing.assert_allclose(got, oracle.softmax_scores(mat), rtol=1e-5)


@pytest.mark.parametrize("method", ["mutual", "itermax", "itermax_paper", "softmax"])
def test_transposing_the_scores_transposes_the_links(method):
    for seed in range(5):
        laid = padded(random_pairs(seed), seed, junk=0.0)
        links = COMPILED[method](*laid[:2])
        turned = COMPILED[method](laid.score.swapaxes(1, 2), laid.pair.swapaxes(1, 2))
        np.testing.assert_array_equal(links, np.asarray(turned).swapaxes(1, 2))


def test_itermax_only_adds_to_the_mutual_links_and_grows_with_its_count():
    laid = packed([mat for seed in range(5) for mat in random_pairs(seed)], 0)
    before = np.asarray(COMPILED["mutual"](*laid[:2]))
    sizes = [before.sum()]
    for count in range(1, 5):
        links = np.asarray(compiled(extract.itermax, count=count)(*laid[:2]))
        assert (links >= before).all()
        before = links
        sizes.append(links.sum())
    assert sizes[2] > sizes[1]


def test_mutual_links_among_themselves_stay():
    laid = padded(random_pairs(4), 4)
    links = COMPILED["mutual"](*laid[:2])
    assert links.any()
    np.testing.assert_array_equal(COMPILED["mutual"](laid.score, links), links)


def test_links_of_forward_and_reverse_meet_in_the_mutual_ones():
    laid = packed(random_pairs(9, coarse=True), 9)
    forward, reverse, mutual = (COMPILED[m](*laid[:2]) for m in ("forward", "reverse", "mutual"))
    np.testing.assert_array_equal(np.asarray(forward) & np.asarray(reverse), mutual)


@pytest.mark.parametrize("method", METHODS)
def test_a_diagonal_of_scores_gives_the_diagonal(method):
    laid = padded([10 * np.eye(6, dtype=np.float32)], 0)
    links = laid.blocks(COMPILED[method](*laid[:2]))[0]
    np.testing.assert_array_equal(links, np.eye(6, dtype=bool))


def test_last_links_keep_the_largest_partner():
    links = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0]], bool)
    src, trg = compiled(extract.last_links)(links[None])
    assert src[0].tolist() == [2, -1, 1] and trg[0].tolist() == [2, 2, 0]
    mats = [(mat > 0.6).astype(np.float32) for mat in random_pairs(2)]
    laid = padded(mats, 2, junk=0.0)
    got = compiled(extract.last_links)(laid.score > 0)
    for mat, (b, rows, cols) in zip(mats, laid.place, strict=True):
        src, trg = oracle.last_links(mat)
        want_src, want_trg = np.full(9, -1), np.full(11, -1)
        want_src[rows] = [cols[k] if k >= 0 else -1 for k in src]
        want_trg[cols] = [rows[k] if k >= 0 else -1 for k in trg]
        np.testing.assert_array_equal(got[0][b], want_src)
        np.testing.assert_array_equal(got[1][b], want_trg)


def test_the_first_maximum_wins():
    flat = np.ones((2, 3, 4), np.float32)
    assert pairs_of(one(extract.forward_links, flat[0])) == {(0, 0), (1, 0), (2, 0)}
    assert pairs_of(one(extract.reverse_links, flat[0])) == {(0, 0), (0, 1), (0, 2), (0, 3)}
    assert pairs_of(one(extract.itermax, flat[0], count=9)) == pairs_of(
        SentenceAligner.iter_max(flat[0], 9)
    )


def test_ties_are_found_in_both_layouts():
    mats = random_pairs(31, coarse=True) + random_pairs(31)
    for lay in LAYOUTS.values():
        laid = lay(mats, 3)
        rows, cols = (np.asarray(tied) for tied in compiled(extract.argmax_ties)(*laid[:2]))
        for mat, (b, src, trg) in zip(mats, laid.place, strict=True):
            want_rows, want_cols = oracle.tied(mat)
            np.testing.assert_array_equal(rows[b, src], want_rows)
            np.testing.assert_array_equal(cols[b, trg], want_cols)
        assert not rows[~laid.pair.any(2)].any() and not cols[~laid.pair.any(1)].any()


def test_a_tolerance_makes_near_scores_tie():
    mat = np.array([[100.0, 99.99], [1.0, 50.0]], np.float32)[None]
    pair = np.ones(mat.shape, bool)
    assert not compiled(extract.argmax_ties)(mat, pair)[0].any()
    assert compiled(extract.argmax_ties, tolerance=1e-3)(mat, pair)[0].tolist() == [[True, False]]


def test_itermax_ties_see_later_rounds():
    # after (0, 3) and (1, 0) column 2 has 0.9 x 0.5 in row 1 and 0.45 in row 2
    mat = [[0.2, 0.25, 0.15, 0.8], [0.85, 0.65, 0.5, 0.25], [0.55, 0.15, 0.45, 0.15]]
    mat = np.array(mat, np.float32)[None]
    pair = np.ones(mat.shape, bool)
    assert not any(tied.any() for tied in compiled(extract.argmax_ties)(mat, pair))
    assert not any(tied.any() for tied in compiled(extract.itermax_ties, count=1)(mat, pair))
    src, trg = compiled(extract.itermax_ties)(mat, pair)
    assert not src.any() and trg.tolist() == [[False, False, True, False]]


def test_a_pair_where_itermax_has_stopped_has_no_more_ties():
    # S2 stops after the first round: its first three rows hold closed cells only, all at 0
    laid = padded([S, S2], 0)
    first = [np.asarray(tied) for tied in compiled(extract.argmax_ties)(*laid[:2])]
    later = compiled(extract.itermax_ties, count=4)(*laid[:2])
    for ours, want in zip(later, first, strict=True):
        np.testing.assert_array_equal(ours[1], want[1])
    assert not np.any(later[1][1])


def test_no_gradient_passes_the_links():
    pair = np.ones((1, *S.shape), bool)

    def loss(score, links=None):
        links = balanced_then_itermax(score, pair) if links is None else links
        return jnp.sum(jnp.where(links, score**2, 0.0))

    fixed = jax.jit(balanced_then_itermax)(S[None], pair)
    slope = jax.jit(jax.grad(loss))
    np.testing.assert_array_equal(slope(S[None]), slope(S[None], fixed))
    assert np.any(slope(S[None]))


@pytest.mark.parametrize(
    "call",
    [
        partial(extract.itermax, count=0),
        partial(extract.itermax, rule="other"),
        partial(extract.entmax_links, alpha=1.2),
    ],
)
def test_unknown_options_are_refused(call):
    with pytest.raises(ValueError, match="need"):
        one(call, S)
