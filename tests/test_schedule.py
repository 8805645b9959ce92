"""Schedules: numbers, lines and stairs take the values that they say, and nothing else is taken."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jalign.errors import ConfigError
from jalign.schedule import largest, last, make_value, values_of

LINE = {"begin": 0.5, "end": 0.1, "steps": 4, "delay": 2}
STAIRS = {"values": (0.30, 0.15, 0.05), "boundaries": (10, 13)}


def at(schedule, *steps):
    value = jax.jit(make_value(schedule, "here"))
    return [float(value(np.int32(s))) for s in steps]


def test_a_number_stays():
    assert at(0.25, 0, 7, 10**9) == [0.25] * 3
    assert at(2, 0) == [2.0]


def test_a_line_waits_and_then_goes_from_begin_to_end():
    np.testing.assert_allclose(
        at(LINE, 0, 2, 3, 4, 6, 99), [0.5, 0.5, 0.4, 0.3, 0.1, 0.1], rtol=1e-6
    )
    assert at({"steps": 10}, 0, 5, 10, 99) == [0.0, 0.5, 1.0, 1.0]  # from 0 to 1 if not said


def test_stairs_take_the_next_value_at_each_boundary():
    wanted = [0.30, 0.30, 0.15, 0.15, 0.05, 0.05]
    np.testing.assert_allclose(at(STAIRS, 0, 9, 10, 12, 13, 10**6), wanted, rtol=1e-6)
    assert at({"values": [0.5], "boundaries": []}, 0, 3) == [0.5, 0.5]


@pytest.mark.parametrize(
    "schedule, most, end",
    [(0.2, 0.2, 0.2), (LINE, 0.5, 0.1), ({"steps": 3}, 1.0, 1.0), (STAIRS, 0.3, 0.05)],
)
def test_the_largest_and_the_last_value_are_known_beforehand(schedule, most, end):
    assert (largest(schedule), last(schedule)) == (most, end)


numbers = st.floats(-5, 5, width=32)
lines = st.fixed_dictionaries(
    {"begin": numbers, "end": numbers, "steps": st.integers(1, 9), "delay": st.integers(0, 9)}
)
stairs = st.lists(st.tuples(numbers, st.integers(1, 6)), min_size=1, max_size=4).map(
    lambda pairs: {
        "values": tuple(v for v, _ in pairs),
        "boundaries": tuple(int(n) for n in np.cumsum([n for _, n in pairs])[:-1]),
    }
)


@given(st.one_of(lines, stairs))
def test_no_step_leaves_the_range_of_the_values_and_the_end_stays(schedule):
    taken = np.asarray([make_value(schedule, "here")(s) for s in range(25)])
    allowed = values_of(schedule, "here").values()
    assert taken.max() <= largest(schedule) + 1e-5
    assert taken.min() >= min(allowed) - 1e-5
    np.testing.assert_allclose(taken[-1], last(schedule), atol=1e-5)


def test_values_are_named_by_their_entries():
    assert values_of(0.2, "w") == {"w": 0.2}
    assert values_of(LINE, "w") == {"w.begin": 0.5, "w.end": 0.1}
    assert list(values_of(STAIRS, "w")) == ["w.values[0]", "w.values[1]", "w.values[2]"]


@pytest.mark.parametrize(
    "schedule, message",
    [
        ({"start": 1.0, "steps": 3}, "w={.*}: need a number, or begin, end, steps and optionally"),
        ({"begin": 1.0, "end": 0.0}, "need a number, or begin, end, steps"),
        ({}, "need a number"),
        ("high", "w='high': need a number"),
        (True, "w=True: need a number"),
        ({"begin": "a", "steps": 3}, r"w\.begin='a': need a number"),
        ({"steps": 0}, r"w\.steps=0: need a whole number of steps, at least 1"),
        ({"steps": 2.5}, r"w\.steps=2\.5: need a whole number"),
        ({"steps": 2, "delay": -1}, r"w\.delay=-1: need a whole number of steps, at least 0"),
        ({"values": (0.3, 0.1)}, r"values=\(v0, v1, \.\.\.\) and boundaries"),
        ({"boundaries": (3,)}, "values="),
        ({"values": (0.3, 0.1), "boundaries": ()}, "one fewer than the values"),
        ({"values": (), "boundaries": ()}, "one fewer than the values"),
        ({"values": 0.3, "boundaries": ()}, "values="),
        ({"values": (0.3, 0.1), "boundaries": (5,), "steps": 9}, "values="),
        ({"values": (0.3, "x"), "boundaries": (5,)}, r"w\.values\[1\]='x': need a number"),
        ({"values": (0.3, 0.1), "boundaries": (0,)}, r"w\.boundaries\[0\]=0: .* at least 1"),
        (
            {"values": (0.3, 0.2, 0.1), "boundaries": (5, 5)},
            r"w\.boundaries\[1\]=5: .* at least 6",
        ),
    ],
)
def test_other_entries_are_refused_by_name(schedule, message):
    with pytest.raises(ConfigError, match=message):
        make_value(schedule, "w")
