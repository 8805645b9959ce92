"""Evaluate the run's own objectives on held-out rows: loss and metrics such as masked accuracy.

Each held-out example is seen once, with masks that are the same at every evaluation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import jax
import numpy as np

from jalign.data.pipeline import make_stream
from jalign.data.rows import RowSource
from jalign.types import EvalSetting, Mean, Objective, Params, Result


@dataclass(frozen=True)
class Config:
    """`max_batches`: per stream, 0 for all of the held-out data."""

    max_batches: int = 16


def make(cfg: Config, setting: EvalSetting) -> Callable[[Params], Iterator[Result]]:
    """Build `evaluate(params, aux)`, compiled once.

    Objectives on labelled files are left out: those have no held-out part, and evaluations of their
    own; so are those that need links which files give to the training pairs only, with a warning.
    Raises: ValueError where there is no other.
    """
    labelled = {name for name, stream in setting.streams.items() if stream.task.format}
    objectives = {n: o for n, o in setting.objectives.items() if not labelled & set(o.streams)}
    if not objectives:
        raise ValueError(
            "every objective reads labelled files, which have no held-out part: evaluate with "
            "tagging, classification or qa"
        )
    read = {stream for objective in objectives.values() for stream in objective.streams}
    streams = {
        name: make_stream(
            setting.manifest,
            setting.specials,
            name,
            replace(stream, swap=False),
            split="heldout",
            once=True,
            tokenizer=setting.tokenizer,
        )
        for name, stream in setting.streams.items()
        if name in read
    }
    lacking = {n: _lacking(o, streams) for n, o in objectives.items()}
    objectives = {n: o for n, o in objectives.items() if not lacking[n]}
    for name, fields in lacking.items():
        if fields:
            warnings.warn(
                f"heldout: left out {name}, for held-out pairs have no {', '.join(fields)}",
                stacklevel=2,
            )
    streams = {n: s for n, s in streams.items() if any(n in o.streams for o in objectives.values())}
    if not objectives:
        raise ValueError(
            "held-out pairs have no links, which come from files of the training pairs: remove "
            "this evaluation, or take links from config.streams.pair.lexicons"
        )

    @jax.jit
    def means(params, aux, batches):
        out = {}
        for name, objective in objectives.items():
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


def _lacking(objective: Objective, streams: Mapping[str, RowSource]) -> list[str]:
    """List the fields that the objective reads and its held-out streams do not carry."""
    found = [set(streams[name].fields) for name in objective.streams]
    return sorted({field for fields in found for field in set(objective.reads) - fields})
