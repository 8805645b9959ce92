"""Race competitors on a machine that others use too: rounds A B A B, a process for each turn.

A competitor is a command that prints, as its last line, one JSON object {"steps": [{"seconds",
"cpu", "work", "others"}, …], …}; `Stopwatch` makes the items. In: competitors. Out: medians of
work per second, ratios, machine facts; JSON and a table.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from jalign.cli._memory import TUNABLES

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = ("jax", "flax", "optax", "torch", "transformers", "numpy", "grain")
# The allocator that `jalign pretrain` asks for, for every competitor alike.
ALLOCATOR = ":".join(f"{name}={value}" for name, value in TUNABLES.items())
QUIET = 0.1  # a step counts as undisturbed while other processes use less than this many cores


class Stopwatch:
    """Time a piece of work and how many cores other processes used meanwhile."""

    def __init__(self) -> None:
        self.steps: list[dict] = []

    @staticmethod
    def _busy() -> float:
        times = psutil.cpu_times()
        return times.user + times.nice + times.system

    def time(self, work: float, call) -> None:
        """Run `call()`, which returns when its results exist, and note `work` done."""
        self.begin()
        call()
        self.end(work)

    def begin(self) -> None:
        """Start a piece of work."""
        self._begun = self._busy(), time.process_time(), time.perf_counter()

    def end(self, work: float) -> None:
        """End the piece that was begun, and note `work` done."""
        busy, own, start = self._begun
        seconds = time.perf_counter() - start
        cpu = time.process_time() - own
        others = max(0.0, (self._busy() - busy - cpu) / seconds)
        self.steps.append({"seconds": seconds, "cpu": cpu, "work": work, "others": others})

    def finish(self, **facts) -> None:
        """Print what the race reads: the last line of a competitor's output."""
        peak = psutil.Process().memory_info()
        peak_gib = getattr(peak, "peak_wset", 0) or _peak_rss()
        sys.stdout.write(
            json.dumps({"steps": self.steps, "peak_gib": peak_gib / 2**30, **facts}) + "\n"
        )


def _peak_rss() -> int:
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


@dataclass(frozen=True)
class Competitor:
    """A name for the table and the arguments after `python`."""

    name: str
    args: tuple[str, ...]


def use_cores(num: int) -> None:
    """Keep this process and its children to `num` cores, where the system can (0: all)."""
    if num and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num])


