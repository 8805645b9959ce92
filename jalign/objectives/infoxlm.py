"""Contrast a sentence with the keys of a slow copy of the encoder: InfoXLM's XLCo.

In: a stream of pairs in the separate layout. The fast encoder makes queries, the slow one, which
follows it by momentum, keys; a query looks for the key of its translation among those of earlier
steps, which wait in a queue. InfoXLM is this beside `mlm` and `tlm`. Source: Chi et al. 2021 and
their released code (methods.md 7.1). Differs: both directions of each pair count, for a row holds
both sides and both encoders see it all (`directions="flip"` draws one, as released); the queue
starts empty and fills, where the released one is filled by passes before the first step; the slow
encoder has no dropout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jalign.align import contrast as c
from jalign.align import sentences as s
from jalign.align.mixup import mix_up
from jalign.config import check_choices
from jalign.nn.layers import INIT_STD, sharded
from jalign.nn.microbatch import join_rows, over_microbatches
from jalign.nn.packed import unit_ids
from jalign.objectives import _sentences, mlm
from jalign.types import Array, Aux, Batch, Batches, Encoder, Key, Loss, Mean, Objective, Params

HEAD = "infoxlm_projection"
DIRECTIONS = ("both", "flip")


@dataclass(frozen=True)
class Config:
    """The defaults are those released for the base model.

    `layer`: whose first state is a sentence's vector, through a matrix (`projection`).
    `similarity`: "dot" as released, for a pretrained encoder; from random weights norms grow from
    step to step, so that a dot product with this step's key wins over all those of the queue, and
    the loss is 0: take "cosine" there, with a lower `tau`. `queue`: its places. `momentum`: what
    the slow copy keeps of itself at each step. `mixup`: pairs are joined two by two; their units
    are twice as long. `rate`, `mask`, `replace`: of the corruption of both encoders' inputs, as in
    `mlm`; rate 0: none. `max_pairs`: how many pairs of a row take part (joined ones count once); 0:
    all that it could hold.
    """

    stream: str = "pair"
    layer: int = 8
    similarity: str = "dot"
    tau: float = 0.25
    queue: int = 131_072
    momentum: float = 0.9999
    mixup: bool = True
    directions: str = "both"
    projection: bool = True
    rate: float = 0.15
    mask: float = 0.8
    replace: float = 0.1
    max_pairs: int = 0

    def __post_init__(self) -> None:
        """Check the entries. Raises: ValueError naming the entry."""
        check_choices(self, {"directions": DIRECTIONS})
        if not 0 <= self.momentum <= 1 or self.tau <= 0 or self.queue < 1 or self.max_pairs < 0:
            raise ValueError(
                f"momentum={self.momentum}, tau={self.tau}, queue={self.queue}, "
                f"max_pairs={self.max_pairs}: need 0 to 1, more than 0, at least 1, and 0 or more"
            )
        if not isinstance(self.rate, (int, float)):
            raise ValueError(f"rate={self.rate!r}: need a number, this objective has no schedule")
        c.Rule(self.similarity)
        self.masking()

    def masking(self) -> mlm.Config | None:
        """Return how inputs are corrupted, None for not at all."""
        if self.rate == 0:
            return None
        return mlm.Config(self.stream, self.rate, self.mask, self.replace)


class Projection(nn.Module):
    """A square matrix."""

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Return h W, float32."""
        init = sharded(nn.initializers.normal(INIT_STD), "embed", None)
        kernel = self.param("kernel", init, (h.shape[-1], h.shape[-1]))
        return h.astype(jnp.float32) @ kernel


