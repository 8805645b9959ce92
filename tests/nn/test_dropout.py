"""Dropout masks: their rate, and that neighbours, axes and keys are independent."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

from jalign.nn.dropout import keep_factor, keep_mask


def masks(rate, num_keys=8, shape=(64, 32, 128)):
    keys = [jax.random.fold_in(jax.random.key(5), i) for i in range(num_keys)]
    return np.stack([np.asarray(keep_mask(key, shape, rate)) for key in keys])


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_rate_is_kept_overall_and_in_every_slice(rate):
    kept = masks(rate)
    for axes in [(0, 1, 2, 3), (1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2)]:
        num = np.prod([kept.shape[a] for a in axes])
        deviation = 5 * np.sqrt(rate * (1 - rate) / num)
        assert np.abs(kept.mean(axes) - (1 - rate)).max() <= deviation + 1e-9


def test_neighbours_along_every_axis_and_key_are_independent():
    kept = masks(0.5).astype(np.float64) * 2 - 1
    for axis in range(4):
        for step in (1, 2, 4):
            first = np.take(kept, range(kept.shape[axis] - step), axis)
            second = np.take(kept, range(step, kept.shape[axis]), axis)
            assert abs((first * second).mean()) < 5 / np.sqrt(first.size)


def test_two_keys_do_not_give_shifted_copies():
    flat = masks(0.5, num_keys=4).reshape(4, -1).astype(np.float64) * 2 - 1
    for x, y in itertools.combinations(flat, 2):
        match = np.fft.irfft(np.fft.rfft(x) * np.conj(np.fft.rfft(y))) / x.size
        assert np.abs(match).max() < 6 / np.sqrt(x.size)


def test_patterns_of_eight_are_uniform():
    kept = masks(0.5).reshape(-1, 8)
    counts = np.bincount(kept @ (1 << np.arange(8)), minlength=256)
    expected = kept.shape[0] / 256
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert 160 < chi2 < 375  # 255 degrees of freedom, five deviations


def test_factor_keeps_the_mean():
    factor = np.asarray(keep_factor(jax.random.key(0), (1000, 1000), 0.1))
    assert set(np.unique(factor)) == {np.float32(0.0), np.float32(1 / 0.9)}
    assert abs(factor.mean() - 1.0) < 2e-3
