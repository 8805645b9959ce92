"""Write a plan: a table for people, a mapping for JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from jalign.plan.estimate import Sent, Times, slots_per_step
from jalign.plan.measure import Measured
from jalign.plan.search import Found
from jalign.plan.topology import GIB, Topology

MIB = 2**20


def to_json(found: Found, topology: Topology) -> dict[str, Any]:
    """Return a plan as JSON has it: bytes, FLOPs and seconds of one chip and one step."""
    chip = {k: v for k, v in dataclasses.asdict(topology.chip).items() if k != "platform"}
    return {
        "topology": topology.name,
        "slices": topology.slices,
        "chips": len(topology.devices),
        "chip": chip,
        "notes": [*topology.notes, *found.asked.run.notes],
        "step": _measured(found.asked),
        "largest_rows_per_chip": found.largest.rows_per_chip if found.largest else None,
        "largest": _measured(found.largest) if found.largest else None,
        "suggestions": [_measured(m) for m in found.suggestions],
        "compilations": found.compilations,
    }


def _measured(plan: Measured) -> dict[str, Any]:
    run = plan.run
    values = {
        "name": run.cfg.name,
        "mesh": dict(run.mesh.shape),
        "remat": run.encoder_cfg.remat,
        "accumulate": run.cfg.accumulate,
        "attention": run.encoder_cfg.attention,
        "rows": {name: s.rows for name, s in run.cfg.streams.items()},
        "rows_per_chip": dict(plan.rows_per_chip),
        "slots_per_step": slots_per_step(run),
        "fits": plan.fits,
        "memory": dict(plan.memory),
        "memory_needed": plan.needed,
        "memory_available": plan.available,
        "flops": dict(plan.flops),
        "flops_analytic": plan.analytic_flops,
        "flops_executed": plan.executed_flops,
        "flops_ratio": sum(plan.flops.values()) / plan.executed_flops if plan.flops else None,
        "hbm_bytes": plan.moved,
        "collectives": [
            dataclasses.asdict(c) | {"inside": s.inside, "outside": s.outside}
            for c, s in zip(plan.collectives, plan.sent, strict=True)
        ],
        "compile_s": round(plan.compile_s, 1),
        "steps": run.steps,
    }
    return values | (rates_of(plan.times, slots_per_step(run), run.steps) if plan.times else {})


def rates_of(times: Times, slots: int, steps: int | None) -> dict[str, Any]:
    """Return what follows from a step's times: seconds, slots a second, hours of so many steps."""
    seconds = {"overlapped": times.overlapped, "in_turn": times.in_turn, "bound": times.bound}
    return {
        "seconds": dataclasses.asdict(times) | seconds,
        "tokens_per_s": slots / times.overlapped,
        "tokens_per_s_in_turn": slots / times.in_turn,
        "hours": steps and steps * times.overlapped / 3600,
        "hours_in_turn": steps and steps * times.in_turn / 3600,
    }


def to_text(found: Found, topology: Topology) -> str:
    """Return a plan as text."""
    plan = found.asked
    run = plan.run
    mesh = " x ".join(f"{name} {size}" for name, size in run.mesh.shape.items() if size > 1)
    slices = f" x {topology.slices} slices" if topology.slices > 1 else ""
    lines = [
        f"{run.cfg.name} on {topology.name}{slices}: {len(topology.devices)} x "
        f"{topology.chip.name}, mesh {mesh or 'of one chip'}",
        *(f"note: {note}" for note in (*topology.notes, *run.notes)),
        f"batch: {_rows(plan)} per chip, {slots_per_step(run):,} slots in all"
        + (f", in {run.cfg.accumulate} microbatches" if run.cfg.accumulate > 1 else ""),
        f"compiled in {plan.compile_s:.0f} s; attention {run.encoder_cfg.attention}, "
        f"remat {run.encoder_cfg.remat}",
        "",
        *_memory(plan),
    ]
    if plan.times:
        lines += ["", *_work(plan, topology)]
    lines += ["", *_batch(found), *_suggestions(found)]
    return "\n".join(lines) + "\n"


def _rows(plan: Measured) -> str:
    streams = plan.run.cfg.streams
    return " + ".join(
        f"{rows} rows of {streams[name].row_length} ({name})"
        for name, rows in plan.rows_per_chip.items()
    )


def _memory(plan: Measured) -> list[str]:
    lines = [f"  {name:<16}{size / GIB:10.3f} GiB" for name, size in plan.memory.items() if size]
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    return [
        "memory of one chip",
        *lines,
        f"  {'in all':<16}{plan.needed / GIB:10.3f} GiB of {plan.available / GIB:.2f}: {verdict}",
    ]


def _work(plan: Measured, topology: Topology) -> list[str]:
    flops, times = sum(plan.flops.values()), plan.times
    lines = [
        "work of one chip in a step",
        f"  FLOPs           {flops / 1e12:10.3f} T ("
        + ", ".join(f"{kind} {n / 1e12:.3f}" for kind, n in plan.flops.items())
        + ")",
        f"  counted by hand {plan.executed_flops / 1e12:10.3f} T, ratio "
        f"{flops / plan.executed_flops:.3f}; the model's own work, nothing twice: "
        f"{plan.analytic_flops / 1e12:.3f} T",
        f"  memory traffic  {plan.moved / GIB:10.2f} GiB",
        "  collectives, the full arrays and what a chip sends of them:",
    ]
    lines += [
        f"    {c.operation:<19}{'+'.join(c.axes):<16}{c.count:>5} x  {c.payload / MIB:10.1f} "
        f"MiB, sends {_ways(sent, topology)}"
        for c, sent in zip(plan.collectives, plan.sent, strict=True)
    ]
    if not plan.collectives:
        lines.append("    none")
    seconds = dataclasses.asdict(times)
    lines += [
        "roofline (bounds from data sheets, if chips and not switches sum up; no forecasts)",
        "  seconds: " + ", ".join(f"{name} {s:.4f}" for name, s in seconds.items()),
        f"  bound by {times.bound}; slots a second {plan.tokens_per_s_in_turn:,.0f} (in turn) to "
        f"{plan.tokens_per_s:,.0f} (all overlapped)",
    ]
    if steps := plan.run.steps:
        lines.append(
            f"  {steps:,} steps: {steps * times.overlapped / 3600:,.2f} to "
            f"{steps * times.in_turn / 3600:,.2f} hours at least"
        )
    return lines


def _ways(sent: Sent, topology: Topology) -> str:
    ways = ("NVLink", "the network between nodes")
    if topology.chip.platform == "tpu":
        ways = ("ICI", "the data centre's network")
    sizes = zip((sent.inside, sent.outside), ways, strict=True)
    return ", ".join(f"{size / MIB:10.1f} MiB over {way}" for size, way in sizes if size)


def _batch(found: Found) -> list[str]:
    if found.largest is None:
        return ["no batch was found that fits: see the suggestions, or raise --search"]
    return [f"largest batch found that fits this layout: {_rows(found.largest)} per chip"]


def _suggestions(found: Found) -> list[str]:
    if not found.suggestions:
        return []
    lines = ["layouts that fit this batch, compiled, fastest bound first:"]
    for m in found.suggestions:
        mesh = m.run.mesh.shape
        lines.append(
            f"  --config.mesh.fsdp={mesh['fsdp']} --config.mesh.tensor={mesh['tensor']} "
            f"--config.encoder.remat={m.run.encoder_cfg.remat} "
            f"--config.accumulate={m.run.cfg.accumulate}: {m.needed / GIB:.2f} GiB, at most "
            f"{m.tokens_per_s:,.0f} slots a second"
        )
    return lines
