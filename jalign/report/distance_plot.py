"""Draw the distances of a study's states: histograms, and what fine-tuning forgets."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jalign.errors import ConfigError, UserError
from jalign.report.adjustment import ROWS, STATES, TITLES, Study, seed_files

SIDES = {"related": "tab:blue", "unrelated": "tab:orange"}
BINS = 50


def read_histograms(folder: Path) -> dict[str, Any]:
    """Return {state: {set: {kind: counts}}} of the states that have them; a seed's sets are sets of
    their own.

    Raises: ConfigError where there are none.
    """
    found: dict[str, Any] = {}
    for name in STATES:
        for i, path in enumerate(seed_files(folder / name, "histograms.json")):
            sets = json.loads(path.read_text(encoding="utf-8"))
            found.setdefault(name, {}).update({(one, i): kinds for one, kinds in sets.items()})
    if not found:
        raise ConfigError(f"no state in {folder} has a histograms.json: run launch/adjust_study.sh")
    return found


def joined(sets: Mapping[Hashable, Any], kind: str, name: str, edges: np.ndarray) -> np.ndarray:
    """Return the density of a state's distances over all its sets, each with the same weight."""
    total = np.zeros(edges.size - 1)
    for kinds in sets.values():
        counts = np.array(kinds[kind][name], float)
        own = np.array(kinds[kind]["difference_edges" if name == "difference" else "edges"])
        middle = (own[1:] + own[:-1]) / 2
        total += np.histogram(middle, edges, weights=counts / counts.sum())[0]
    return total / len(sets) / np.diff(edges)


def shared_edges(found: Mapping[str, Any], kind: str, field: str) -> np.ndarray:
    """Return bin edges that hold the distances of all states and sets."""
    every = [kinds[kind][field] for sets in found.values() for kinds in sets.values()]
    return np.linspace(min(map(min, every)), max(map(max, every)), BINS + 1)


def draw(study: Study, folder: Path, path: Path, *, kind: str = "relative") -> None:
    """Draw a column per state: both distances, their paired difference; below, scores by state.

    Raises: UserError where matplotlib is missing, ConfigError where there are no histograms.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("no picture: matplotlib is missing; type pip install matplotlib") from error
    found = read_histograms(folder)
    shown = [name for name in STATES if name in found]
    figure = Figure(figsize=(3.2 * len(shown), 9), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, len(shown))
    edges = {
        "distance": shared_edges(found, kind, "edges"),
        "difference": shared_edges(found, kind, "difference_edges"),
    }
    first: dict[int, Any] = {}
    for column, name in enumerate(shown):
        for row, names in ((0, tuple(SIDES)), (1, ("difference",))):
            axes = figure.add_subplot(grid[row, column], sharey=first.get(row))
            first.setdefault(row, axes)
            at = edges["difference" if row else "distance"]
            for side in names:
                density = joined(found[name], kind, side, at)
                axes.stairs(density, at, fill=True, alpha=0.5, label=side,
                            color=SIDES.get(side, "tab:green"))  # fmt: skip
            axes.set_title(TITLES[STATES.index(name)] if row == 0 else "")
            axes.set_xlabel(f"{'paired difference' if row else 'distance'} ({kind})")
            if row:
                axes.axvline(0.0, color="black", linewidth=0.8)
    first[0].legend()
    _scores(study, figure.add_subplot(grid[2, :]), shown)
    figure.savefig(path, dpi=110)


def _scores(study: Study, axes: Any, shown: list[str]) -> None:
    """Draw the scores between 0 and 1 of every state as bars."""
    rows = [(task, metric, title) for task, metric, title in ROWS if metric in ("auc", "accuracy")]
    rows += [(task, metric, f"{task} {metric}") for task, metric in study.tasks.items()]
    states = [study.states[name] for name in shown if name in study.states]
    rows = [row for row in rows if any(s.value(*row[:2]) is not None for s in states)]
    width = 0.8 / len(states)
    for k, state in enumerate(states):
        values = [state.value(task, metric) for task, metric, _ in rows]
        x = np.arange(len(rows)) + k * width
        heights = [np.nan if value is None else value for value in values]
        axes.bar(x, heights, width, label=TITLES[STATES.index(state.name)])
    axes.set_xticks(np.arange(len(rows)) + 0.4 - width / 2, [title for *_, title in rows])
    axes.set_xlim(-0.4, len(rows) - 0.2)
    axes.set_ylim(0, 1.15)  # room for the legend
    axes.legend(ncols=len(shown), loc="upper center")
