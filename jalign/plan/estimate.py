"""Estimate the time of a step from what it computes, moves and says, and the data sheets' rates.

A roofline: no chip reaches its peak, so these are bounds of what is possible, not forecasts. Two
things are taken for granted: chips do the sums of a collective (a switch that sums up, as NVLink
SHARP, may halve an all-reduce), and what can stay on an island does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import combinations

from jalign.plan.abstract import AbstractRun
from jalign.plan.collectives import Collective
from jalign.plan.places import Places, Spread
from jalign.plan.topology import Chip


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds that one step takes at least, for each of what may bound it. `inside` a slice or
    node, over its fast links; `outside`: between them, over each chip's share of the network.
    """

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


@dataclasses.dataclass(frozen=True)
class Sent:
    """Bytes that a chip sends for a collective, at least: `inside` its island, over the links of
    `axes` of the torus, and `outside`.
    """

    inside: float
    outside: float
    axes: frozenset[int]


def bytes_sent(collective: Collective, places: Places) -> Sent:
    """Return what a chip sends, and receives, if islands first sum up or gather what is theirs.

    An array is summed up or gathered by the m members of an island, each of whom has then 1/m of it
    to exchange with the k - 1 other islands. In an all-to-all each chip's bytes are its own.
    """
    spread = places.spread(collective.axes)
    size, payload = collective.group, collective.payload
    known = size == math.prod(places.mesh[name] for name in collective.axes)
    if not collective.leaves:
        spread = Spread(size, 1, spread.axes)
    elif not known:  # a part of an axis: as many on an island as can be
        spread = Spread(size // 2, 2, spread.axes)
    m, k = spread.members, spread.islands
    match collective.operation:
        case "all-to-all" | "ragged-all-to-all":
            inside, outside = (m - 1) / size, (size - m) / size
        case "collective-permute" | "collective-broadcast":
            inside, outside = float(m > 1), (k > 1) / m
        case _:
            passes = 2 if collective.operation == "all-reduce" else 1
            inside, outside = passes * (m - 1) / m, passes * (k - 1) / k / m
    if collective.leaves and not known:  # perhaps none are neighbours
        inside = 0.0
    return Sent(inside * payload, outside * payload, spread.axes)


def estimate(
    flops: float, moved: float, sent: Sequence[Sent], chip: Chip, rates: Sequence[float]
) -> Times:
    """Divide work by rates. `rates`: bytes a second over each axis of the torus (`axis_rates`)."""
    outside = sum(s.outside for s in sent)
    return Times(
        flops / chip.flops,
        moved / chip.hbm_bandwidth,
        _inside_seconds(sent, rates),
        outside / chip.outside,
    )


def _inside_seconds(sent: Sequence[Sent], rates: Sequence[float]) -> float:
    """Return the time for what stays on an island, if the links of all axes are busy at once.

    A collective may use the links of all axes along which its members differ, and no others, and
    collectives on different axes may run together. So whatever axes one picks, their links carry
    at least the collectives that lie on them alone.
    """
    numbers = range(len(rates))
    picks = [set(pick) for n in numbers for pick in combinations(numbers, n + 1)]
    return max(
        sum(s.inside for s in sent if s.axes and s.axes <= pick) / sum(rates[i] for i in pick)
        for pick in picks
    )


def slots_per_step(run: AbstractRun) -> int:
    """Return the slots of one step's batches, on all chips."""
    return sum(s.rows * s.row_length for s in run.cfg.streams.values())
