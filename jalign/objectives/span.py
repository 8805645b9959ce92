"""Find the answer to a question in a text: a start and an end among the pieces of the context.

Reads a stream of windows `<s> question </s> context </s>` (`data/tasks/rows.py`). Source: Devlin et
al. 2019, section 4.2; the head of transformers' ForQuestionAnswering models. Differs: the softmax
is over the context and the first slot, which stands for "not in this window"; transformers' is over
every slot of the padded row. A row holds many windows: nothing is compared across them.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from jalign.data.rows import SIDE_TRG, SPECIALS
from jalign.nn.layers import Dense
from jalign.objectives._supervised import Predict, make_encode, predict_with
from jalign.types import Array, Aux, Batch, Batches, Encoder, Key, Loss, Mean, Objective, Params

NAME = "span"
READS = ("ids", "example", "side", "position", "answer_start", "answer_end")
BIG_NEGATIVE = -1e30


@dataclass(frozen=True)
class Config:
    """The stream; the head has no dropout of its own."""

    stream: str = "task"


class Head(nn.Module):
    """A linear layer on hidden states: the logits of start and end, float32."""

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Return [..., 2]."""
        return Dense((2,), ("embed", None), name="out")(h.astype(jnp.float32))  # f32: logits


def make_predict(cfg: Config, encoder: Encoder) -> Predict:
    """Build `predict(params, batch)`: the logits of start and end at every slot, [B, L, 2]."""
    return predict_with(NAME, Head(), encoder, cfg.stream)


def span_loss(logit_BL2: Array, batch: Batch) -> Loss:
    """Return the mean of the cross-entropies of start and end, summed over the windows that have a
    label, and the share of these whose start and end both have the largest logit.
    """
    allowed_BL = (batch["example"] > 0) & ((batch["side"] == SIDE_TRG) | (batch["position"] == 0))
    sides = [
        _one_end(logit_BL2[..., k], batch[name] > 0, allowed_BL, batch["example"])
        for k, name in enumerate(("answer_start", "answer_end"))
    ]
    count = (batch["answer_start"] > 0).sum().astype(jnp.float32)
    total = sum(nll_BL.sum() for nll_BL, _ in sides) / 2
    exact = (sides[0][1] & sides[1][1]).sum().astype(jnp.float32)
    return Loss(total, count, {"exact": Mean(exact, count)})


def _one_end(
    logit_BL: Array, gold_BL: Array, allowed_BL: Array, example_BL: Array
) -> tuple[Array, Array]:
    """Return the cross-entropy at the gold slots [B, L], 0 elsewhere, and which examples [B, E]
    have it right.
    """
    num = example_BL.shape[1] // SPECIALS["joint"] + 2  # the shortest example; and padding, 0
    logit_BL = jnp.where(allowed_BL, logit_BL.astype(jnp.float32), BIG_NEGATIVE)
    top_BE = _per_example(jax.ops.segment_max, jax.lax.stop_gradient(logit_BL), example_BL, num)
    top_BL = jnp.take_along_axis(top_BE, example_BL, axis=1)
    mass_BL = jnp.where(allowed_BL, jnp.exp(logit_BL - top_BL), 0.0)
    mass_BE = _per_example(jax.ops.segment_sum, mass_BL, example_BL, num)
    mass_BL = jnp.take_along_axis(mass_BE, example_BL, axis=1)
    # in this order: logits are larger than what is left of them
    nll_BL = jnp.log(jnp.where(gold_BL, mass_BL, 1.0)) + (top_BL - logit_BL)
    right_BL = gold_BL & (logit_BL >= top_BL)
    right_BE = _per_example(jax.ops.segment_max, right_BL.astype(jnp.int32), example_BL, num) > 0
    return jnp.where(gold_BL, nll_BL, 0.0), right_BE


def _per_example(reduce, x_BL: Array, example_BL: Array, num: int) -> Array:
    """Reduce each example's slots, row by row so that rows may lie on different devices."""
    return jax.vmap(lambda x, segment: reduce(x, segment, num_segments=num))(x_BL, example_BL)


def make(cfg: Config, encoder: Encoder) -> Objective:
    """Build the objective."""
    encode, head = make_encode(encoder, cfg.stream), Head()

    def loss(params: Params, aux: Aux, batches: Batches, key: Key | None) -> Loss:
        batch = batches[cfg.stream]
        logit_BL2 = head.apply({"params": params[NAME]}, encode(params, batch, key))
        return span_loss(logit_BL2, batch)

    return Objective(streams=(cfg.stream,), reads=READS, loss=loss, heads={NAME: head})
