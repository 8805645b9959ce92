"""Compile the step of a run for a topology, and read everything off that a plan says."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence

import jax

from jalign.plan.abstract import AbstractRun, make_abstract_run
from jalign.plan.collectives import Collective, list_collectives
from jalign.plan.estimate import Sent, Times, bytes_sent, estimate, slots_per_step
from jalign.plan.expected import analytic_flops, executed_flops
from jalign.plan.flops import count_flops
from jalign.plan.hlo import parse
from jalign.plan.memory import memory_classes, state_bytes, total
from jalign.plan.places import places_of
from jalign.plan.topology import GIB, Topology, axis_rates
from jalign.plan.traffic import count_bytes
from jalign.train.run_config import RunConfig


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one compilation says of one chip. `memory`: bytes by class; where the step does not fit
    and the compiler gives up, the state's classes and `needed`. `flops` by kind; `analytic_flops`
    is the model's work, `executed_flops` what the step is written to do. `sent`: of each
    collective.
    """

    run: AbstractRun
    rows_per_chip: Mapping[str, int]
    fits: bool
    needed: int
    available: int
    memory: Mapping[str, int]
    flops: Mapping[str, float]
    analytic_flops: float
    executed_flops: float
    moved: float
    collectives: Sequence[Collective]
    sent: Sequence[Sent]
    times: Times | None
    compile_s: float

    @property
    def tokens_per_s(self) -> float:
        """Return the slots per second of all chips, if all that can overlap does."""
        return slots_per_step(self.run) / self.times.overlapped if self.times else 0.0

    @property
    def tokens_per_s_in_turn(self) -> float:
        """Return the slots per second of all chips, if communication and computation wait."""
        return slots_per_step(self.run) / self.times.in_turn if self.times else 0.0


def compile_for(cfg: RunConfig, topology: Topology, shape: str = "") -> Measured:
    """Compile the run's step and measure it. Raises: ConfigError for what cannot be built."""
    run = make_abstract_run(cfg, topology.devices, shape=shape, platform=topology.chip.platform)
    begin = time.perf_counter()
    try:
        compiled = run.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        memory = read_out_of_memory(str(error), state_bytes(run))
        if not memory:
            raise
        return _too_large(run, memory, topology.chip.hbm, time.perf_counter() - begin)
    seconds = time.perf_counter() - begin
    program = parse(compiled.as_text())
    memory = memory_classes(run, program, compiled.memory_analysis(), topology.chip.platform)
    flops, moved = count_flops(program), count_bytes(program)
    mesh, island = dict(run.mesh.shape), _island(topology)
    collectives = list_collectives(program, mesh, island)
    places = places_of(mesh, run.mesh.devices.ravel(), island)
    sent = [bytes_sent(c, places) for c in collectives]
    rates = axis_rates(topology.chip, topology.sizes)
    times = estimate(sum(flops.values()), moved, sent, topology.chip, rates)
    needed = total(memory)
    # The TPU compiler refuses what does not fit; the GPU's leaves it to the allocator.
    fits = topology.chip.platform == "tpu" or needed <= topology.chip.hbm
    return Measured(
        run, _rows_per_chip(run), fits, needed, topology.chip.hbm, memory,
        flops, *_by_hand(run), moved, collectives, sent, times, seconds,
    )  # fmt: skip


def _by_hand(run: AbstractRun) -> tuple[float, float]:
    """Return the FLOPs of one chip: the model's own, and those that the step is written to do."""
    return analytic_flops(run) / run.mesh.size, executed_flops(run) / run.mesh.size


def _island(topology: Topology) -> int:
    """Return how many chips, in order, are joined by the fast links."""
    if topology.chip.platform == "tpu":
        return len(topology.devices) // topology.slices
    return topology.sizes[0]


def _rows_per_chip(run: AbstractRun) -> dict[str, int]:
    shards = run.mesh.size // run.mesh.shape["tensor"]
    return {name: s.rows // shards for name, s in run.cfg.streams.items()}


def read_out_of_memory(message: str, state: Mapping[str, int]) -> dict[str, int] | None:
    """Read what the compiler needed, in bytes by class, where it ran out of the chip's memory.

    It says what all takes, or what takes the place beside the arguments, which are the state.
    """
    size = r"([\d.]+)([KMGT]?)"
    unit = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}
    for pattern, known in (
        (rf"Used {size} of [\d.]+[KMGT]?i?B? hbm", total(state)),
        (rf"memory required for HLO temporaries \({size}\) exceeds", 0),
    ):
        if found := re.search(pattern, message):
            rest = int(float(found[1]) * unit[found[2]]) - known
            return dict(state) | {"everything else": max(rest, 0)}
    return None


def _too_large(
    run: AbstractRun, memory: Mapping[str, int], available: int, seconds: float
) -> Measured:
    return Measured(
        run, _rows_per_chip(run), False, total(memory), available, memory, {}, *_by_hand(run),
        0.0, (), (), None, seconds,
    )  # fmt: skip
