"""Gather the final scores of runs from their results.jsonl: by seed, averaged, as a table.

In: workdirs. Out: for every task, metric and language the mean over the seeds and its spread.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Score(NamedTuple):
    """One score over seeds: the values in the order of `seeds`; `steps` of the models."""

    task: str
    lang: str
    metric: str
    values: tuple[float, ...]
    n: int
    seeds: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Return the mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float:
        """Return the standard deviation (n - 1); NaN where there is one seed only."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    def line(self) -> dict[str, Any]:
        """Return the record for results.jsonl."""
        return {
            "task": self.task,
            "lang": self.lang,
            "metric": self.metric,
            "value": self.mean,
            "n": self.n,
            "sd": self.sd if len(self.values) > 1 else None,
            "seeds": list(self.seeds),
            "values": list(self.values),
            "step": max(self.steps),
        }


def final_lines(workdir: Path, best: str = "") -> list[dict[str, Any]]:
    """Return the lines that a run ends with: of its tests, else of the step with the best `best`,
    else of the last step that was evaluated.
    """
    path = workdir / "results.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [r for r in map(json.loads, text.splitlines()) if r["task"] != "goodput"]
    tests = [r for r in lines if "test" in r]
    if tests:  # a run that went on after its tests was tested again
        return [r for r in tests if r["step"] == tests[-1]["step"]]
    ranked = [r for r in lines if f"{r['task']}/{r['metric']}/{r['lang']}" == best] or lines[-1:]
    step = max(ranked, key=lambda r: r["value"])["step"] if ranked else None
    return [r for r in lines if r["step"] == step]


def gather(runs: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[Score]:
    """Join the final lines of each seed's run, in the order in which they first stand."""
    found: dict[tuple, dict[int, Mapping[str, Any]]] = {}
    for seed, lines in runs.items():
        for r in lines:
            found.setdefault((r["task"], r["lang"], r["metric"]), {})[seed] = r
    return [
        Score(
            *key,
            tuple(r["value"] for r in by_seed.values()),
            max(r["n"] for r in by_seed.values()),
            tuple(by_seed),
            tuple(r["step"] for r in by_seed.values()),
        )
        for key, by_seed in found.items()
    ]


def _cell(score: Score) -> str:
    if score.metric == "loss":
        return f"{score.mean:.4f}" + (f" ± {score.sd:.4f}" if len(score.values) > 1 else "")
    return f"{100 * score.mean:.1f}" + (f" ± {100 * score.sd:.1f}" if len(score.values) > 1 else "")


def table(scores: Sequence[Score], cell: Callable[[Score], str] = _cell) -> str:
    """Write a line per task and metric, a column per language; per cent but for losses."""
    text = ""
    for task in dict.fromkeys(s.task for s in scores):
        mine = [s for s in scores if s.task == task]
        langs = list(dict.fromkeys(s.lang for s in mine))
        metrics = list(dict.fromkeys(s.metric for s in mine))
        cells = {(s.metric, s.lang): cell(s) for s in mine}
        wide = max(8, *(len(x) + 2 for x in (*langs, *cells.values())))
        first = max(map(len, (task, *metrics))) + 2
        text += "\n" + task.ljust(first) + "".join(lang.rjust(wide) for lang in langs) + "\n"
        for metric in metrics:
            row = (cells.get((metric, lang), "").rjust(wide) for lang in langs)
            text += metric.ljust(first) + "".join(row) + "\n"
    return text
