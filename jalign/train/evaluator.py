"""Run the evaluations of a config when they are due, log their results, and know which step was
best; and those of `config.test`, once, when training is over.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from jalign import config, plugin
from jalign.errors import AbsentFiles, ConfigError
from jalign.train.log import Log
from jalign.train.run import Run
from jalign.train.stop import StopFlag
from jalign.train.together import tell
from jalign.types import Aux, EvalSetting, Params, Result, TrainState

Evaluate = Callable[..., Sequence[Result]]


def make_evaluations(
    tasks: Mapping[str, Mapping],
    setting: EvalSetting,
    where: str,
    say: Callable[[str], None],
    *,
    needed: bool = True,
) -> dict[str, Evaluate]:
    """Build the evaluations of a section of a config; `say` what they warn of.

    With `needed=False` those are left out of whose files none is there, unless that is all of them.
    Raises: ConfigError where one cannot work on this data.
    """
    made, absent = {}, []
    with warnings.catch_warnings(record=True) as caught:
        for name, entries in tasks.items():
            try:
                made[name] = _make_evaluation(name, entries, setting, f"{where}.{name}")
            except AbsentFiles as error:
                absent.append(error)
    for warning in caught:
        if warning.category is UserWarning:
            say(str(warning.message))
    if absent and (needed or not made):
        raise absent[0]
    for error in absent:
        say(f"{error}; left out")
    return made


def _make_evaluation(name: str, entries: Mapping, setting: EvalSetting, here: str) -> Evaluate:
    entries = dict(entries)
    try:
        module = plugin.load("evals", entries.pop("kind", name))
        return module.make(config.build(module.Config, entries, here), setting)
    except AbsentFiles as error:
        raise AbsentFiles(f"{here}: {error}") from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{here}: {error}") from error


class Evaluator:
    """The evaluations of one run, built once."""

    def __init__(
        self,
        run: Run,
        workdir: Path,
        log: Log,
        stop: StopFlag,
        beat: Callable[[str], None],
        kept: Callable[[], int | None],
    ) -> None:
        """Build every evaluation once; `beat` is told of every result that comes; `kept` says of
        which step the best model is that has been kept.

        Raises: ConfigError where one cannot work on this data.
        """
        self.cfg, self.steps, self.log, self.stop = run.cfg.evaluate, run.cfg.steps, log, stop
        self.beat, self.kept = beat, kept
        self.path = workdir / "results.jsonl"
        tasks = self.cfg.tasks if self.cfg.every else {}
        self.tasks = make_evaluations(tasks, run.setting, "config.evaluate.tasks", log.say)
        tests = run.cfg.test
        self.tests = make_evaluations(tests, run.setting, "config.test", log.say, needed=False)
        self.history: dict[int, dict[str, float]] = {}
        self.tested: set[tuple[int, str]] = set()  # step, name of the test
        self._read()

    def _read(self) -> None:
        there = jax.process_index() == 0 and self.path.exists()
        lines = self.path.read_text(encoding="utf-8").splitlines() if there else []
        for r in map(json.loads, tell(lines)):
            if r["task"] == "goodput":  # of the run, not of its model
                continue
            if "test" in r:
                self.tested.add((r["step"], r["test"]))
            else:
                scores = self.history.setdefault(r["step"], {})
                scores[f"{r['task']}/{r['metric']}/{r['lang']}"] = r["value"]

    def rewind(self, step: int) -> None:
        """Forget what was measured after a step that the run goes on from."""
        self.history = {s: scores for s, scores in self.history.items() if s <= step}
        self.tested = {(s, name) for s, name in self.tested if s <= step}

    def is_due(self, step: int) -> bool:
        """Say whether to evaluate after this step: every so many, and at the end."""
        return bool(self.tasks) and (step % self.cfg.every == 0 or step == self.steps)

    def catch_up(self, start: int, state: TrainState) -> bool:
        """Evaluate what is due at the start, the untrained model, or the step at which a kill cut
        evaluation off; return whether this is better than the model that is kept.
        """
        wanted = self.cfg.at_start and bool(self.tasks) if start == 0 else self.is_due(start)
        if start in self.history:
            return self._is_better(start)
        return wanted and self.run_all(start, state)

    def run_all(self, step: int, state: TrainState) -> bool:
        """Evaluate and log; return whether this is better than the model that is kept.

        A stop that is asked for cuts it short.
        """
        begin = time.perf_counter()
        results = self._run(self.tasks, state.params, state.aux)
        if results is None:
            return False
        self.log.results(step, [r._asdict() for r in results])
        scores = {f"{r.task}/{r.metric}/{r.lang}": r.value for r in results}
        self.log.say(f"step {step} evaluated {_said(begin, scores)}")
        if self.cfg.best and self.cfg.best not in scores:
            raise ConfigError(
                f"config.evaluate.best={self.cfg.best!r} is not among the scores {sorted(scores)}"
            )
        self.history[step] = tell(scores)
        return self._is_better(step)

    def _is_better(self, step: int) -> bool:
        """Compare with what is kept, which need not be the best: a kill or a full disk may have cut
        its save short.
        """
        best = self.cfg.best
        if best not in self.history[step]:
            return False
        return self.history[step][best] > self.history.get(self.kept(), {}).get(best, -math.inf)

    def _run(self, tasks: Mapping[str, Evaluate], params: Params, aux: Aux) -> list[Result] | None:
        """Return all results, None where a stop was asked for."""
        results = []
        for name, evaluate in tasks.items():
            self.beat(f"evaluation {name}")
            for result in evaluate(params, aux):
                results.append(result)
                self.beat(f"evaluation {name}")
                if self.stop.agreed():
                    return None
        return results

    def out_of_patience(self) -> str:
        """Say why the run has gone on long enough without a new best; "" where it has not."""
        scores = {n: s[self.cfg.best] for n, s in self.history.items() if self.cfg.best in s}
        if not self.cfg.patience or not scores:
            return ""
        best = max(sorted(scores), key=scores.__getitem__)  # of equal ones the first
        since = sum(step > best for step in scores)
        if since < self.cfg.patience:
            return ""
        return f"{since} evaluations without more than {self.cfg.best} {scores[best]:.4f} of {best}"

    def tests_left(self, step: int) -> list[str]:
        """Return the names of the tests that this step's model has not taken yet."""
        return [name for name in self.tests if (step, name) not in self.tested]

    def test(self, step: int, params: Params, aux: Aux) -> bool:
        """Take the tests that are left; return whether all are taken, not cut short by a stop."""
        for name in self.tests_left(step):
            begin = time.perf_counter()
            results = self._run({name: self.tests[name]}, params, aux)
            if results is None:
                return False
            self.log.results(step, [r._asdict() for r in results], test=name)
            self.tested.add((step, name))
            scores = {f"{r.task}/{r.metric}/{r.lang}": r.value for r in results}
            self.log.say(f"test {name}, model of step {step}, {_said(begin, scores)}")
        return True


def _said(begin: float, scores: Mapping[str, float]) -> str:
    main = [f"{n} {value:.4f}" for n, value in scores.items() if n.endswith(("/avg", "/all"))]
    return f"in {time.perf_counter() - begin:.1f} s: {', '.join(main)}"
