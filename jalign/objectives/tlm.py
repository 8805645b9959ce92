"""Translation language modelling: MLM on joint pairs, so that a masked word can be read off its
translation.

Reads a stream with the joint layout `<s> src </s> trg </s>`, no position reset and no language
embedding (the XLM-R form). Source: Conneau & Lample 2019, section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from jalign.objectives import mlm
from jalign.types import Encoder, Objective


@dataclass(frozen=True)
class Config(mlm.Config):
    """The masking of `mlm`, on the pair stream."""

    stream: str = "pair"


def make(cfg: Config, encoder: Encoder) -> Objective:
    """Build the objective on the stream that `cfg` names."""
    return mlm.make(cfg, encoder)
