"""Estimate the time of a step from what it computes, moves and says, and the data sheets' rates.

A roofline: no chip reaches its peak, so these are bounds of what is possible, not forecasts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jalign import plugin
from jalign.plan.abstract import AbstractRun
from jalign.plan.collectives import Collective
from jalign.plan.topology import Chip
from jalign.schedule import largest


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


def analytic_flops(run: AbstractRun) -> float:
    """Count the FLOPs of one step on all chips by hand, as MFU counts them.

    Each objective passes once over its streams and backwards; every slot is real and attends to as
    many as its unit may hold. A further pass without gradient (a frozen or a momentum copy) and
    whatever is computed a second time are not in it.
    """
    family = plugin.load("encoders", run.cfg.encoder.get("family", "bert"))
    flops = 0.0
    for name, objective in run.objectives.items():
        rate = masked_rate(run.cfg.objectives[name], name)
        for stream in (run.cfg.streams[s] for s in objective.streams):
            unit = stream.max_unit or stream.row_length
            per_token = family.flops_per_token(run.encoder_cfg, unit, rate)
            flops += stream.rows * stream.row_length * per_token
    return flops


def masked_rate(entries: Mapping[str, Any], name: str) -> float:
    """Return the share of the slots whose word an objective predicts; 0 where it predicts none."""
    module = plugin.load("objectives", entries.get("kind", name))
    fields = {f.name: f.default for f in dataclasses.fields(module.Config)}
    return float(largest(entries.get("rate", fields["rate"]))) if "rate" in fields else 0.0
