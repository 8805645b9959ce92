"""Run packed batches through a jitted function on all devices of this process.

In: a pure function of (parameters, fields of a batch) and windows of items. Out: its arrays, batch
by batch, in order. While the devices compute, a thread tokenises, plans and lays out the next
window. The function says what comes back; the plan does not know it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jalign.inference.plan import Batch, Items, Shapes, lay_out, plan_batches, units_per_row
from jalign.types import Array, Params

IN_FLIGHT = 2  # batches that the devices have while the host fetches an older one
# Slots per device of a full batch. CPU, 384 wide, 6 deep, 2 cores: 512 to 16,384 slots give the
# same tokens/s within noise, and a small batch costs little where it is not full.
SLOTS = {"cpu": 2048}
MORE_SLOTS = 16_384  # on accelerators

T = TypeVar("T")
R = TypeVar("R")
# (params, fields, max_unit=, num_units=) -> arrays [rows, ...]
Function = Callable[..., Any]


class Work(NamedTuple):
    """A window to compute: its items, and whatever the caller needs to take the results apart."""

    items: Items
    about: Any = None


class Done(NamedTuple):
    """One computed batch of a window; `last` is the window's last one."""

    work: Work
    batch: Batch
    arrays: Any
    last: bool


class Engine:
    """Parameters on every device, and the programs that run with them."""

    def __init__(
        self,
        params: Params,
        *,
        longest: int,
        hidden: int,
        exact: bool = True,
        devices: Sequence[jax.Device] | None = None,
        slots: int | None = None,
    ) -> None:
        """Put the parameters on the devices (default: all of this process).

        `exact`: float32 products are that; accelerators take shorter numbers where they may.
        """
        devices = list(devices or jax.local_devices())
        self.mesh = jax.make_mesh(
            (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices
        )
        slots = slots or SLOTS.get(devices[0].platform, MORE_SLOTS)
        self.shapes = Shapes(longest, slots, hidden, len(devices))
        self.precision = "highest" if exact else None
        self.params = self.put(params)
        self._jitted: dict[Function, Function] = {}

    def put(self, params: Params) -> Params:
        """Copy parameters to every device."""
        return jax.device_put(params, NamedSharding(self.mesh, PartitionSpec()))

    @property
    def window_texts(self) -> int:
        """Return how many texts to plan together: enough that the last batch hardly counts."""
        return min(16_384, max(4096, self.shapes.devices * self.shapes.slots))

    def run(
        self,
        function: Function,
        params: Params,
        inputs: Iterable[T],
        prepare: Callable[[T], Work],
    ) -> Iterator[Done]:
        """Yield every batch of every input, in order; `prepare` runs in a thread, one input ahead.

        `function(params, fields, max_unit=…, num_units=…)` is compiled once per shape: keep it and
        give it again.
        """
        flying: deque[tuple[Work, Batch, Array, bool]] = deque()
        for work, batches in _ahead(lambda x: self._plan(prepare(x)), inputs):
            for i, (batch, fields) in enumerate(batches):
                arrays = self._dispatch(function, params, batch, fields, work.items.units)
                flying.append((work, batch, arrays, i + 1 == len(batches)))
                if len(flying) > IN_FLIGHT:
                    yield _fetch(*flying.popleft())
        while flying:
            yield _fetch(*flying.popleft())

    def _plan(self, work: Work) -> tuple[Work, list[tuple[Batch, dict[str, np.ndarray]]]]:
        longest = int(work.items.lengths.max(initial=1))  # a pair may exceed what a text may
        shapes = replace(self.shapes, longest=max(longest, self.shapes.longest))
        batches = plan_batches(work.items.lengths, shapes, work.items.units)
        return work, [(batch, lay_out(work.items, batch)) for batch in batches]

    def _dispatch(self, function, params, batch: Batch, fields, units: int):
        """Start one batch; returns at once, with arrays that are not computed yet."""
        if function not in self._jitted:
            self._jitted[function] = jax.jit(function, static_argnames=("max_unit", "num_units"))
        fields = jax.device_put(fields, NamedSharding(self.mesh, PartitionSpec("data")))
        num_units = units_per_row(batch.row_length)
        # the mesh: kernels that the compiler cannot partition ask for it
        with jax.set_mesh(self.mesh), jax.default_matmul_precision(self.precision):
            return self._jitted[function](
                params, fields, max_unit=batch.max_unit, num_units=num_units
            )


def _fetch(work: Work, batch: Batch, arrays, last: bool) -> Done:
    return Done(work, batch, jax.tree.map(np.asarray, arrays), last)


def _ahead(function: Callable[[T], R], inputs: Iterable[T]) -> Iterator[R]:
    """Map in a thread, one input ahead of what is consumed."""
    with ThreadPoolExecutor(1, "jalign-prepare") as pool:
        waiting = None
        for x in inputs:
            following = pool.submit(function, x)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
