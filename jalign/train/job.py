"""Hold what accompanies a run, save it, find where it goes on, and go back after a spike.

A checkpoint serves when its files are sound and it was trained on none of the batches that the
workdir's list leaves out. Going back after a spike is no more than adding to that list and starting
again from the newest checkpoint that serves: a run killed in between ends with the same bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jalign import config
from jalign.errors import ConfigError, SaveFailed
from jalign.train.checkpoint import Checkpoints, check_same_run
from jalign.train.evaluator import Evaluator
from jalign.train.goodput import Ledger
from jalign.train.hang import HangWatch
from jalign.train.log import Log
from jalign.train.run import Run
from jalign.train.run_config import RunConfig
from jalign.train.skipped import Skipped
from jalign.train.stop import StopFlag
from jalign.train.watch import Spike, Watch
from jalign.types import TrainState


@dataclasses.dataclass
class Job:
    """What accompanies a run from its start to its end, over rollbacks."""

    run: Run
    workdir: Path
    checkpoints: Checkpoints
    log: Log
    stop: StopFlag
    skipped: Skipped
    ledger: Ledger
    hang: HangWatch
    watch: Watch
    evaluator: Evaluator | None = None
    compiled: Callable | None = None

    def save(self, step: int, state: TrainState, *, best: bool = False) -> None:
        """Start a save. One that fails is said, tried again, and then left to the next.

        Raises: SaveFailed with several processes, of which the others do not know.
        """
        meta = self.run.facts() | {
            "watch": self.watch.facts(),
            "skipped": self.skipped.ranges,
            "seconds": self.ledger.totals(),
        }
        self.hang.beat(f"save of step {step}")
        with self.ledger.during("save"):
            for _ in range(2):  # the first may tell of the save before
                try:
                    return self.checkpoints.save(step, state, meta, best=best)
                except SaveFailed as error:
                    if jax.process_count() > 1:
                        raise
                    self.log.say(f"{error}. The run goes on meanwhile.")

    def save_and_wait(self, step: int, state: TrainState) -> None:
        """Save and wait until it is done. Raises: SaveFailed where it fails twice."""
        self.save(step, state)
        with self.ledger.during("save"):
            try:
                self.checkpoints.wait()
            except SaveFailed as error:
                if jax.process_count() > 1:
                    raise
                self.log.say(f"{error}. Trying once more.")
                self.save(step, state)
                self.checkpoints.wait()


@dataclasses.dataclass
class Found:
    """Where a run goes on: a checkpoint's step and facts, or 0 and nothing."""

    step: int = 0
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    changed: Sequence[str] = ()
    notes: Sequence[str] = ()


def find(run: Run, checkpoints: Checkpoints, skipped: Skipped) -> Found:
    """Find the checkpoint to go on from, and put the list of skipped batches into effect."""

    def agrees(step: int, meta: Mapping[str, Any]) -> bool:
        return skipped.agrees(step, meta.get("skipped", ()))

    step, notes = checkpoints.sound_step(agrees)
    if step is None:
        found = Found(notes=notes)
    else:
        saved = checkpoints.read_meta(step)
        if "config" not in saved:
            raise ConfigError(
                "this workdir is an imported model, not a run: name it as config.init, and another "
                "--workdir"
            )
        with contextlib.suppress(ConfigError):  # entries that came later stand there as then
            saved["config"] = dataclasses.asdict(config.build(RunConfig, saved["config"]))
        found = Found(step, saved, check_same_run(saved, run.facts()), notes)
    said = skipped.add_by_hand(found.step, found.meta.get("skipped", ()))
    run.source.skipped = skipped.ranges
    return dataclasses.replace(found, notes=[*found.notes, *([said] if said else [])])


def take(run: Run, checkpoints: Checkpoints, watch: Watch, found: Found) -> TrainState:
    """Read, or draw, the state to go on from."""
    watch.resume(found.meta.get("watch", {}))
    if not found.meta:
        return run.init_state()
    return checkpoints.restore(found.step, run.abstract)


def roll_back(job: Job, spike: Spike) -> tuple[TrainState, int]:
    """Return to the checkpoint before a spike, its batches on the list of those left out."""
    job.checkpoints.wait()
    oldest = min(job.checkpoints.steps(), default=0)
    num_steps = max(min(spike.num_steps, spike.step - oldest), 1)
    said = job.skipped.add_spike(spike.step, num_steps, spike.what)
    found = find(job.run, job.checkpoints, job.skipped)
    state = take(job.run, job.checkpoints, job.watch, found)
    job.ledger.roll_back(found.meta.get("seconds"))
    job.log.rewind(found.step)
    if job.evaluator:
        job.evaluator.rewind(found.step)
    job.log.say(
        f"step {spike.step}: {spike.what}. Going back to step {found.step}, {said} (rollback "
        f"{job.skipped.num_rollbacks} of {job.run.cfg.divergence.rollbacks}; "
        f"{job.skipped.path} says what was left out)"
    )
    return state, found.step
