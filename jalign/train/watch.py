"""Judge each step's outcome and stop a run that went wrong, naming the objective and the batch's
records.
"""

from __future__ import annotations

import json
import math
from collections import deque
from pathlib import Path

from jalign.errors import Diverged
from jalign.train.run import Run
from jalign.train.step import StepOutput


class Watch:
    """Judge each step's outcome: finite, and no worse than it has been."""

    def __init__(self, run: Run, workdir: Path) -> None:
        """Remember the means of the last `window` steps."""
        self.run, self.workdir = run, workdir
        self.recent: deque[float] = deque(maxlen=max(run.cfg.divergence.window, 1))
        self.lowest = math.inf

    def check(self, step: int, out: StepOutput) -> None:
        """Look at the outcome of the step that led to `step`.

        Raises: Diverged naming objective and records.
        """
        loss = float(out.loss)
        if not bool(out.finite):
            bad = [n for n, m in out.losses.items() if not math.isfinite(float(m.total))]
            what = (
                f"loss of {', '.join(bad)} is not finite"
                if bad
                else "losses are finite, their gradient is not"
            )
            self._stop(step, f"{what} (loss {loss}, gradient norm {float(out.grad_norm)})")
        # Unweighted: a weight that rises on schedule is no divergence.
        means = {n: float(m.total) / max(float(m.count), 1) for n, m in out.losses.items()}
        self.recent.append(sum(means.values()))
        if len(self.recent) < self.recent.maxlen or not self.run.cfg.divergence.factor:
            return
        mean = sum(self.recent) / len(self.recent)
        self.lowest = min(self.lowest, mean)
        if mean > self.run.cfg.divergence.factor * self.lowest:
            worst = max(means, key=means.get)
            self._stop(
                step,
                f"mean loss of {len(self.recent)} steps rose from {self.lowest:.3f} to {mean:.3f}, "
                f"most in {worst} ({means[worst]:.3f})",
            )

    def _stop(self, step: int, what: str) -> None:
        records = self.run.source.records(step - 1)
        path = self.workdir / "diverged.json"
        path.write_text(json.dumps({"step": step, "what": what, "records": records}, indent=1))
        first = ", ".join(
            f"{name} {number}" for batch in records.values() for name, number in batch[:3]
        )
        raise Diverged(
            f"step {step}: {what}. The last checkpoint is from before it. "
            f"Records of its batch: {first}, ... (all in {path}). Lower "
            "config.optimizer.lr, or look at these records."
        )
