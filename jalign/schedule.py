"""Let a number of a config change over the steps of a run: linearly, or in stairs.

An entry of a config is a number, {begin, end, steps, delay} or {values, boundaries}; out comes a
function step -> value, and what must be known before anything compiles: the values it can take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jalign.errors import ConfigError

Schedule = float | Mapping[str, Any]

_LINE = {"begin", "end", "steps", "delay"}
_STAIRS = {"values", "boundaries"}


def make_value(schedule: Schedule, where: str) -> Callable[[jax.Array], jax.Array]:
    """Turn a number, a line or stairs into step -> value (float32).

    A line {begin=0, end=1, steps, delay=0} goes from begin to end in `steps` steps after `delay`.
    Stairs {values, boundaries} take values[i] from step boundaries[i - 1] on.
    Raises: ConfigError for other entries, naming them as `where`.
    """
    values = values_of(schedule, where)
    if not isinstance(schedule, Mapping):
        return lambda step: jnp.float32(schedule)
    if _STAIRS & set(schedule):
        levels = np.array(list(values.values()), np.float32)
        begins = np.array(schedule["boundaries"], np.int32)
        return lambda step: jnp.asarray(levels)[(step >= begins).sum()]
    steps, delay = schedule["steps"], schedule.get("delay", 0)
    return optax.linear_schedule(*values.values(), steps, delay)


def values_of(schedule: Schedule, where: str) -> dict[str, float]:
    """Return the values that decide a schedule, by the entry that gives each: all others that it
    takes lie between two of them, and the last is where it ends.

    Raises: ConfigError for entries that are no schedule.
    """
    if not isinstance(schedule, Mapping):
        return {where: _number(schedule, where)}
    if _STAIRS & set(schedule):
        return _values_of_stairs(schedule, where)
    if set(schedule) - _LINE or "steps" not in schedule:
        raise ConfigError(
            f"{where}={dict(schedule)}: need a number, or begin, end, steps and optionally delay, "
            "or values and boundaries"
        )
    _step(schedule["steps"], f"{where}.steps", 1)
    _step(schedule.get("delay", 0), f"{where}.delay", 0)
    ends = {"begin": schedule.get("begin", 0.0), "end": schedule.get("end", 1.0)}
    return {f"{where}.{name}": _number(v, f"{where}.{name}") for name, v in ends.items()}


def largest(schedule: Schedule) -> float:
    """Return the largest value that a schedule ever takes."""
    return max(values_of(schedule, "schedule").values())


def last(schedule: Schedule) -> float:
    """Return the value at which a schedule ends and stays."""
    return list(values_of(schedule, "schedule").values())[-1]


def _values_of_stairs(schedule: Mapping[str, Any], where: str) -> dict[str, float]:
    values, boundaries = schedule.get("values"), schedule.get("boundaries")
    fits = isinstance(values, (tuple, list)) and isinstance(boundaries, (tuple, list))
    if set(schedule) != _STAIRS or not fits or len(values) != len(boundaries) + 1:
        raise ConfigError(
            f"{where}={dict(schedule)}: need values=(v0, v1, ...) and boundaries=(s1, ...), the "
            "steps at which the second and each later value begins: one fewer than the values"
        )
    before = 0
    for i, boundary in enumerate(boundaries):
        _step(boundary, f"{where}.boundaries[{i}]", before + 1)
        before = boundary
    return {
        f"{where}.values[{i}]": _number(v, f"{where}.values[{i}]") for i, v in enumerate(values)
    }


def _number(value: Any, where: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ConfigError(f"{where}={value!r}: need a number")
    return float(value)


def _step(value: Any, where: str, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{where}={value!r}: need a whole number of steps, at least {least}")
