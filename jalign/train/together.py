"""Let the processes of a job wait for each other, and fail together, without their devices.

All goes through JAX's coordination service, which only the death of a process ends: in a collective
of the devices a process gives up on one that reads data meanwhile (Gloo after 30 seconds).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax

# Private, as there is no public way to the service; tests/train/test_together.py would notice.
from jax._src import distributed

from jalign.data.records import DamagedColumns, ManifestError
from jalign.errors import BadData, ConfigError
from jalign.train.log import format_duration, say

T = TypeVar("T")
SLICE_S = 2  # of a wait, in which Ctrl-C is not heeded
SAY_AFTER_S = 60
LIMIT_S = 6 * 3600
LONGEST_FAULT = 4000  # characters of a message for the others
KINDS = {kind.__name__: kind for kind in (BadData, ConfigError, DamagedColumns, ManifestError)}


def attempt(work: Callable[[], T]) -> T:
    """Return what `work` gives here once all processes have done theirs; where one fails, all do.

    Raises: what it raised here, or an error of the same kind as the first of the others raised.
    """
    if jax.process_count() == 1:
        return work()
    done, failed = None, None
    try:
        done = work()
    except Exception as error:
        failed = error
    fault = [type(failed).__name__, str(failed)[:LONGEST_FAULT]] if failed else None
    faults = gather(fault)
    if failed:
        raise failed
    for process, fault in enumerate(faults):
        if fault:
            kind, message = fault
            raise KINDS.get(kind, RuntimeError)(f"process {process}: {message}")
    return done


def gather(value: Any) -> list[Any]:
    """Return the JSON values of all processes, in their order."""
    num, me = jax.process_count(), jax.process_index()
    if num == 1:
        return [value]
    place = _next_place("gather")
    if me > 0:
        _client().key_value_set(f"{place}/{me}", json.dumps(value))
        return tell(None)
    return tell([value, *(json.loads(_wait_for(f"{place}/{i}", i)) for i in range(1, num))])


def tell(value: Any) -> Any:
    """Return the JSON value of process 0."""
    if jax.process_count() == 1:
        return value
    place = _next_place("tell")
    if jax.process_index() == 0:
        _client().key_value_set(place, json.dumps(value))
    return json.loads(_wait_for(place, 0))


def _client() -> Any:
    return distributed.global_state.client


def _next_place(name: str) -> str:
    """Return a key of the service that is new, and the same for all processes at this point."""
    turn = _client().key_value_increment(f"jalign/turn/{name}/{jax.process_index()}", 1)
    return f"jalign/{name}/{turn}"


def _wait_for(key: str, process: int) -> str:
    """Wait until a process has set a key; the service ends this one should that die."""
    begin, said = time.monotonic(), False
    while (waited := time.monotonic() - begin) < LIMIT_S:
        try:
            return _client().blocking_key_value_get(key, SLICE_S * 1000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        if waited > SAY_AFTER_S and not said:
            say(f"process {jax.process_index()} waits for process {process}")
            said = True
    raise TimeoutError(f"process {process} did not come in {format_duration(LIMIT_S)}")
