"""Align words and sentences without labels: AMBER's two losses, beside `mlm` and `tlm`.

"wa" (word alignment): two passes over joint pairs, in each of which one side reads the other, as a
translator does, from left to right; the last layer's attention in one pass should be that in the
other, transposed. "sa" (sentence alignment): a stream of pairs in the separate layout; the mean
state of a sentence should point at its translation among all sentences of the batch. Source: Hu et
al. 2021 (AMBER), sections 2.2 and 2.3. Its code is not public any more: what the paper leaves open
follows methods.md 3.1. With `mlm` and `tlm`, all weighted alike, it is the paper's second stage
(configs/amber.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax

from jalign.align.agreement import word_agreement
from jalign.align.contrast import sentence_contrast
from jalign.align.word_pairs import unit_sides
from jalign.config import check_some
from jalign.nn.attention import attention_probs
from jalign.nn.microbatch import over_microbatches
from jalign.nn.packed import Order, reading_order, unit_ids
from jalign.objectives import _sentences
from jalign.objectives._supervised import make_encode
from jalign.types import Array, Aux, Batch, Batches, Encoder, Key, Loss, Objective, Params

LOSSES = ("wa", "sa")
HEAD = "amber_scale"


@dataclass(frozen=True)
class Config(_sentences.Config):
    """Which losses, and their details; the defaults are the paper's.

    `losses`: "wa", "sa" or both. Word alignment reads `stream`, of joint pairs. `include_self`: a
    slot that reads sees itself, too; the equation says only what came before. `renormalize`: what a
    slot gives to the other side is made to sum to 1; without, what it gives to its own is lost.

    Sentence alignment reads `sentences`, of separate pairs, by dot products without a temperature,
    whose softmax saturates early where states are large: watch its metric "max_prob", and try
    `similarity` "scaled_dot" or "cosine".
    """

    losses: tuple[str, ...] = LOSSES
    sentences: str = "separate"
    include_self: bool = False
    renormalize: bool = False
    pool: str = "mean"
    similarity: str = "dot"
    candidates: str = "union"
    reduction: str = "sum"

    def __post_init__(self) -> None:
        """Check the entries. Raises: ValueError naming the entry."""
        super().__post_init__()
        check_some(self, "losses", LOSSES)


def make(cfg: Config, encoder: Encoder) -> Objective:
    """Build the objective.

    Raises: ValueError where a stream has the wrong layout, or where the encoder's last layer does
    not see the whole pair.
    """
    streams, made, heads = [], {}, {}
    if "wa" in cfg.losses:
        streams.append(cfg.stream)
        made["wa"] = _make_word_loss(cfg, encoder)
    if "sa" in cfg.losses:
        streams.append(cfg.sentences)
        heads, made["sa"] = _make_sentence_loss(cfg, encoder)

    def loss(params: Params, aux: Aux, batches: Batches, key: Key | None) -> dict[str, Loss]:
        del aux
        found = {}
        for number, (name, stream) in enumerate(zip(made, streams, strict=True)):
            own_key = None if key is None else jax.random.fold_in(key, number)
            found[name] = made[name](params, batches[stream], own_key)
        return found

    return Objective(
        streams=tuple(streams),
        reads=_sentences.READS,
        loss=loss,
        heads=heads,
        splits=False,
        splits_itself=True,
        parts=tuple(made),
    )


PartLoss = Callable[[Params, Batch, Key | None], Loss]


def _make_word_loss(cfg: Config, encoder: Encoder) -> PartLoss:
    """Build the word alignment loss of joint pairs, in microbatches."""
    layout = encoder.layouts.get(cfg.stream, "joint")
    if layout != "joint":
        raise ValueError(
            f"stream {cfg.stream!r} has layout {layout!r}: words align by attention from one side "
            f"of a pair to the other; set config.streams.{cfg.stream}.layout='joint'"
        )
    attention = make_attention(cfg, encoder)

    def loss(params: Params, batch: Batch, key: Key | None) -> Loss:
        def one(part: Batch, number: Array) -> Loss:
            found = []
            for reader in (1, 2):
                order = side_order(part, reader, include_self=cfg.include_self)
                pass_key = key if key is None else jax.random.fold_in(key, 2 * number + reader)
                found.append(attention(params, part, order, pass_key))
            return word_agreement(*found, part, renormalize=cfg.renormalize)

        fields = {name: batch[name] for name in _sentences.READS}
        found = over_microbatches(one, fields, encoder.accumulate)
        return jax.tree.map(lambda x: x.sum(axis=0), found)

    return loss


def make_attention(
    cfg: Config, encoder: Encoder
) -> Callable[[Params, Batch, Order, Key | None], Array]:
    """Build `attention(params, batch, order, key)`: the probabilities of the last layer, float32
    [B, H, L, L].

    The pass runs the layers below as usual; of the last one it needs no more than queries and keys.
    """
    max_unit, below = encoder.max_unit.get(cfg.stream), encoder.module.cfg.layers - 1

    def attention(params: Params, batch: Batch, order: Order, key: Key | None) -> Array:
        module, first = encoder.first_layers(params["encoder"], below)
        unit_BL = unit_ids(batch)
        h_BLD = module.apply(
            {"params": first},
            batch["ids"],
            batch["position"],
            unit_BL,
            max_unit=max_unit,
            order=order,
            deterministic=key is None,
            rngs={} if key is None else {"dropout": key},
        )
        queries = encoder.top_queries(params["encoder"], h_BLD, batch["position"])
        return attention_probs(*queries, unit_BL, order=order)

    return attention


def side_order(batch: Batch, reader: int, *, include_self: bool = False) -> Order:
    """Let the side `reader` of every pair read the other one: it sees that, and of its own slots
    those before; the other side sees itself alone.
    """
    order = reading_order(unit_sides(batch) == reader)
    return order.with_self() if include_self else order


def _make_sentence_loss(cfg: Config, encoder: Encoder) -> tuple[dict, PartLoss]:
    """Build the heads and the sentence alignment loss of separate pairs."""
    _sentences.check_separate(encoder, cfg.sentences)
    heads, tau = _sentences.make_tau(cfg, HEAD)
    encode, rule = make_encode(encoder, cfg.sentences), cfg.rule()

    def loss(params: Params, batch: Batch, key: Key | None) -> Loss:
        vectors = _sentences.make_vectors(cfg, encoder, lambda b, k: encode(params, b, k))
        found = vectors(batch, key)
        contrasted = sentence_contrast(
            found.pairs(), rule, tau=tau(params), parts=encoder.accumulate
        )
        return contrasted.replace(metrics=contrasted.metrics | _sentences.over_metric(found))

    return heads, loss
