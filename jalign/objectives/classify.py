"""Classify examples from the state of their first slot: pairs of sentences, as in XNLI and PAWS-X.

Reads a stream of labelled pairs `<s> first </s> second </s>` (`data/tasks/rows.py`). Source:
Conneau et al. 2020; the head of transformers' RoBERTa and XLM-R. Differs: one </s> between the
texts, as in all our joint rows; transformers puts two for these models, one for BERT.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from jalign.config import check_choices
from jalign.data.rows import SPECIALS
from jalign.nn.layers import Dense, dropout
from jalign.nn.vocab_loss import gather_masked, gather_slots
from jalign.objectives._supervised import (
    Predict,
    class_loss,
    make_encode,
    num_labels,
    predict_with,
)
from jalign.types import Array, Aux, Batches, Encoder, Key, Loss, Objective, Params

NAME = "classify"
READS = ("ids", "example", "side", "position", "label")
HEADS = ("dense", "linear")


@dataclass(frozen=True)
class Config:
    """`head`: "dense" for dense, tanh and a linear layer with dropout before each, as RoBERTa and
    XLM-R have it; "linear" for dropout and a linear layer.
    """

    stream: str = "task"
    head: str = "dense"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Check the entries. Raises: ValueError naming the entry."""
        check_choices(self, {"head": HEADS})
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: need 0 <= dropout < 1")


class Head(nn.Module):
    """The classifier on the states of first slots, float32."""

    num_labels: int
    kind: str
    dropout: float

    @nn.compact
    def __call__(self, h: Array, key: Key | None = None) -> Array:
        """Return [..., num_labels]; with a key it drops out."""
        keys = (None, None) if key is None else jax.random.split(key)
        h = dropout(h.astype(jnp.float32), self.dropout, keys[0])  # f32: logits
        if self.kind == "dense":
            h = jnp.tanh(Dense((h.shape[-1],), ("embed", None), name="dense")(h))
            h = dropout(h, self.dropout, keys[1])
        return Dense((self.num_labels,), ("embed", None), name="out")(h)


def make_head(cfg: Config, encoder: Encoder) -> Head:
    """Build the head. Raises: ValueError where the stream has no labels."""
    return Head(num_labels(encoder, cfg.stream), cfg.head, cfg.dropout)


def make_predict(cfg: Config, encoder: Encoder) -> Predict:
    """Build `predict(params, batch)`: the logits of the classes at every slot, float32 [B, L, C];
    they are meant for the first slot of an example.
    """
    return predict_with(NAME, make_head(cfg, encoder), encoder, cfg.stream)


def make(cfg: Config, encoder: Encoder) -> Objective:
    """Build the objective. Raises: ValueError where the stream has no labels."""
    head, encode = make_head(cfg, encoder), make_encode(encoder, cfg.stream)

    def loss(params: Params, aux: Aux, batches: Batches, key: Key | None) -> Loss:
        batch = batches[cfg.stream]
        h_BLD = encode(params, batch, key)
        first_BL = (batch["example"] > 0) & (batch["position"] == 0)
        # the shortest example is its special tokens: this cap loses none
        cap = max(1, first_BL.size // encoder.num_groups // SPECIALS["joint"])
        index_GP, keep_GP = gather_masked(first_BL, cap, encoder.num_groups)
        h_ND = gather_slots(h_BLD, index_GP).reshape(-1, h_BLD.shape[-1])
        label_GP = jnp.where(keep_GP, gather_slots(batch["label"], index_GP), -1)
        key = None if key is None else jax.random.fold_in(key, 1)
        logit_NC = head.apply({"params": params[NAME]}, h_ND, key)
        return class_loss(logit_NC, label_GP.reshape(-1))

    return Objective(streams=(cfg.stream,), reads=READS, loss=loss, heads={NAME: head})
