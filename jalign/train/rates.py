"""Turn steps and waits into the figures of a log line: real tokens per second, input wait, MFU,
time left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jalign import plugin
from jalign.data.pipeline import num_units, real_tokens, total_slots
from jalign.train.devices import memory_mib, peak_flops
from jalign.train.goodput import Ledger
from jalign.train.mesh import counted_rows
from jalign.train.run import Run
from jalign.train.step import StepOutput


class Rates:
    """Count tokens and time between two log lines; evaluation and compilation are left out."""

    def __init__(self, run: Run, ledger: Ledger) -> None:
        """Measure the machine's peak once, and start now."""
        self.run, self.ledger, self.run_start = run, ledger, time.perf_counter()
        self.peak, source = peak_flops()
        self.definition = (
            "MFU = analytic FLOPs of the real tokens (6 per weight, attention inside units, "
            "vocabulary at masked positions; nothing recomputed) / time / peak; peak "
            f"{self.peak / 1e12:.2f} TFLOP/s: {source}"
        )
        self.family = plugin.load("encoders", run.cfg.encoder.get("family", "bert"))
        labelled = set(run.cfg.labelled)  # their few classes cost next to nothing
        self.of_words = {
            loss
            for name, objective in run.objectives.items()
            for loss in objective.names(name)
            if objective.streams and not labelled & set(objective.streams)
        }
        self.counted = {name: _counted(run, s.rows) for name, s in run.cfg.streams.items()}
        self._reset()

    def _reset(self) -> None:
        self.start = time.perf_counter()
        self.wait_s = self.paused_s = 0.0
        self.save_s = self.ledger.seconds["save"]
        self.steps = self.tokens = self.slots = self.units = 0

    def next(self, batches: Iterator[dict]) -> dict:
        """Wait for the next batch and count the rows of it that no other process counts."""
        begin = time.perf_counter()
        with self.ledger.during("input"):
            batch = next(batches)
        self.wait_s += time.perf_counter() - begin
        mine = {
            name: {field: values[self.counted[name]] for field, values in fields.items()}
            for name, fields in batch.items()
        }
        self.tokens += real_tokens(mine)
        self.slots += total_slots(mine)
        self.units += num_units(mine)
        self.steps += 1
        return batch

    def _add_other_processes(self) -> None:
        if jax.process_count() > 1:
            mine = np.array([self.tokens, self.slots, self.units])
            totals = multihost_utils.process_allgather(mine).sum(axis=0)
            self.tokens, self.slots, self.units = (int(n) for n in totals)

    def pause(self, seconds: float) -> None:
        """Leave seconds (evaluation) out of the interval."""
        self.paused_s += seconds

    def record(self, done: int, out: StepOutput) -> dict[str, Any]:
        """Make the record of metrics.jsonl for the interval that ends with `out` (waits for it)."""
        loss, losses = (
            float(out.loss),
            {n: (float(m.total), float(m.count)) for n, m in out.losses.items()},
        )
        extra = {n: float(m.total) / max(float(m.count), 1.0) for n, m in out.metrics.items()}
        self._add_other_processes()
        seconds = max(time.perf_counter() - self.start - self.paused_s, 1e-9)
        step_s = seconds / self.steps
        predicted = sum(count for n, (_, count) in losses.items() if n in self.of_words)
        predicted *= self.steps / self.tokens
        flops = (
            self.family.flops_per_token(self.run.encoder_cfg, self.tokens / self.units, predicted)
            * self.tokens
        )
        record = {
            "step": done,
            "loss": loss,
            **{f"loss/{n}": total / max(count, 1.0) for n, (total, count) in losses.items()},
            "tokens_per_s": self.tokens / seconds,
            "pack_efficiency": self.tokens / self.slots,
            "input_wait_frac": self.wait_s / seconds,
            "mfu": flops / seconds / self.peak if self.peak else 0.0,
            "goodput": self.ledger.goodput(),
            "save_stall_frac": max(self.ledger.seconds["save"] - self.save_s, 0.0) / seconds,
            "memory_mib": memory_mib(),
            "time_left_s": step_s * (self.run.cfg.steps - done),
            "step_s": step_s,
            "lr": float(out.lr),
            "grad_norm": float(out.grad_norm),
            **extra,
        }
        self._reset()
        return record


def _counted(run: Run, rows: int) -> slice | np.ndarray:
    at = counted_rows(run.mesh, rows)
    return slice(None) if at.all() else at  # a slice copies nothing
