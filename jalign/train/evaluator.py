"""Run the evaluations of a config when they are due, log their results, and know which step was
best.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

from jalign import config, plugin
from jalign.errors import ConfigError
from jalign.train.log import Log
from jalign.train.run import Run
from jalign.train.stop import StopFlag
from jalign.types import TrainState


class Evaluator:
    """The evaluations of one run, built once."""

    def __init__(self, run: Run, workdir: Path, log: Log, stop: StopFlag) -> None:
        """Build every evaluation once. Raises: ConfigError where one cannot work on this data."""
        self.cfg, self.steps, self.log, self.stop = run.cfg.evaluate, run.cfg.steps, log, stop
        self.path = workdir / "results.jsonl"
        self.tasks = {}
        for name, entries in self.cfg.tasks.items() if self.cfg.every else ():
            module = plugin.load("evals", name)
            try:
                self.tasks[name] = module.make(
                    config.build(module.Config, entries, f"config.evaluate.tasks.{name}"),
                    run.setting,
                )
            except ValueError as error:
                raise ConfigError(f"config.evaluate.tasks.{name}: {error}") from error
        self.history = self._read()

    def _read(self) -> dict[int, dict[str, float]]:
        history: dict[int, dict[str, float]] = {}
        for line in (
            self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ()
        ):
            r = json.loads(line)
            history.setdefault(r["step"], {})[f"{r['task']}/{r['metric']}/{r['lang']}"] = r["value"]
        return history

    def is_due(self, step: int) -> bool:
        """Say whether to evaluate after this step: every so many, and at the end."""
        return bool(self.tasks) and (step % self.cfg.every == 0 or step == self.steps)

    def catch_up(self, start: int, state: TrainState) -> None:
        """Evaluate what is due at the start: the untrained model, or the step at which a kill cut
        evaluation off.
        """
        wanted = self.cfg.at_start and bool(self.tasks) if start == 0 else self.is_due(start)
        if wanted and start not in self.history:
            self.run_all(start, state)

    def run_all(self, step: int, state: TrainState) -> bool:
        """Evaluate and log; return whether this is the best so far.

        A stop that is asked for cuts it short.
        """
        begin, results = time.perf_counter(), []
        for evaluate in self.tasks.values():
            for result in evaluate(state.params, state.aux):
                results.append(result)
                if self.stop.agreed():
                    return False
        self.log.results(step, [r._asdict() for r in results])
        scores = {f"{r.task}/{r.metric}/{r.lang}": r.value for r in results}
        main = [
            f"{name} {value:.4f}"
            for name, value in scores.items()
            if name.endswith(("/avg", "/all"))
        ]
        self.log.say(
            f"step {step} evaluated in {time.perf_counter() - begin:.1f} s: {', '.join(main)}"
        )
        if self.cfg.best and self.cfg.best not in scores:
            raise ConfigError(
                f"config.evaluate.best={self.cfg.best!r} is not among the scores {sorted(scores)}"
            )
        earlier = [s[self.cfg.best] for s in self.history.values() if self.cfg.best in s]
        self.history[step] = scores
        return bool(self.cfg.best) and scores[self.cfg.best] > max(earlier, default=-math.inf)
