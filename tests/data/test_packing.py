"""Packing: rows never overflow, every example comes once per epoch, row i depends on nothing
but i.
"""

from __future__ import annotations

import numpy as np
import pytest

from jalign.data.packing import Bins, PackedOnce, PackedRows

RNG = np.random.default_rng(0)
LENGTHS = [np.clip(RNG.lognormal(3.3, 0.7, n).astype(int) + 3, 4, 256) for n in (9000, 2000, 300)]


def lengths_of(part, examples):
    return LENGTHS[part][examples]


@pytest.fixture(scope="module")
def packed():
    return PackedRows(
        [len(x) for x in LENGTHS], lengths_of, [0.5, 0.3, 0.2], row_length=256, seed=1
    )


def test_bins_fill_the_fullest_row_that_has_room():
    bins = Bins(3, 10)
    # longest first: 7 and 6 open rows 0 and 1; 4 fits row 1 exactly; 3 fits row 0 exactly; 8 opens
    # row 2
    rows = bins.place_all(np.array([3, 7, 6, 4, 8]))
    assert rows[1] == rows[0] and rows[2] == rows[3] and rows[4] not in (rows[1], rows[2])
    assert bins.place(3) == -1 and bins.place(2) == rows[4]


def test_rows_never_overflow_and_are_nearly_full(packed):
    slots = [
        sum(lengths_of(p, e) for p, e in zip(*packed.row(i), strict=True)) for i in range(3000)
    ]
    assert max(slots) <= 256
    assert np.mean(slots) / 256 >= 0.98


def test_row_i_is_a_pure_function_of_the_seed_and_i(packed):
    again = PackedRows(
        [len(x) for x in LENGTHS], lengths_of, [0.5, 0.3, 0.2], row_length=256, seed=1
    )
    for i in (5000, 3, 10**9, 4999):  # in any order, however far
        for mine, theirs in zip(packed.row(i), again.row(i), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_another_seed_gives_other_rows(packed):
    other = PackedRows(
        [len(x) for x in LENGTHS], lengths_of, [0.5, 0.3, 0.2], row_length=256, seed=2
    )
    assert any(packed.row(i)[1].tolist() != other.row(i)[1].tolist() for i in range(5))


def test_every_due_example_is_placed_as_often_as_it_is_due(packed):
    windows = 30
    placed = [np.zeros(len(x), int) for x in LENGTHS]
    for i in range(windows * packed.window_rows):
        for p, e in zip(*packed.row(i), strict=True):
            placed[p][e] += 1
    due = [np.zeros(len(x), int) for x in LENGTHS]
    part, example = packed.due.draws(0, windows * packed.due_per_window)
    for p, e in zip(part, example, strict=True):
        due[p][e] += 1
    late = (
        sum(packed.plan(w).num_postponed for w in range(windows))
        + packed._late_from(windows - 1)[0].size
    )
    missing = sum(np.maximum(d - q, 0).sum() for d, q in zip(due, placed, strict=True))
    assert missing <= late
    assert late <= 0.001 * part.size
    assert sum(q.sum() for q in placed) <= 1.1 * part.size  # spare draws stay few


def test_a_tiny_corpus_does_not_repeat_inside_a_window():
    packed = PackedRows([20], lambda p, e: np.full(e.size, 10), [1.0], row_length=50, seed=0)
    part, example = packed.due.draws(0, packed.due_per_window)
    assert len(set(example)) == example.size


def test_lengths_outside_the_row_are_refused():
    with pytest.raises(ValueError, match="1 to 8 slots"):
        PackedRows([3], lambda p, e: np.full(e.size, 9), [1.0], row_length=8, seed=0)


def test_once_holds_every_example_exactly_once():
    packed = PackedOnce([len(x) for x in LENGTHS], lengths_of, row_length=256)
    seen = [(p, e) for i in range(packed.num_rows) for p, e in zip(*packed.row(i), strict=True)]
    assert len(seen) == len(set(seen)) == sum(map(len, LENGTHS))
    assert packed.row(packed.num_rows + 5)[0].size == 0
