"""What the objectives that contrast sentences share: their entries, the temperature, and encoding a
whole batch in microbatches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
from flax import linen as nn

from jalign.align import sentences as s
from jalign.align.contrast import Rule
from jalign.config import check_choices
from jalign.nn.layers import sharded
from jalign.nn.microbatch import join_rows, over_microbatches
from jalign.types import Array, Batch, Encoder, Key, Mean, Params

READS = ("ids", "example", "side", "position")
HIGHEST_SCALE = 100.0  # of a learned temperature, as in CLIP (Radford et al. 2021, 2.5)


@dataclass(frozen=True)
class Config(Rule):
    """The rule of the contrast, its sentences and its temperature.

    `pool`: a sentence's vector is the state of its first token ("cls") or the "mean". `tau`: the
    temperature, or where `learn_tau` its first value. `max_pairs`: how many pairs of a row take
    part; 0: all that it could hold; fewer save memory and time, and those left out are counted
    ("over").
    """

    stream: str = "pair"
    pool: str = "cls"
    tau: float = 1.0
    learn_tau: bool = False
    max_pairs: int = 0

    def __post_init__(self) -> None:
        """Check the entries. Raises: ValueError naming the entry."""
        super().__post_init__()
        check_choices(self, {"pool": s.POOLS})
        if self.tau <= 0 or self.max_pairs < 0:
            raise ValueError(
                f"tau={self.tau}, max_pairs={self.max_pairs}: need more than 0, and 0 or more"
            )

    def rule(self) -> Rule:
        """Return the rule alone."""
        return Rule(**{f.name: getattr(self, f.name) for f in fields(Rule)})


class LogScale(nn.Module):
    """The logarithm of 1 / temperature, learned (Radford et al. 2021)."""

    tau: float

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Return the temperature."""
        start = nn.initializers.constant(-math.log(self.tau))
        log_scale = self.param("log_scale", sharded(start), ())
        return jnp.exp(-jnp.minimum(log_scale, math.log(HIGHEST_SCALE)))


def make_tau(cfg: Config, name: str) -> tuple[dict[str, nn.Module], Callable[[Params], Array]]:
    """Return the heads that the temperature needs, one called `name` or none, and `tau(params)`."""
    if not cfg.learn_tau:
        return {}, lambda params: jnp.float32(cfg.tau)
    head = LogScale(cfg.tau)
    return {name: head}, lambda params: head.apply({"params": params[name]}, jnp.zeros(()))


def check_separate(encoder: Encoder, stream: str) -> None:
    """Raise ValueError where the stream is no separate pairs."""
    layout = encoder.layouts.get(stream, "separate")
    if layout != "separate":
        raise ValueError(
            f"stream {stream!r} has layout {layout!r}: a sentence's vector must not see the "
            f"translation; set config.streams.{stream}.layout='separate'"
        )


def make_vectors(
    cfg: Config, encoder: Encoder, encode: Callable[[Batch, Key | None], Array]
) -> Callable[[Batch, Key | None], s.Sentences]:
    """Build `vectors(batch, key)`: the sentences of a whole batch, encoded in microbatches.

    `encode(batch, key) -> h_BLD`, with a key of its own for each microbatch.
    """

    def vectors(batch: Batch, key: Key | None) -> s.Sentences:
        num = s.room(batch["ids"].shape[1], cfg.max_pairs)

        def one(part: Batch, number: Array) -> s.Sentences:
            part_key = None if key is None else jax.random.fold_in(key, number)
            return s.sentence_vectors(encode(part, part_key), part, num, pool=cfg.pool)

        found = over_microbatches(one, {name: batch[name] for name in READS}, encoder.accumulate)
        return s.Sentences(*join_rows(tuple(found[:4])), found.over.sum())

    return vectors


def over_metric(found: s.Sentences) -> dict[str, Mean]:
    """Return the metric of the pairs that had no room."""
    return {"over": Mean(found.over, jnp.ones(()))}
