"""Count by hand what a step computes: the model's work, and what the step is written to do.

The first is what MFU divides by. The second adds what is computed a second time to save memory, and
the places that are computed for nothing: room in the gather of masked words, heads padded for a
kernel, slots of other units in a row. A compiled program should do the second and no more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from jalign import plugin
from jalign.data.pipeline import StreamConfig
from jalign.nn.attention import choose_attention
from jalign.nn.vocab_loss import KEEP_BYTES, gather_cap
from jalign.plan.abstract import AbstractRun
from jalign.schedule import largest
from jalign.train.mesh import num_batch_shards

# Products [L, K] x [K, L] per head of an attention and its backward pass: 2 + 4 where all is kept.
# Flash kernels compute the scores again, splash in each of its two backward kernels, where the
# second computes the gradient of the probabilities again too.
_PRODUCTS = {"dense": (2, 4), "banded": (2, 5), "cudnn": (2, 5), "splash": (2, 7)}
_LANES = 128  # splash pads heads to so many numbers


def analytic_flops(run: AbstractRun) -> float:
    """Count the FLOPs of one step on all chips as MFU counts them: nothing twice.

    Each objective passes once over its streams and backwards; every slot is real and attends to as
    many as its unit may hold. A further pass without gradient (a frozen or a momentum copy) is not
    in it.
    """
    return sum(sum(parts) for *_, parts in _passes(run))


def executed_flops(run: AbstractRun) -> float:
    """Count the FLOPs of one step on all chips with what the step computes again or for nothing."""
    again = 8 / 6 if run.encoder_cfg.remat else 1.0
    total = 0.0
    for stream, rate, (dense, attention, head) in _passes(run):
        total += dense * again + attention * _attention_factor(run, stream)
        total += head * _head_factor(run, stream, rate) if rate else 0.0
    return total


def _passes(run: AbstractRun) -> Iterator[tuple[StreamConfig, float, tuple[float, float, float]]]:
    """Yield (stream, masked share, FLOPs of dense layers, attention and head) of each pass."""
    family = plugin.load("encoders", run.cfg.encoder.get("family", "bert"))
    for name, objective in run.objectives.items():
        rate = masked_rate(run.cfg.objectives[name], name)
        for stream in (run.cfg.streams[s] for s in objective.streams):
            slots = stream.rows * stream.row_length
            unit = stream.max_unit or stream.row_length
            dense = slots * family.flops_per_token(run.encoder_cfg, 0, 0.0)
            seen = slots * family.flops_per_token(run.encoder_cfg, unit, 0.0)
            predicted = slots * family.flops_per_token(run.encoder_cfg, 0, rate)
            yield stream, rate, (dense, seen - dense, predicted - dense)


def _attention_factor(run: AbstractRun, stream: StreamConfig) -> float:
    cfg = run.encoder_cfg
    size, unit = cfg.hidden // cfg.heads, stream.max_unit or stream.row_length
    kind, _, platform = cfg.attention.partition(":")
    if kind == "auto":
        dropout = cfg.attention_dropout > 0
        kind = choose_attention(
            platform or run.mesh.devices.flat[0].platform,
            cfg.dtype, stream.row_length, size, unit, dropout=dropout,
        )  # fmt: skip
    forward, backward = _PRODUCTS[kind]
    factor = (forward * (2 if cfg.remat else 1) + backward) / 6 * stream.row_length / unit
    return factor * (-(-size // _LANES) * _LANES / size if kind == "splash" else 1.0)


def _head_factor(run: AbstractRun, stream: StreamConfig, rate: float) -> float:
    """Return how much more than the masked share is computed: the gather's room, and the logits
    that are not kept.
    """
    groups = num_batch_shards(run.mesh)
    slots = stream.rows * stream.row_length // groups // run.cfg.accumulate
    room = gather_cap(slots, rate)
    kept = min(1.0, KEEP_BYTES / (4 * room * groups * run.encoder_cfg.vocab_size))
    return room / (slots * rate) * (8 - 2 * kept) / 6


def masked_rate(entries: Mapping[str, Any], name: str) -> float:
    """Return the share of the slots whose word an objective predicts; 0 where it predicts none."""
    module = plugin.load("objectives", entries.get("kind", name))
    fields = {f.name: f.default for f in dataclasses.fields(module.Config)}
    return float(largest(entries.get("rate", fields["rate"]))) if "rate" in fields else 0.0
