"""Translation language modelling: MLM on pairs, so that a masked word can be read off its
translation.

| form | layout | what sees each other | positions | source |
| --- | --- | --- | --- | --- |
| joint | joint | a pair `<s> src </s> trg </s>` | run through | XLM-R's family |
| restart | separate | a pair `<s> src </s> <s> trg </s>` | restart with the second side | XLM |
| halves | separate | all pairs of a row | run through each side of the row | ALIGN-MLM's code |

Source: Conneau & Lample 2019, section 3.3; methods.md 1.2. Differs: in the form halves the sides of
a pair lie beside each other, not 256 slots apart, which attention does not see; a row holds what
the packer gave it, not neighbouring sentences.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from jalign.config import check_choices
from jalign.errors import ConfigError
from jalign.nn.packed import sides_of
from jalign.objectives import mlm
from jalign.types import Array, Batch, Encoder, Objective

LAYOUTS = {"joint": "joint", "restart": "separate", "halves": "separate"}


@dataclass(frozen=True)
class Config(mlm.Config):
    """The masking of `mlm`, on the pair stream; `form` as above."""

    stream: str = "pair"
    form: str = "joint"

    def __post_init__(self) -> None:
        """Check the form and the rates. Raises: ValueError naming the entry."""
        super().__post_init__()
        check_choices(self, {"form": LAYOUTS})


def make(cfg: Config, encoder: Encoder) -> Objective:
    """Build the objective on the stream that `cfg` names.

    Raises: ValueError where the form needs another layout.
    """
    layout = encoder.layouts.get(cfg.stream, LAYOUTS[cfg.form])
    if layout != LAYOUTS[cfg.form] and (cfg.form != "joint" or layout == "separate"):
        raise ValueError(
            f"form={cfg.form!r} on stream {cfg.stream!r} of layout {layout!r}: set "
            f"config.streams.{cfg.stream}.layout={LAYOUTS[cfg.form]!r}"
        )
    views = {"joint": mlm.usual_view, "restart": pair_view, "halves": row_view}
    return mlm.make(cfg, encoder, views[cfg.form])


def pair_view(cfg: Config, encoder: Encoder, batch: Batch) -> mlm.View:
    """See both sides of a pair, each with positions of its own."""
    del cfg, encoder
    return mlm.View(batch["position"], batch["example"], None)


def row_view(cfg: Config, encoder: Encoder, batch: Batch) -> mlm.View:
    """See a whole row; positions count the slots of each side of it.

    Raises: ConfigError where the encoder has too few positions for a row.
    """
    length, positions = batch["ids"].shape[1], encoder.module.cfg.positions
    if length > positions:
        raise ConfigError(
            f"form='halves' makes a row one attention unit, and config.streams.{cfg.stream}."
            f"row_length={length} exceeds the {positions} positions of the encoder: lower it"
        )
    side_BL = sides_of(batch)
    return mlm.View(count_within(side_BL), (batch["example"] > 0).astype(jnp.int32), None)


def count_within(side_BL: Array) -> Array:
    """Number the slots of each side of a row 0, 1, ... in order; padding is 0. Int32 [B, L]."""
    position_BL = jnp.zeros_like(side_BL)
    for side in (1, 2):
        mine_BL = side_BL == side
        count_BL = jnp.cumsum(mine_BL, axis=1, dtype=jnp.int32) - 1
        position_BL = jnp.where(mine_BL, count_BL, position_BL)
    return position_BL
