"""Shuffling and mixing without state: permutations are bijections, shares are exact, draws depend
on nothing else.
"""

from __future__ import annotations

import numpy as np
import pytest

from jalign.data.shuffle import Mixture, make_key, permute, temperature_weights


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4097])
def test_permute_is_a_bijection_for_every_size_and_key(size):
    for key in range(5):
        assert sorted(permute(np.arange(size), size, make_key(key))) == list(range(size))


def test_permutations_of_two_keys_differ_and_one_key_repeats():
    index = np.arange(1000)
    first, again, other = (permute(index, 1000, make_key(k)) for k in (1, 1, 2))
    assert (first == again).all()
    assert (first == other).mean() < 0.02


def test_permute_spreads_neighbours_like_a_random_permutation():
    places = permute(np.arange(10_000), 10_000, make_key(3))
    assert abs(np.corrcoef(np.arange(10_000), places)[0, 1]) < 0.05
    assert abs(np.abs(np.diff(places)).mean() - 10_000 / 3) < 200  # E|a - b| of two uniform places


def test_temperature_weights_equal_the_hand_example():
    # counts 8 and 2: p = .8, .2; alpha .5 -> sqrt: .8944, .4472 -> 2/3, 1/3
    np.testing.assert_allclose(temperature_weights(np.array([8, 2]), 0.5), [2 / 3, 1 / 3])
    np.testing.assert_allclose(temperature_weights(np.array([8, 2]), 1.0), [0.8, 0.2])
    np.testing.assert_allclose(temperature_weights(np.array([8, 2]), 0.0), [0.5, 0.5])


def test_temperature_weights_refuse_an_empty_language():
    with pytest.raises(ValueError, match="at least one example"):
        temperature_weights(np.array([3, 0]), 0.3)


def test_each_epoch_visits_every_example_once_and_epochs_differ():
    mixture = Mixture((10,), (1.0,), seed=4)
    first, second = mixture.draws(0, 10)[1], mixture.draws(10, 10)[1]
    assert sorted(first) == sorted(second) == list(range(10))
    assert (first != second).any()


def test_draws_are_cut_anywhere_without_changing_them():
    mixture = Mixture((100, 7), (0.8, 0.2), seed=1)
    whole = mixture.draws(0, 1000)
    parts = [mixture.draws(k, 50) for k in range(0, 1000, 50)]
    for part in (0, 1):
        cut = np.concatenate([e[p == part] for p, e in parts])
        np.testing.assert_array_equal(whole[1][whole[0] == part], cut)


def test_shares_are_exact_to_one_draw():
    mixture = Mixture((1000, 1000, 1000), (0.5, 0.3, 0.2), seed=0)
    for draws in (1, 17, 1000, 123_456):
        counts = np.bincount(mixture.draws(0, draws)[0], minlength=3)
        assert (np.abs(counts - draws * np.array([0.5, 0.3, 0.2])) <= 1).all()
