"""Retrieval accuracy by hand."""

from __future__ import annotations

import numpy as np
import pytest

from jalign.metrics.retrieval import retrieval_accuracy


def test_accuracy_by_hand():
    src = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    trg = np.array([[2.0, 0.1], [1.0, 1.0], [0.2, 1.0]])
    # forward: 0 -> 0; 1 -> 2 (cosine .98); 2 -> 1. backward: 0 -> 0; 1 -> 2; 2 -> 1
    assert retrieval_accuracy(src, trg) == (1 / 3, 1 / 3)


def test_scale_of_a_row_does_not_matter_and_identity_is_perfect():
    x = np.random.default_rng(0).normal(size=(20, 4))
    assert retrieval_accuracy(x, x * np.linspace(0.1, 9, 20)[:, None]) == (1.0, 1.0)


def test_unequal_sides_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        retrieval_accuracy(np.ones((2, 3)), np.ones((3, 3)))
