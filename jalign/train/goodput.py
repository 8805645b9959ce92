"""Account for a run's time since its first start: what went into steps that count, and what did
not.

Every moment belongs to one class. What a checkpoint was saved with is as good as done; what came
after it and was lost to a kill or a rollback is wasted. `workdir/alive.json`, written every few
seconds, tells a restart how far its predecessor came.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ALIVE_FILE = "alive.json"
WRITE_EVERY_S = 5.0
CLASSES = {
    "productive": "steps that count",
    "start": "opening data, restoring",
    "compile": "compiling the step",
    "input": "waiting for batches",
    "save": "waiting for saves",
    "evaluate": "evaluations and tests",
    "wasted": "steps that were lost and done again",
    "down": "between an end that was not asked for and the restart",
}


class Ledger:
    """Seconds by class, over all restarts of a run."""

    def __init__(self, workdir: Path, began: float | None = None, *, writes: bool = True) -> None:
        """Start in class `start`, at the time `began` of `time.time()` (default: now).

        `writes`: whether this process is the one that writes alive.json.
        """
        self.path, self.writes = workdir / ALIVE_FILE, writes
        self.seconds = dict.fromkeys(CLASSES, 0.0)
        self.step = 0
        self._class, self._since = "start", time.perf_counter()
        self._began = time.time()
        if began is not None:
            self.seconds["start"] += max(self._began - began, 0.0)
            self._began = began
        self._written, self._worked = 0.0, False

    def resume(self, saved: Mapping[str, float] | None) -> None:
        """Take over what a checkpoint's run had spent, and what was lost since then."""
        last = _read(self.path)
        if not saved and not last:
            return
        before = {name: float((saved or {}).get(name, 0.0)) for name in CLASSES}
        after = last.get("seconds", {})
        if sum(after.values()) > sum(before.values()):
            lost = max(after.get("productive", 0.0) - before["productive"], 0.0)
            productive = before["productive"]
            before = {name: max(before[name], float(after.get(name, 0.0))) for name in CLASSES}
            before["productive"] = productive
            before["wasted"] += lost
        if last.get("running"):
            before["down"] += max(self._began - last["time"], 0.0)
        for name, value in before.items():
            self.seconds[name] += value

    def roll_back(self, saved: Mapping[str, float] | None) -> None:
        """Count as wasted what was done since a checkpoint (None: since the start)."""
        self._switch(self._class)
        kept = float((saved or {}).get("productive", 0.0))
        self.seconds["wasted"] += max(self.seconds["productive"] - kept, 0.0)
        self.seconds["productive"] = min(self.seconds["productive"], kept)

    @contextlib.contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Count what happens inside as `name`."""
        outer = self._class
        self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def enter(self, name: str) -> None:
        """Count from now on as `name`."""
        self._switch(name)

    def _switch(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[self._class] += now - self._since
        self._class, self._since = name, now
        self._worked |= name == "compile"

    @property
    def worked(self) -> bool:
        """Say whether this process has trained."""
        return self._worked

    def totals(self) -> dict[str, float]:
        """Return the seconds of each class so far."""
        self._switch(self._class)
        return dict(self.seconds)

    def goodput(self) -> float:
        """Return the share of the time that went into steps that count."""
        totals = self.totals()
        return totals["productive"] / max(sum(totals.values()), 1e-9)

    def write_alive(self) -> None:
        """Write alive.json, at most every few seconds; a disk that is full is no reason to stop."""
        now = time.monotonic()
        if now - self._written >= WRITE_EVERY_S:
            self._written = now
            self._write(running=True)

    def end(self) -> None:
        """Write that the run ended because it was to: what follows is not `down`."""
        self._write(running=False)

    def _write(self, *, running: bool) -> None:
        if not self.writes:
            return
        facts = {
            "step": self.step, "time": time.time(), "pid": os.getpid(), "running": running,
            "seconds": self.totals(),
        }  # fmt: skip
        partial = self.path.with_suffix(".partial")
        with contextlib.suppress(OSError):
            partial.write_text(json.dumps(facts), encoding="utf-8")
            os.replace(partial, self.path)

    def results(self) -> list[dict[str, Any]]:
        """Return lines of results.jsonl: the share of each class, and all seconds."""
        totals = self.totals()
        whole = max(sum(totals.values()), 1e-9)
        lines = {f"{name}_frac": seconds / whole for name, seconds in totals.items()}
        return [
            {"task": "goodput", "lang": "all", "metric": name, "value": value, "n": 1}
            for name, value in {**lines, "wall_s": whole}.items()
        ]


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
