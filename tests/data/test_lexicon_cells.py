"""The position model: cells where they should be, sums and maxima as by hand."""

import numpy as np
import pytest

from jalign.data.lexicon_cells import (
    MAX_TENSION,
    Pairs,
    Places,
    TensionFit,
    cell_keys,
    log_normaliser,
    make_cells,
    make_places,
)


def test_cells_are_laid_out_row_by_row():
    cells = make_cells(Pairs.of([[1, 2], [6], [7]], [[3, 4, 5], [], [8, 9]]))
    assert cells.row_N.tolist() == [0, 0, 0, 1, 1, 1, 3, 3]
    assert cells.col_N.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    expected = [1 / 6, 1 / 6, 1 / 2, 2 / 3, 1 / 3, 0, 1 / 2, 0]
    np.testing.assert_allclose(cells.distance_N, expected, atol=1e-6)


def test_keys_hold_the_source_id_above_the_target_id():
    pairs = Pairs.of([[1, 250_000]], [[3, 249_999]])
    keys = cell_keys(pairs, make_cells(pairs)).tolist()
    assert keys == [(i << 32) + j for i in (1, 250_000) for j in (3, 249_999)]


def test_blocks_hold_no_more_cells_than_allowed_and_miss_no_pair():
    rng = np.random.default_rng(0)
    sides = [[rng.integers(0, 9, n) for n in rng.integers(0, 9, 50)] for _ in range(2)]
    pairs = Pairs.of(*sides)
    for max_cells in (1, 30, 70, 10_000):
        blocks = list(pairs.blocks(max_cells))
        for _, block in blocks:
            assert block.num_cells_E.sum() <= max_cells or len(block.src_len_E) == 1
        numbers = [first + i for first, block in blocks for i in range(len(block.src_len_E))]
        assert numbers == list(range(50))
        for whole, parts in zip(
            pairs, zip(*(block for _, block in blocks), strict=True), strict=True
        ):
            np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(list(pairs.blocks(10_000))) == 1


@pytest.mark.parametrize("tension", [0.0, 0.01, 4.0, 30.0])
def test_the_normaliser_equals_the_sum_over_positions(tension):
    places = [
        (number, total, among)
        for total in (1, 2, 7, 30)
        for among in (1, 3, 7, 40)
        for number in range(1, total + 1)
    ]
    sums = [
        sum(np.exp(-tension * abs(i / among - number / total)) for i in range(1, among + 1))
        for number, total, among in places
    ]
    got = log_normaliser(Places(*np.array(places).T), tension)
    np.testing.assert_allclose(got, np.log(sums), rtol=1e-9, atol=1e-9)


def test_the_tension_of_words_placed_by_the_model_is_found_again():
    rng = np.random.default_rng(0)
    trg_len, src_len = rng.integers(5, 30, 1000), rng.integers(5, 30, 1000)
    places = make_places(trg_len, src_len)
    at = np.arange(1, 30)
    distance = np.abs(at / places.among[:, None] - (places.number / places.total)[:, None])
    prior = np.exp(-6.0 * distance) * (at <= places.among[:, None])
    drawn = (
        prior.cumsum(axis=1) < rng.random(len(prior))[:, None] * prior.sum(axis=1)[:, None]
    ).sum(axis=1)
    total = distance[np.arange(len(drawn)), drawn].sum()
    fit = TensionFit(trg_len, src_len)
    assert fit.best(total, np.ones(len(drawn)), 0.0) == pytest.approx(6.0, abs=0.15)
    assert fit.best(0.0, np.ones(len(drawn)), 0.0) == pytest.approx(MAX_TENSION, abs=1e-2)
