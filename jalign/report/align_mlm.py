"""Report the ALIGN-MLM study: does the alignment of embeddings go with zero-shot transfer?

In: the folder of launch/align_mlm_study.sh, seedN/OBJECTIVE/TRANSFORMATION/ with results.jsonl of
pretrain, TASK.zero and TASK.supervised. Out: one table, Spearman's rho of alignment and transfer
gap with intervals, and the paper's statements with our numbers. The gap is the supervised score
less the zero-shot one (methods.md 2.7).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jalign.errors import BadData, ConfigError
from jalign.metrics.correlation import Interval, bootstrap_interval, fisher_interval, spearman

OBJECTIVES = ("mlm", "xlm", "dict_mlm", "align_mlm")
TITLES = {"mlm": "MLM", "xlm": "XLM", "dict_mlm": "DICT-MLM", "align_mlm": "ALIGN-MLM"}
METRIC = "f1"
ALIGNMENT = "embedding_alignment/cosine"


class Cell(NamedTuple):
    """Scores of an objective on a derived language, per cent, a list of one value per seed each.

    `alignment`: all and held_out; `zero`, `supervised`: by task; `source`: on English, zero-shot.
    """

    objective: str
    transformation: str
    alignment: Mapping[str, list[float]]
    zero: Mapping[str, list[float]]
    supervised: Mapping[str, list[float]]
    source: Mapping[str, list[float]]

    def gap(self, task: str) -> float | None:
        """Return the mean supervised score less the mean zero-shot one."""
        if not (self.zero.get(task) and self.supervised.get(task)):
            return None
        return statistics.fmean(self.supervised[task]) - statistics.fmean(self.zero[task])


class Correlation(NamedTuple):
    """Spearman's rho of alignment and gap over the cells of a task, with intervals."""

    task: str
    num_cells: int
    rho: float
    bootstrap: Interval
    fisher: Interval


class Study(NamedTuple):
    """The cells that there are, the tasks, and what holds of them."""

    cells: Sequence[Cell]
    tasks: Sequence[str]
    correlations: Sequence[Correlation]


def read_study(folder: Path) -> Study:
    """Read a study. Raises: ConfigError where there is none, BadData for a broken file."""
    places: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(folder.glob("seed*/*/*")):
        if (path / "pretrain" / "results.jsonl").is_file():
            places.setdefault((path.parent.name, path.name), []).append(path)
    if not places:
        raise ConfigError(
            f"{folder} has no seed0/OBJECTIVE/TRANSFORMATION/pretrain/results.jsonl: run "
            "launch/align_mlm_study.sh"
        )
    order = sorted(places, key=_rank)
    cells = [_read_cell(*key, places[key]) for key in order]
    tasks = list(dict.fromkeys(task for cell in cells for task in cell.zero))
    return Study(cells, tasks, list(_correlations(cells, tasks)))


def _rank(key: tuple[str, str]) -> tuple:
    objective, transformation = key
    known = OBJECTIVES.index(objective) if objective in OBJECTIVES else len(OBJECTIVES)
    return known, objective, len(transformation), transformation


def _read_cell(objective: str, transformation: str, paths: Sequence[Path]) -> Cell:
    cell = Cell(objective, transformation, {}, {}, {}, {})
    for path in paths:
        found = _scores(path / "pretrain")
        for metric in ("all", "held_out"):
            values = [v for (task, _, m), v in found.items() if (task, m) == (ALIGNMENT, metric)]
            if values:  # the first direction is from the original, as the paper's
                cell.alignment.setdefault(metric, []).append(values[0])
        for kind, scores in (("zero", cell.zero), ("supervised", cell.supervised)):
            for run in sorted(path.glob(f"*.{kind}")):
                task = run.name.removesuffix(f".{kind}")
                for (name, lang, metric), value in _scores(run).items():
                    if (name, metric) != (task, METRIC) or lang == "avg":
                        continue
                    into = cell.source if lang == "en" else scores
                    into.setdefault(task, []).append(value)
    return cell


