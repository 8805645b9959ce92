"""Tag words: a linear layer on the first piece of each, as for parts of speech and named entities.

Reads a stream of labelled sentences (`data/tasks/rows.py`). Source: Devlin et al. 2019, section
5.3; the head of transformers' ForTokenClassification models.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from jalign.nn.layers import Dense, dropout
from jalign.objectives._supervised import (
    Predict,
    class_loss,
    make_encode,
    num_labels,
    predict_with,
)
from jalign.types import Array, Aux, Batches, Encoder, Key, Loss, Objective, Params

NAME = "tag"
READS = ("ids", "example", "side", "position", "label")


@dataclass(frozen=True)
class Config:
    """`dropout`: before the head, in training."""

    stream: str = "task"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Check the rate. Raises: ValueError naming it."""
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: need 0 <= dropout < 1")


class Head(nn.Module):
    """A linear layer on hidden states, float32."""

    num_labels: int
    dropout: float

    @nn.compact
    def __call__(self, h: Array, key: Key | None = None) -> Array:
        """Return [..., num_labels]; with a key it drops out."""
        h = dropout(h.astype(jnp.float32), self.dropout, key)  # f32: logits
        return Dense((self.num_labels,), ("embed", None), name="out")(h)


def make_head(cfg: Config, encoder: Encoder) -> Head:
    """Build the head. Raises: ValueError where the stream has no labels."""
    return Head(num_labels(encoder, cfg.stream), cfg.dropout)


def make_predict(cfg: Config, encoder: Encoder) -> Predict:
    """Build `predict(params, batch)`: the logits of the classes at every slot, float32 [B, L, C];
    they are meant for the first piece of a word.
    """
    return predict_with(NAME, make_head(cfg, encoder), encoder, cfg.stream)


def make(cfg: Config, encoder: Encoder) -> Objective:
    """Build the objective. Raises: ValueError where the stream has no labels."""
    head, encode = make_head(cfg, encoder), make_encode(encoder, cfg.stream)

    def loss(params: Params, aux: Aux, batches: Batches, key: Key | None) -> Loss:
        batch = batches[cfg.stream]
        h_BLD = encode(params, batch, key)
        key = None if key is None else jax.random.fold_in(key, 1)
        logit_BLC = head.apply({"params": params[NAME]}, h_BLD, key)
        return class_loss(logit_BLC.reshape(-1, head.num_labels), batch["label"].reshape(-1))

    return Objective(streams=(cfg.stream,), reads=READS, loss=loss, heads={NAME: head})