def run_turn(competitor: Competitor) -> dict:
    """Run one competitor once and return the JSON object that it printed last."""
    done = subprocess.run(
        [sys.executable, *competitor.args],
        cwd=ROOT,
        env={"GLIBC_TUNABLES": ALLOCATOR} | os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {
            "steps": [],
            "error": said[-1][:300],
        }
    return json.loads(done.stdout.strip().splitlines()[-1])


def rate(steps: list[dict]) -> dict:
    """Return the median of work per second, of undisturbed steps where there are three."""
    rates = [s["work"] / s["seconds"] for s in steps]
    by_cpu = [s["work"] / s["cpu"] for s in steps]
    quiet = [s["work"] / s["seconds"] for s in steps if s["others"] < QUIET]
    chosen = quiet if len(quiet) >= 3 else rates
    spread = (max(chosen) - min(chosen)) / statistics.median(chosen) if chosen else 0.0
    return {
        "rate": statistics.median(chosen) if chosen else None,
        "rate_cpu": statistics.median(by_cpu) if by_cpu else None,
        "steps": len(rates),
        "quiet": len(quiet),
        "spread": spread,
    }


def take_turns(
    names: Iterable[str], rounds: int, take: Callable[[str], dict]
) -> dict[str, list[dict]]:
    """Give every name one turn per round, `take(name)`; return the turns of each."""
    turns: dict[str, list[dict]] = {name: [] for name in names}
    for number in range(rounds):
        for name, taken in turns.items():
            taken.append(take(name))
            note = taken[-1].get("error") or f"{rate(taken[-1]['steps'])['rate']:,.1f}/s"
            sys.stderr.write(f"round {number + 1}/{rounds}  {name}: {note}\n")
    return turns


def joined(turns: Mapping[str, list[dict]], key: str = "steps") -> dict[str, dict]:
    """Return {name: rate, peak and samples} of the steps under `key`, and the first error."""
    out = {}
    for name, runs in turns.items():
        steps = [step for run in runs for step in run.get(key, [])]
        peak = max((run.get("peak_gib", 0.0) for run in runs), default=0.0)
        errors = [{"error": run["error"]} for run in runs if "error" in run][:1]
        out[name] = {**rate(steps), "peak_gib": peak, "samples": steps} | dict(*errors)
    return out


def run_race(competitors: list[Competitor], rounds: int) -> dict:
    """Give every competitor one turn per round; return {name: rate and facts}."""
    by_name = {c.name: c for c in competitors}
    turns = take_turns(by_name, rounds, lambda name: run_turn(by_name[name]))
    out = joined(turns)
    for name, runs in turns.items():
        out[name] |= {
            k: v for run in runs for k, v in run.items() if k not in ("steps", "peak_gib")
        }
    return out


def gemm_competitors() -> list[Competitor]:
    """Return one float32 matrix product in each library: what the machine gave in this race."""
    return [
        Competitor(f"sgemm {lib} (FLOP/s)", ("-m", "benchmarks.race", "--gemm", lib))
        for lib in ("numpy", "torch", "jax")
    ]


def machine_facts() -> dict:
    """Say what was measured on what."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), cpu)
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "versions": versions,
        "commit": _git("rev-parse", "--short", "HEAD"),
        "dirty": bool(
            _git("status", "--porcelain", "--untracked-files=no", "--", "jalign", "benchmarks/*.py")
        ),
        "date": time.strftime("%Y-%m-%d"),
    }


def _git(*args: str) -> str:
    done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def write_result(name: str, settings: dict, results: dict) -> Path:
    """Write a race's results, their samples rounded, as `write_json` does."""
    for result in results.values():
        result["samples"] = [
            {k: round(v, 4) for k, v in s.items()} for s in result.get("samples", [])
        ]
    return write_json(name, settings, results)


def write_json(name: str, settings: dict, results: dict) -> Path:
    """Write settings, machine and results as they are to benchmarks/results/<name>.json."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {"settings": settings, "machine": machine_facts(), "results": results}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def table(results: dict, unit: str, reference: str | None = None) -> str:
    """Write results as a Markdown table; `reference` adds the ratio of its rate to each other's."""
    ours = results[reference] if reference else None
    lines = [
        f"| | {unit} | ours / this | per CPU second | fill | peak GiB | steps (undisturbed) |",
        "| --- " + "| ---: " * 6 + "|",
    ]
    for name, r in results.items():
        if r["rate"] is None:
            lines.append(f"| {name} | failed: {r.get('error', '')} | | | | | |")
            continue
        gemm = name.startswith("sgemm")
        cells = [
            name,
            f"{r['rate'] / 1e9:.0f} G" if gemm else f"{r['rate']:,.0f}",
            f"{ours['rate'] / r['rate']:.2f}" if ours and not gemm else "",
            f"{ours['rate_cpu'] / r['rate_cpu']:.2f}" if ours and not gemm else "",
            f"{r['fill']:.3f}" if "fill" in r else "",
            f"{r['peak_gib']:.1f}",
            f"{r['steps']} ({r['quiet']})",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _gemm(lib: str, n: int = 1536, seconds: float = 1.5) -> None:
    if lib == "numpy":
        import numpy as np

        a = np.ones((n, n), np.float32)
        call = lambda: a @ a  # noqa: E731
    elif lib == "torch":
        import torch

        a = torch.ones(n, n)
        call = lambda: a @ a  # noqa: E731
    else:
        import jax
        import jax.numpy as jnp

        a, dot = jnp.ones((n, n)), jax.jit(jnp.dot)
        call = lambda: dot(a, a).block_until_ready()  # noqa: E731
    call()
    watch, end = Stopwatch(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        watch.time(3 * 2 * n**3, lambda: [call() for _ in range(3)])
    watch.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--gemm", required=True, choices=("numpy", "torch", "jax"))
    _gemm(parser.parse_args().gemm)