def _scores(run: Path) -> dict[tuple[str, str, str], float]:
    """Return the last scores of a run, per cent; none where it has not ended yet."""
    path = run / "results.jsonl"
    if not path.is_file():
        return {}
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {(r["task"], r["lang"], r["metric"]): 100 * r["value"] for r in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise BadData(f"{path} is broken ({error!r}): delete it, and run it again") from error


def points(cells: Sequence[Cell], task: str) -> list[tuple[Cell, float, float]]:
    """Return (cell, alignment, gap) of the cells that have both."""
    found = []
    for cell in cells:
        gap, aligned = cell.gap(task), cell.alignment.get("all")
        if gap is not None and aligned:
            found.append((cell, statistics.fmean(aligned), gap))
    return found


def _correlations(cells: Sequence[Cell], tasks: Sequence[str]) -> Iterator[Correlation]:
    for task in tasks:
        _, x, y = zip(*points(cells, task), strict=True) if points(cells, task) else ((), (), ())
        if len(x) >= 4 and len(set(x)) > 1 and len(set(y)) > 1:
            rho = spearman(x, y)
            fisher = fisher_interval(rho, len(x), ranks=True)
            yield Correlation(task, len(x), rho, bootstrap_interval(x, y), fisher)


def markdown(study: Study) -> str:
    """Write the table, the correlations and the comparison as Markdown."""
    head = ["objective", "transformation", "alignment", "held out"]
    for task in study.tasks:
        head += [f"{task} {what}" for what in ("en", "supervised", "zero-shot", "gap")]
    text = "| " + " | ".join(head) + " |\n| --- | --- |" + " ---: |" * (len(head) - 2) + "\n"
    for cell in study.cells:
        row = [TITLES.get(cell.objective, cell.objective), cell.transformation]
        row += [_cell(cell.alignment.get(metric)) for metric in ("all", "held_out")]
        for task in study.tasks:
            gap = cell.gap(task)
            row += [_cell(scores.get(task)) for scores in (cell.source, cell.supervised, cell.zero)]
            row.append("" if gap is None else f"{gap:.1f}")
        text += "| " + " | ".join(row) + " |\n"
    seeds = max((len(v) for cell in study.cells for v in cell.alignment.values()), default=0)
    spread = "" if seeds < 2 else f"; ± is the standard deviation of up to {seeds} seeds"
    text += (
        f"\nPer cent; F1; gap = supervised - zero-shot, both on the derived language{spread}.\n\n"
    )
    for c in study.correlations:
        text += (
            f"- **{c.task}: Spearman's rho of alignment and gap {c.rho:+.3f}** over {c.num_cells} "
            f"cells; 95 % interval {c.bootstrap.low:+.2f} to {c.bootstrap.high:+.2f} (bootstrap), "
            f"{c.fisher.low:+.2f} to {c.fisher.high:+.2f} (Fisher). Published: -0.73 to -0.78.\n"
        )
    return text + "".join(_headline(study))


def _cell(values: Sequence[float] | None) -> str:
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.1f}"
    return mean + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def _headline(study: Study) -> Iterator[str]:
    """Compare ALIGN-MLM's zero-shot score with the others', as the paper's abstract does."""
    of = {(cell.objective, cell.transformation): cell for cell in study.cells}
    for task in study.tasks:
        for name in dict.fromkeys(cell.transformation for cell in study.cells):
            mine = of.get(("align_mlm", name))
            if mine is None or not mine.zero.get(task):
                continue
            said = []
            for other in OBJECTIVES[:3]:
                cell = of.get((other, name))
                if cell is not None and cell.zero.get(task):
                    gain = statistics.fmean(mine.zero[task]) - statistics.fmean(cell.zero[task])
                    said.append(f"{TITLES[other]} by {gain:+.1f}")
            if said:
                yield (
                    f"- {task}, {name}, zero-shot: ALIGN-MLM against {', '.join(said)} points."
                    + (" Published: MLM +35.5, XLM +30.2, DICT-MLM +16.0." * (
                        (task, name) == ("pos", "trans+inv"))) + "\n"
                )  # fmt: skip


def to_json(study: Study) -> dict[str, Any]:
    """Return the study as JSON."""
    return {
        "cells": [cell._asdict() for cell in study.cells],
        "correlations": [
            c._asdict() | {"bootstrap": c.bootstrap._asdict(), "fisher": c.fisher._asdict()}
            for c in study.correlations
        ],
    }
