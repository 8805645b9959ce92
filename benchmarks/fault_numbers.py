"""Faults of numbers and of the loader, and the goodput of a run that is killed again and again."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import fault_inside
from benchmarks.fault_cases import Case, judge
from benchmarks.fault_runs import Bench, losses

# A failure every 900 s stands for one every 2.5 h: ten times as often. What starting Python and
# compiling cost is not scaled down, the interval between checkpoints (40 short steps) is.
MTBF_S, FAILURES = 900.0, 2


def skipped_batches(workdir: Path) -> str:
    """Return what a run left out, as --skip_batches takes it."""
    entries = json.loads((workdir / "skipped.json").read_text())
    return ",".join(f"{b}-{e - 1}" for b, e in (entry["batches"] for entry in entries))


def nan(bench: Bench) -> Iterator[Case]:
    """NaN in a loss, in a gradient, in a parameter: go back, leave the batch out, and end as a run
    does that never saw it.
    """
    for what, inside in (
        ("loss", fault_inside.nan_in_loss),
        ("gradient", fault_inside.nan_in_gradient),
        ("one parameter", fault_inside.nan_in_parameter),
    ):
        flag = "--config.divergence.rollbacks=1"
        run = bench.start(bench.new("nan"), flag, inside=inside, pace_s=0)
        run.finish()
        skip = f"--skip_batches={skipped_batches(run.workdir)}"
        # The same program, so that bits can be compared; without the fault that strikes once.
        same = inside if inside is not fault_inside.nan_in_parameter else None
        by_hand = bench.start(bench.new("by_hand"), skip, inside=same, pace_s=0)
        by_hand.finish()
        reference = losses(by_hand.workdir)
        note = skip.replace("--skip_batches=", "left out batches ")
        yield judge(bench, f"NaN in {what}", run, reference=reference, note=note)
    run = bench.start(bench.new("nan"), inside=fault_inside.nan_in_loss, pace_s=0)
    code = run.finish()
    good = code == 4 and "loss of tlm is not finite" in run.said()
    yield Case("NaN in loss, no rollbacks", good, wrong=code == 0, note=f"exit code {code}")


def lr_x_100(bench: Bench) -> Iterator[Case]:
    """A learning rate of a hundred times what works, which so small an encoder does with 0.3: the
    run stops, and says so.
    """
    flags = ("--config.optimizer.lr=30.0", "--config.divergence.window=5")
    run = bench.start(bench.new("lr"), *flags, pace_s=0)
    code = run.finish()
    good = code == 4 and (run.workdir / "diverged.json").exists() and "rose from" in run.said()
    note = f"exit code {code}" + ("" if good else f" ({run.log})")
    yield Case("learning rate x 100", good, wrong=code == 0, note=note)


def loader(bench: Bench) -> Iterator[Case]:
    """The loader's thread fails (there are no worker processes to kill)."""
    run = bench.start(bench.new("loader"), inside=fault_inside.broken_loader)
    code = run.finish()
    again = bench.start(run.workdir)
    yield judge(bench, "loader fails", again, also=code == 1, note=f"exit code {code}")


def goodput(bench: Bench) -> Iterator[Case]:
    """Kill a run every `MTBF_S` seconds or so, start it again at once, and read its goodput.

    Its steps compute, for a tenth of a second or so: a loader that sleeps would be input wait.
    """
    rng, workdir = random.Random(0), bench.new("goodput")
    shape = dict(hidden=128, heads=4, mlp=512, layers=4)
    flags = [
        *(f"--config.encoder.{name}={size}" for name, size in shape.items()),
        "--config.streams.pair.rows=32",
        "--config.steps=100000",
        "--config.checkpoint_every=40",
        "--config.log_every=20",
    ]
    env = {"JAX_COMPILATION_CACHE_DIR": str(bench.root / "jax_cache")}
    begin = time.time()
    for _ in range(FAILURES):
        run = bench.start(workdir, *flags, env=env, pace_s=0)
        until = time.monotonic() + MTBF_S * rng.uniform(0.7, 1.3)
        run.wait_for(lambda until=until: time.monotonic() > until, 2 * MTBF_S)
        run.send(signal.SIGKILL)
        run.finish()
    run = bench.start(workdir, *flags, env=env, pace_s=0)
    run.wait_for(lambda: "resuming at step" in run.said() and "| goodput" in run.said())
    run.send(signal.SIGTERM)
    code = run.finish()
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    share = json.loads(lines[-1])["goodput"]
    note = f"goodput {share:.4f} over {time.time() - begin:.0f} s with {FAILURES} failures"
    yield Case("goodput with failures", code == 143 and share >= 0.97, note=note)
