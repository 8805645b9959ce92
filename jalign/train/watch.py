"""Judge each step's outcome and stop a run that went wrong, naming the objective and the batch's
records.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jalign.errors import Diverged
from jalign.train.run import Run
from jalign.train.step import StepOutput


class Spike(Diverged):
    """Stop, or go back: the `num_steps` steps before `step` went wrong."""

    def __init__(self, message: str, step: int, num_steps: int, what: str) -> None:
        """Say what the user reads, and where."""
        super().__init__(message)
        self.step, self.num_steps, self.what = step, num_steps, what


class Watch:
    """Judge each step's outcome: finite, and no worse than it has been."""

    def __init__(self, run: Run, workdir: Path) -> None:
        """Remember the means of the last `window` steps."""
        self.run, self.workdir = run, workdir
        self.recent: deque[float] = deque(maxlen=max(run.cfg.divergence.window, 1))
        self.lowest = math.inf

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, so that a resumed run judges as this one would."""
        lowest = self.lowest if math.isfinite(self.lowest) else None
        return {"recent": list(self.recent), "lowest": lowest}

    def resume(self, facts: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint kept ({}: from nothing)."""
        self.recent.clear()
        self.recent.extend(facts.get("recent", ()))
        lowest = facts.get("lowest")
        self.lowest = math.inf if lowest is None else lowest

    def check(self, step: int, out: StepOutput) -> None:
        """Look at the outcome of the step that led to `step`.

        Raises: Spike naming objective and records.
        """
        loss = float(out.loss)
        if not bool(out.finite):
            bad = [n for n, m in out.losses.items() if not math.isfinite(float(m.total))]
            what = (
                f"loss of {', '.join(bad)} is not finite"
                if bad
                else "losses are finite, their gradient is not"
            )
            self._stop(step, 1, f"{what} (loss {loss}, gradient norm {float(out.grad_norm)})")
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
                len(self.recent),
                f"mean loss of {len(self.recent)} steps rose from {self.lowest:.3f} to {mean:.3f}, "
                f"most in {worst} ({means[worst]:.3f})",
            )

    def _stop(self, step: int, num_steps: int, what: str) -> None:
        records = self.run.source.records(step - 1)
        path = self.workdir / "diverged.json"
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):  # the message says the most of it
                facts = {"step": step, "what": what, "records": records}
                path.write_text(json.dumps(facts, indent=1))
        first = ", ".join(
            f"{name} {number}" for batch in records.values() for name, number in batch[:3]
        )
        before = "The last checkpoint is from before it."
        if num_steps > 1:
            before = f"Checkpoints of after step {max(step - num_steps, 0)} may have it already."
        message = (
            f"step {step}: {what}. {before} "
            f"Records of its batch: {first}, ... (all in {path}). Lower "
            "config.optimizer.lr, or look at these records."
        )
        raise Spike(message, step, num_steps, what)
