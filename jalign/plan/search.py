"""Search for the largest batch that fits a layout, and for layouts that fit the batch.

A rough model, fitted to what was compiled so far, says what to try next; what is handed back was
compiled, never guessed.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from jalign.errors import ConfigError
from jalign.plan.abstract import with_changes
from jalign.plan.estimate import slots_per_step
from jalign.plan.measure import Measured, compile_for
from jalign.plan.memory import shard_bytes, state_bytes, total
from jalign.plan.topology import Topology
from jalign.train.run_config import RunConfig

MAX_TENSOR = 8
MAX_ACCUMULATE = 64
REMAT_KEEPS = 0.2  # of a layer's activations remat keeps about the states between layers


@dataclass
class Found:
    """The step as asked, the largest batch of its layout that fits, and layouts that fit its
    batch.
    """

    asked: Measured
    largest: Measured | None = None
    suggestions: list[Measured] = field(default_factory=list)
    compilations: int = 1


def search(
    cfg: RunConfig,
    topology: Topology,
    shape: str = "",
    *,
    budget: int = 6,
    say: Callable[[str], None] = lambda line: None,
) -> Found:
    """Compile the step as it stands, and spend at most `budget` more compilations: up to half of
    them on the batch, the rest on layouts.
    """
    found = Found(compile_for(cfg, topology, shape))
    say(_line("as asked", found.asked))
    found.largest = found.asked if found.asked.fits else None
    points = [found.asked]
    for _ in range(budget - budget // 2):
        size = _next_size(points)
        if size is None:
            break
        tried = compile_for(_resized(cfg, found.asked, size), topology, shape)
        points.append(tried)
        found.compilations += 1
        say(_line("another batch", tried))
        best = found.largest
        if tried.fits and (best is None or slots_per_step(tried.run) > slots_per_step(best.run)):
            found.largest = tried
    for candidate in itertools.islice(_layouts(cfg, found.asked), budget + 1 - found.compilations):
        try:
            tried = compile_for(candidate, topology, shape)
        except ConfigError as error:  # heads or rows that do not divide
            say(f"left out: {error}")
            continue
        found.compilations += 1
        say(_line("another layout", tried))
        if tried.fits:
            found.suggestions.append(tried)
    if found.asked.fits:
        found.suggestions.append(found.asked)
    found.suggestions.sort(key=lambda m: -m.tokens_per_s)
    return found


def _line(what: str, m: Measured) -> str:
    mesh, verdict = dict(m.run.mesh.shape), "fits" if m.fits else "does not fit"
    return (
        f"{what}: mesh {mesh}, remat {m.run.encoder_cfg.remat}, accumulate "
        f"{m.run.cfg.accumulate}, rows per chip {dict(m.rows_per_chip)}: {m.needed / 2**30:.2f} "
        f"GiB, {verdict} ({m.compile_s:.0f} s)"
    )


def _size(m: Measured) -> int:
    """Return the batch of a chip in the smallest steps that keep the streams' proportions."""
    return math.gcd(*m.rows_per_chip.values()) // m.run.cfg.accumulate


def _resized(cfg: RunConfig, asked: Measured, size: int) -> RunConfig:
    return with_changes(cfg, rows=Fraction(size, _size(asked)))


def _next_size(points: list[Measured]) -> int | None:
    """Return the batch to try next, None where the largest that fits is known."""
    sizes = {_size(m): m for m in points}
    good = max((s for s, m in sizes.items() if m.fits), default=0)
    bad = min((s for s, m in sizes.items() if not m.fits), default=None)
    if bad == good + 1:
        return None
    fixed, slope = _fit(sizes)
    guess = int((points[0].available - fixed) / slope) if slope > 0 else 2 * good
    guess = max(good + 1, guess)
    if bad is not None:
        guess = min(guess, bad - 1)
    return None if guess in sizes or guess < 1 else guess


def _fit(sizes: dict[int, Measured]) -> tuple[float, float]:
    """Return memory as fixed + slope x size: a line through the two largest points, or from the
    state, the gradients and one point.
    """
    size, last = max(sizes.items())
    smaller = [s for s in sizes if s < size]
    if smaller:
        other = sizes[max(smaller)]
        slope = (last.needed - other.needed) / (size - max(smaller))
        return last.needed - slope * size, slope
    fixed = total(state_bytes(last.run)) + shard_bytes(last.run.state.params)
    return fixed, max(last.needed - fixed, 1) / size


def _layouts(cfg: RunConfig, asked: Measured) -> Iterator[RunConfig]:
    """Yield other layouts of the same batch: first those that the model lets fit, the fastest
    first.
    """
    chips = asked.run.mesh.size // cfg.mesh.dcn
    rows = math.gcd(*(s.rows for s in cfg.streams.values()))
    heads = asked.run.encoder_cfg.heads
    powers = [2**i for i in range(int(math.log2(MAX_ACCUMULATE)) + 1)]
    splits = all(o.splits or o.splits_itself for o in asked.run.objectives.values())
    ranked = []
    for tensor, fsdp, remat, accumulate in itertools.product(
        [t for t in powers if t <= MAX_TENSOR and chips % t == 0 and heads % t == 0],
        [f for f in range(1, chips + 1) if chips % f == 0],
        (False, True),
        powers if splits else [1],
    ):
        batch_shards = chips * cfg.mesh.dcn // tensor
        if chips % (tensor * fsdp) or rows % (batch_shards * accumulate):
            continue
        layout = _Layout(fsdp, tensor, remat, accumulate)
        if layout != _layout_of(asked):
            memory, seconds = _model(asked, layout)
            ranked.append((memory > 0.95 * asked.available, seconds, memory, layout))
    for *_, layout in sorted(ranked):
        changes = dataclasses.asdict(layout)
        accumulate = changes.pop("accumulate")
        yield dataclasses.replace(with_changes(cfg, **changes), accumulate=accumulate)


@dataclass(frozen=True, order=True)
class _Layout:
    fsdp: int
    tensor: int
    remat: bool
    accumulate: int


def _layout_of(m: Measured) -> _Layout:
    shape = m.run.mesh.shape
    return _Layout(shape["fsdp"], shape["tensor"], m.run.encoder_cfg.remat, m.run.cfg.accumulate)


def _model(asked: Measured, layout: _Layout) -> tuple[float, float]:
    """Return (bytes, seconds) of a step in another layout, roughly: only for the order of trials,
    so that any chip's rates serve (1e14 FLOPs and 1e11 bytes a second).

    Parameters are gathered twice and their gradients scattered once a microbatch; a tensor axis
    sums up the states four times a layer.
    """
    run, mine = asked.run, _layout_of(asked)
    state, params = total(state_bytes(run)), shard_bytes(run.state.params)
    shards = layout.fsdp * layout.tensor / (mine.fsdp * mine.tensor)
    kept = {False: 1.0, True: REMAT_KEEPS}
    activations = max(asked.needed - state - params, 0) * kept[layout.remat] / kept[mine.remat]
    activations *= mine.accumulate / layout.accumulate
    rows_shards = run.mesh.size // layout.tensor
    slots = slots_per_step(run) / rows_shards
    whole = params * mine.fsdp * mine.tensor / layout.tensor
    wire = 3 * whole * layout.accumulate if layout.fsdp > 1 else 2 * whole
    if layout.tensor > 1:
        wire += 8 * 2 * slots * run.encoder_cfg.hidden * run.encoder_cfg.layers
    compute = asked.analytic_flops * (4 / 3 if layout.remat else 1)
    return (state + params) / shards + activations, compute / 1e14 + wire / 1e11
