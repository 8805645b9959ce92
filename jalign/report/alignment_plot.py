"""Draw alignment against transfer gap, a point per cell of the ALIGN-MLM study."""

from __future__ import annotations

from pathlib import Path

from jalign.errors import ConfigError, UserError
from jalign.report.align_mlm import OBJECTIVES, TITLES, Study, points

MARKERS = "osD^vP*X"


def draw(study: Study, path: Path) -> None:
    """Write the picture; the colour is the objective, the form the transformation.

    Raises: UserError where matplotlib is missing, ConfigError where no cell has both numbers.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("no picture: matplotlib is missing; type pip install matplotlib") from error
    tasks = [task for task in study.tasks if points(study.cells, task)]
    if not tasks:
        raise ConfigError("no picture: no cell has both an alignment and a transfer gap yet")
    names = list(dict.fromkeys(cell.transformation for cell in study.cells))
    figure = Figure(figsize=(5.5 * len(tasks), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    rho = {c.task: c.rho for c in study.correlations}
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for cell, aligned, gap in points(study.cells, task):
            known = cell.objective in OBJECTIVES
            axes.scatter(
                aligned,
                gap,
                color=f"C{OBJECTIVES.index(cell.objective) if known else len(OBJECTIVES)}",
                marker=MARKERS[names.index(cell.transformation) % len(MARKERS)],
                s=60,
                label=f"{TITLES.get(cell.objective, cell.objective)}, {cell.transformation}",
            )
        axes.set_xlabel("alignment of the embeddings (%)")
        axes.set_ylabel("supervised - zero-shot F1")
        axes.set_title(f"{task}: rho = {rho[task]:+.2f}" if task in rho else task)
        axes.legend(fontsize=6)
    figure.savefig(path, dpi=150)