def make(cfg: Config, encoder: Encoder) -> Objective:
    """Build the objective.

    Raises: ValueError where the encoder has no such layer, or no room for joined sentences.
    """
    _sentences.check_separate(encoder, cfg.stream)
    if not 0 <= cfg.layer <= encoder.module.cfg.layers:
        raise ValueError(f"layer={cfg.layer}: the encoder has {encoder.module.cfg.layers} layers")
    longest = encoder.max_unit.get(cfg.stream)
    if cfg.mixup and longest and 2 * longest > encoder.module.cfg.positions:
        raise ValueError(
            f"mixup joins two sentences of up to {longest} slots, and the encoder has "
            f"{encoder.module.cfg.positions} positions: set config.streams.{cfg.stream}.max_unit="
            f"{encoder.module.cfg.positions // 2}, or mixup=False"
        )
    vectors = _make_vectors(cfg, encoder)

    def loss(params: Params, aux: Aux, batches: Batches, key: Key | None) -> Loss:
        train = key is not None
        key = key if train else jax.random.key(mlm.EVAL_SEED)
        batch = {name: batches[cfg.stream][name] for name in mlm.READS}
        if cfg.mixup:
            batch = mix_up(batch, jax.random.fold_in(key, 5))
        fast, slow, over = vectors(params, aux["slow"], batch, key, train)
        keys = [c.queue_keys(aux["queue"])]
        rule = c.Rule(cfg.similarity)
        anchors = _anchors(cfg, fast, slow, batch, key)
        pulled = [
            c.info_nce(some, keys, rule, tau=cfg.tau, parts=encoder.accumulate) for some in anchors
        ]
        both = jax.tree.map(lambda *x: sum(x) / len(pulled), *pulled)
        filled = Mean(aux["queue"].keep_Q.sum().astype(jnp.float32), jnp.float32(cfg.queue))
        metrics = {"over": Mean(over, jnp.ones(())), "filled": filled}
        carry = [(a.positive_ND, a.keep_N) for a in anchors]
        return both.replace(
            metrics=both.metrics | metrics,
            carry=tuple(jnp.concatenate(x) for x in zip(*carry, strict=True)),
        )

    def init_aux(params: Params) -> Aux:
        slow = jax.tree.map(jnp.copy, _first_layers(cfg, encoder, params))
        return {"slow": slow, "queue": c.empty_queue(cfg.queue, encoder.module.cfg.hidden)}

    def update_aux(aux: Aux, params: Params, carry: Any) -> Aux:
        fast = _first_layers(cfg, encoder, params)
        return {
            "slow": c.momentum_update(aux["slow"], fast, cfg.momentum),
            "queue": c.enqueue(aux["queue"], *carry),
        }

    return Objective(
        streams=(cfg.stream,),
        reads=mlm.READS,
        loss=loss,
        heads={HEAD: Projection()} if cfg.projection else {},
        init_aux=init_aux,
        update_aux=update_aux,
        splits=False,
        splits_itself=True,
    )


def _first_layers(cfg: Config, encoder: Encoder, params: Params) -> Params:
    """Return what the slow copy is a copy of: the layers up to the vectors, and the projection."""
    _, cut = encoder.first_layers(params["encoder"], cfg.layer)
    return {"encoder": cut} | ({HEAD: params[HEAD]} if cfg.projection else {})


def _make_vectors(cfg: Config, encoder: Encoder):
    """Build `vectors(params, slow, batch, key, train)`: the sentences of the whole batch by both
    encoders, and how many pairs had no room.
    """
    masking, longest = cfg.masking(), encoder.max_unit.get(cfg.stream)
    max_unit = longest and longest * (2 if cfg.mixup else 1)

    def vectors(params: Params, slow: Params, batch: Batch, key: Key, train: bool):
        num = s.room(batch["ids"].shape[1], cfg.max_pairs)
        module, _ = encoder.first_layers(params["encoder"], cfg.layer)
        fast, slow = _first_layers(cfg, encoder, params), jax.lax.stop_gradient(slow)

        def encode(mine: Params, ids_BL: Array, part: Batch, dropout: Key | None) -> Array:
            return module.apply(
                {"params": mine["encoder"]},
                ids_BL,
                part["position"],
                unit_ids(part),
                max_unit=max_unit and min(max_unit, ids_BL.shape[1]),
                deterministic=dropout is None,
                rngs={} if dropout is None else {"dropout": dropout},
            )

        def one(part: Batch, number: Array):
            ids_BL = part["ids"]
            if masking:
                ids_BL = mlm.mask_batch(masking, encoder, part, key, cfg.rate).ids_BL
            dropout = jax.random.fold_in(jax.random.fold_in(key, 2), number) if train else None
            made = []
            for mine, drop in ((fast, dropout), (slow, None)):
                found = s.sentence_vectors(encode(mine, ids_BL, part, drop), part, num, pool="cls")
                sides = (found.src_BED, found.trg_BED)
                if cfg.projection:
                    sides = tuple(Projection().apply({"params": mine[HEAD]}, x) for x in sides)
                made.append(found._replace(src_BED=sides[0], trg_BED=sides[1]))
            return tuple(tuple(found[:4]) for found in made), made[0].over

        both, over = over_microbatches(one, batch, encoder.accumulate)
        fast_found, slow_found = (s.Sentences(*join_rows(x), over.sum()) for x in both)
        return fast_found, slow_found, over.sum()

    return vectors


def _anchors(
    cfg: Config, fast: s.Sentences, slow: s.Sentences, batch: Batch, key: Key
) -> list[c.Anchors]:
    """Return the queries with their keys: sources and targets, or of each pair one by a coin."""
    query, held = fast.pairs(), slow.pairs()
    owner_N = jnp.arange(query.keep_N.shape[0])
    forward = (query.src_ND, held.trg_ND)
    backward = (query.trg_ND, held.src_ND)
    if cfg.directions == "both":
        chosen = [forward, backward]
    else:
        num = fast.keep_BE.shape[1]

        def coins(row: Array) -> Array:
            return jax.random.bernoulli(jax.random.fold_in(key, row), shape=(num,))

        coin_N1 = jax.vmap(coins)(batch["row"]).reshape(-1, 1)
        chosen = [tuple(jnp.where(coin_N1, *x) for x in zip(forward, backward, strict=True))]
    return [c.Anchors(q, jax.lax.stop_gradient(k), query.keep_N, owner_N) for q, k in chosen]
