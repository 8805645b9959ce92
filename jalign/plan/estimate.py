"""Estimate the time of a step from what it computes, moves and says, and the data sheets' rates.

A roofline: no chip reaches its peak, so these are bounds of what is possible, not forecasts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jalign.plan.abstract import AbstractRun
from jalign.plan.collectives import Collective
from jalign.plan.topology import Chip


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds that one step takes at least, for each of what may bound it."""

    compute: float
    memory: float
    inside: float
    outside: float

    @property
    def overlapped(self) -> float:
        """Return the time where all four go on at once: nothing is faster."""
        return max(dataclasses.astuple(self))

    @property
    def in_turn(self) -> float:
        """Return the time where communication waits for computation and the reverse."""
        return max(self.compute, self.memory) + self.inside + self.outside

    @property
    def bound(self) -> str:
        """Name what takes longest."""
        times = dataclasses.asdict(self)
        return max(times, key=lambda name: times[name])


def estimate(
    flops: float, moved: float, collectives: Sequence[Collective], chip: Chip, ring: bool
) -> Times:
    """Divide work by rates. `ring`: the axes of a torus are closed, so that both ways carry."""
    inside = sum(c.wire for c in collectives if not c.leaves)
    outside = sum(c.wire for c in collectives if c.leaves)
    axis = chip.axis if ring or chip.platform != "tpu" else chip.axis / 2
    return Times(
        flops / chip.flops, moved / chip.hbm_bandwidth, inside / axis, outside / chip.outside
    )


def slots_per_step(run: AbstractRun) -> int:
    """Return the slots of one step's batches, on all chips."""
    return sum(s.rows * s.row_length for s in run.cfg.streams.values())
