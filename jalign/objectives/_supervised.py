"""What the objectives on labelled rows share: encoding a batch, predicting, and the loss
of classes.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jalign.nn.packed import unit_ids
from jalign.types import Array, Batch, Encoder, Key, Loss, Mean, Params

Predict = Callable[[Params, Batch], Array]


def make_encode(encoder: Encoder, stream: str) -> Callable[[Params, Batch, Key | None], Array]:
    """Build `encode(params, batch, key) -> h_BLD`; with a key the encoder drops out."""
    max_unit = encoder.max_unit.get(stream)
    has_types = getattr(encoder.module.cfg, "type_vocab_size", 1) > 1

    def encode(params: Params, batch: Batch, key: Key | None) -> Array:
        return encoder.module.apply(
            {"params": params["encoder"]},
            batch["ids"],
            batch["position"],
            unit_ids(batch),
            type_BL=text_types(batch) if has_types else None,
            max_unit=max_unit,
            deterministic=key is None,
            rngs={} if key is None else {"dropout": jax.random.fold_in(key, 0)},
        )

    return encode


def predict_with(name: str, head: nn.Module, encoder: Encoder, stream: str) -> Predict:
    """Build `predict(params, batch)`: what a head with the parameters `name` says of every slot."""
    encode = make_encode(encoder, stream)

    def predict(params: Params, batch: Batch) -> Array:
        return head.apply({"params": params[name]}, encode(params, batch, None))

    return predict


def text_types(batch: Batch) -> Array:
    """Return BERT's token types, int32 [B, L]: 1 on the second text of an example and its end, else
    0.
    """
    example_BL = batch["example"]
    is_end_BL = (example_BL > 0) & (batch["side"] == 0) & (batch["position"] > 0)
    before_BL = jnp.cumsum(is_end_BL, axis=1, dtype=jnp.int32) - is_end_BL
    # ends passed before the example: those at its first slot, carried along by a running maximum
    start_BL = (example_BL > 0) & (batch["position"] == 0)
    passed_BL = jax.lax.cummax(jnp.where(start_BL, before_BL, 0), axis=1)
    return jnp.where(example_BL > 0, before_BL - passed_BL, 0)


def num_labels(encoder: Encoder, stream: str) -> int:
    """Count the classes of a stream. Raises: ValueError where it has none."""
    labels = encoder.labels.get(stream, ())
    if not labels:
        have = ", ".join(encoder.labels) or "none"
        raise ValueError(
            f"stream {stream!r} has no labels (streams that have: {have}): set "
            f"config.streams.{stream}.task.labels, or the objective's stream"
        )
    return len(labels)


def class_loss(logit_NC: Array, label_N: Array) -> Loss:
    """Return the summed cross-entropy at the labels that are not -1, and their accuracy."""
    logit_NC = logit_NC.astype(jnp.float32)
    keep_N = label_N >= 0
    picked_N = jnp.take_along_axis(logit_NC, jnp.maximum(label_N, 0)[:, None], axis=1)[:, 0]
    nll_N = jax.nn.logsumexp(logit_NC, axis=1) - picked_N
    right_N = keep_N & (logit_NC.argmax(axis=1) == label_N)
    count = keep_N.sum().astype(jnp.float32)
    metrics = {"accuracy": Mean(right_N.sum().astype(jnp.float32), count)}
    return Loss(jnp.where(keep_N, nll_N, 0.0).sum(), count, metrics)
