"""Evaluate the run's own objectives on held-out rows: loss and metrics such as masked accuracy.

Each held-out example is seen once, with masks that are the same at every evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import jax
import numpy as np

from jalign.data.pipeline import make_stream
from jalign.types import EvalSetting, Mean, Params, Result


@dataclass(frozen=True)
class Config:
    """`max_batches`: per stream, 0 for all of the held-out data."""

    max_batches: int = 16


def make(cfg: Config, setting: EvalSetting) -> Callable[[Params], Iterator[Result]]:
    """Build `evaluate(params, aux)`, compiled once."""
    streams = {
        name: make_stream(
            setting.manifest,
            setting.specials,
            name,
            replace(stream, swap=False),
            split="heldout",
            once=True,
        )
        for name, stream in setting.streams.items()
    }

    @jax.jit
    def means(params, aux, batches):
        out = {}
        for name, objective in setting.objectives.items():
            losses = objective.losses(name, params, aux.get(name, {}), batches, None)
            for n, loss in losses.items():
                out |= {(n, "loss"): Mean(loss.total, loss.count)}
                out |= {(n, k): m for k, m in loss.metrics.items() if k != "over_cap"}
        return jax.lax.with_sharding_constraint(out, setting.replicated)

    def num_batches() -> int:
        needed = max(-(-s.packed.num_rows // setting.streams[n].rows) for n, s in streams.items())
        return min(needed, cfg.max_batches or needed)

    def evaluate(params: Params, aux=None) -> Iterator[Result]:
        total: dict[tuple, np.ndarray] = {}
        for b in range(num_batches()):
            batches = {}
            for name, stream in streams.items():
                rows = setting.streams[name].rows
                batches[name] = setting.put(stream.rows(b * rows, rows), rows)
            for key, mean in means(params, aux or {}, batches).items():
                total[key] = total.get(key, 0) + np.array([float(mean.total), float(mean.count)])
        for (name, metric), (value, count) in total.items():
            yield Result(f"heldout/{name}", "all", metric, float(value / max(count, 1)), int(count))

    return evaluate
