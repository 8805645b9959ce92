"""Attention units and unit means, by hand and against a loop."""

from __future__ import annotations

import numpy as np
import pytest

from jalign.nn.packed import unit_ids, unit_means
from tests.tiny import rows_of


def test_unit_ids_by_hand():
    batch = {"example": np.array([[1, 1, 1, 2, 2, 0]]), "position": np.array([[0, 1, 0, 0, 1, 0]])}
    assert unit_ids(batch).tolist() == [[1, 1, 2, 3, 3, 0]]


@pytest.mark.parametrize("layout, per_example", [("single", 1), ("joint", 1), ("separate", 2)])
def test_every_layout_has_its_units(layout, per_example):
    batch = rows_of(layout).rows(0, 4)
    unit = np.asarray(unit_ids(batch))
    assert (unit.max(1) == per_example * batch["example"].max(1)).all()
    assert ((unit == 0) == (batch["example"] == 0)).all()


def test_unit_means_equal_a_loop_and_padding_is_zero():
    batch = rows_of("separate").rows(0, 3)
    unit = np.asarray(unit_ids(batch))
    h = np.random.default_rng(0).normal(size=(*unit.shape, 5)).astype(np.float32)
    means = np.asarray(unit_means(h, unit, 12))
    for b in range(3):
        for u in range(1, 13):
            at = unit[b] == u
            want = h[b][at].mean(0) if at.any() else np.zeros(5)
            np.testing.assert_allclose(means[b, u - 1], want, rtol=1e-5, atol=1e-6)
