"""Train word alignment by expectation-maximisation: XLM-Align's two losses on a joint pair.

In: a stream of joint pairs. The E-step encodes the pair unmasked, without gradient, and labels each
word piece with its partner by optimal transport. The M-step encodes it masked, once, for two
losses: "tlm", and "pointer": every masked piece that has a label points at its partner. Source: Chi
et al. 2021 and their released code (methods.md 4.2-4.3). Differs: rows hold many pairs; nothing is
compared across them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jalign.align import extract
from jalign.align.similarity import KINDS, row_pair_mask, similarity
from jalign.align.transport import sinkhorn
from jalign.config import check_choices
from jalign.nn.layers import sharded
from jalign.nn.packed import scatter_links, unit_ids
from jalign.objectives import mlm
from jalign.schedule import Schedule, last, make_value, values_of
from jalign.types import Array, Aux, Batch, Batches, Encoder, Key, Loss, Mean, Objective, Params

PARTS = ("tlm", "pointer")
READS = (*mlm.READS, "word")
BIG_NEGATIVE = -1e30


@dataclass(frozen=True)
class Config(mlm.Config):
    """Masking as in `mlm`; the labels; where they come from.

    `layer`: whose states the E-step compares (0: embeddings). `order`: of the normalisations,
    "code" or "paper", or "none" for the first public version, which had no transport. `extract`:
    "itermax" or "mutual". `projection`: the pointer's two linear maps, else none. `points`: which
    labelled pieces point, the "masked" (the source) or "all", which an encoder needs that learns
    from scratch: to find the partner of what it sees comes before guessing what it does not.
    `min_confidence`: self-labels of less mass are dropped. `prior`: exponent, on a schedule, of the
    batch's link weights in the transport kernel; `given`: share, on a schedule, of the pairs that
    take the batch's links as labels instead of their own.
    """

    stream: str = "pair"
    layer: int = 10
    similarity: str = "dot"
    order: str = "code"
    num_iters: int = 2
    extract: str = "itermax"
    count: int = 2
    alpha: float = 0.9
    projection: bool = True
    points: str = "masked"
    min_confidence: float = 0.0
    prior: Schedule = 0.0
    prior_floor: float = 1e-3
    given: Schedule = 0.0

    def __post_init__(self) -> None:
        """Check the entries. Raises: ValueError naming the entry."""
        super().__post_init__()
        choices = {
            "similarity": KINDS,
            "order": ("code", "paper", "none"),
            "extract": ("itermax", "mutual"),
            "points": ("masked", "all"),
        }
        check_choices(self, choices)
        for name, highest in (("prior", float("inf")), ("given", 1.0)):
            values = values_of(getattr(self, name), name)
            bad = [f"{n}={v}" for n, v in values.items() if not 0 <= v <= highest]
            if bad:
                raise ValueError(f"{', '.join(bad)}: need 0 to {highest}")


class Pointer(nn.Module):
    """The two linear maps of the pointer, as PyTorch initialises `nn.Linear`."""

    identity: bool = False

    @nn.compact
    def __call__(self, h: Array) -> tuple[Array, Array]:
        """Return queries and keys, float32."""
        h = h.astype(jnp.float32)  # f32: these are logits in the making
        if self.identity:
            return h, h
        size, reach = h.shape[-1], h.shape[-1] ** -0.5

        def uniform(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -reach, reach)

        def linear(name: str) -> Array:
            kernel = self.param(f"{name}_kernel", sharded(uniform, "embed", None), (size, size))
            return h @ kernel + self.param(f"{name}_bias", sharded(uniform, None), (size,))

        return linear("query"), linear("key")


def self_labels(
    cfg: Config, h_BLD: Array, batch: Batch, prior_BLL: Array | None = None
) -> tuple[Array, Array]:
    """Do the E-step on the states of unmasked pairs: links and their mass, [B, L, L].

    `prior_BLL` multiplies the kernel. No gradient flows.
    """
    pair_BLL = row_pair_mask(batch["example"], batch["side"])
    sim_BLL = similarity(*2 * (jax.lax.stop_gradient(h_BLD),), kind=cfg.similarity)
    if prior_BLL is not None:
        sim_BLL = jnp.maximum(sim_BLL, 1e-6) * prior_BLL
    pi_BLL = xi_BLL = sim_BLL
    if cfg.order != "none":
        pi_BLL, xi_BLL = sinkhorn(sim_BLL, pair_BLL, num_iters=cfg.num_iters, order=cfg.order)
    if cfg.extract == "itermax":
        links_BLL = extract.itermax(pi_BLL, pair_BLL, count=cfg.count, alpha=cfg.alpha)
    else:
        links_BLL = extract.plan_links(pi_BLL, xi_BLL, pair_BLL)
    return links_BLL & (pi_BLL >= cfg.min_confidence), pi_BLL


def pointer_loss(query_BLD: Array, key_BLD: Array, batch: Batch, target_BL: Array) -> Loss:
    """Return the cross-entropy of pointing from slots to `target_BL` (-1: no label) among the
    content slots of the other side of the same pair.
    """
    pair_BLL = row_pair_mask(batch["example"], batch["side"])
    other_BLL = pair_BLL | pair_BLL.swapaxes(1, 2)
    logit_BLL = jnp.einsum(
        "BLD,BMD->BLM", query_BLD, key_BLD, preferred_element_type=jnp.float32
    ) * (query_BLD.shape[-1] ** -0.5)
    logit_BLL = jnp.where(other_BLL, logit_BLL, BIG_NEGATIVE)
    keep_BL = target_BL >= 0
    where_BL1 = jnp.maximum(target_BL, 0)[..., None]
    picked_BL = jnp.take_along_axis(logit_BLL, where_BL1, axis=2)[..., 0]
    # a row without a partner would give log(0 + ...) of nothing but masks: finite, and not kept
    nll_BL = jax.nn.logsumexp(logit_BLL, axis=2) - picked_BL
    right_BL = picked_BL >= logit_BLL.max(axis=2)
    count = keep_BL.sum().astype(jnp.float32)
    metrics = {"accuracy": Mean((right_BL & keep_BL).sum().astype(jnp.float32), count)}
    return Loss(jnp.where(keep_BL, nll_BL, 0.0).sum(), count, metrics)


def labels_of(links_BLL: Array, batch: Batch, given: Array | float, key: Key) -> Array:
    """Return the partner slot of every content slot, -1 for none; a `given` share of the pairs
    takes the batch's links instead of `links_BLL`.

    Of several partners the last one counts, as in the released code.
    """
    if "links" in batch:
        given_BLL = scatter_links(batch) > 0
        length = links_BLL.shape[1]

        def uniform(row):
            return jax.random.uniform(jax.random.fold_in(key, row), (length,))

        # one draw per example of the row: its slots look theirs up
        draw_BL = jnp.take_along_axis(jax.vmap(uniform)(batch["row"]), batch["example"], axis=1)
        links_BLL = jnp.where((draw_BL < given)[..., None], given_BLL, links_BLL)
    src_BL, trg_BL = extract.last_links(links_BLL)
    return jnp.maximum(src_BL, trg_BL)


def make_labels(
    cfg: Config, encoder: Encoder
) -> Callable[[Params, Batch, Mapping[str, Any], Key], Array]:
    """Build the E-step: `labels(params, batch, values, key)`, the partner slots [B, L] of the
    unmasked pairs; `values` holds the current "prior" and "given".
    """
    max_unit = encoder.max_unit.get(cfg.stream)
    all_given = min(values_of(cfg.given, "given").values()) >= 1

    def labels(params: Params, batch: Batch, values: Mapping[str, Any], key: Key) -> Array:
        if all_given and "links" in batch:  # every pair takes them: nothing to encode
            return labels_of(scatter_links(batch) > 0, batch, 1.0, key)
        # Nothing of this is differentiated: cut before the encoder, not after it.
        module, encoder_params = encoder.first_layers(
            jax.lax.stop_gradient(params["encoder"]), cfg.layer
        )
        variables = {"params": encoder_params}
        h_BLD = module.apply(
            variables, batch["ids"], batch["position"], unit_ids(batch), max_unit=max_unit
        )
        prior_BLL = None
        if "links" in batch:
            weight_BLL = jnp.maximum(scatter_links(batch), cfg.prior_floor)
            prior_BLL = weight_BLL ** values["prior"]
        links_BLL, _ = self_labels(cfg, h_BLD, batch, prior_BLL)
        return labels_of(links_BLL, batch, values["given"], jax.random.fold_in(key, 3))

    return labels


def make(cfg: Config, encoder: Encoder) -> Objective:
    """Build the objective. Raises: ValueError where the encoder has no such layer."""
    if not 0 <= cfg.layer <= encoder.module.cfg.layers:
        raise ValueError(
            f"layer={cfg.layer}: the encoder has {encoder.module.cfg.layers} layers (0 is the "
            "embeddings)"
        )
    max_unit, pointer = encoder.max_unit.get(cfg.stream), Pointer(identity=not cfg.projection)
    scheduled = {name: make_value(getattr(cfg, name), name) for name in ("rate", "prior", "given")}
    labels = make_labels(cfg, encoder)

    def m_step(module: nn.Module, batch: Batch, key: Key, rate: Array | float, train: bool):
        masked = mlm.mask_batch(cfg, encoder, batch, key, rate)
        h_BLD = module(
            masked.ids_BL,
            batch["position"],
            unit_ids(batch),
            max_unit=max_unit,
            deterministic=not train,
        )
        tlm = mlm.predict_masked(module, h_BLD, batch, masked, cfg.vocab_loss)
        return tlm, h_BLD, masked.selected_BL

    encode = nn.apply(m_step, encoder.module)

    def loss(params: Params, aux: Aux, batches: Batches, key: Key | None) -> dict[str, Loss]:
        batch, train = batches[cfg.stream], key is not None
        if train:
            values = {name: value(aux["step"]) for name, value in scheduled.items()}
        else:
            values = {name: last(getattr(cfg, name)) for name in scheduled}
        key = key if train else jax.random.key(mlm.EVAL_SEED)
        label_BL = labels(params, batch, values, key)
        rngs = {"dropout": jax.random.fold_in(key, 2)} if train else {}
        variables = {"params": params["encoder"]}
        tlm, h_BLD, selected_BL = encode(variables, batch, key, values["rate"], train, rngs=rngs)
        query_BLD, key_BLD = pointer.apply({"params": params.get("pointer", {})}, h_BLD)
        target_BL = label_BL if cfg.points == "all" else jnp.where(selected_BL, label_BL, -1)
        pointed = pointer_loss(query_BLD, key_BLD, batch, target_BL)
        content = (batch["side"] > 0).sum().astype(jnp.float32)
        labelled = Mean((label_BL >= 0).sum().astype(jnp.float32), content)
        return {
            "tlm": tlm,
            "pointer": pointed.replace(metrics=pointed.metrics | {"labelled": labelled}),
        }

    return Objective(
        streams=(cfg.stream,),
        reads=READS,
        loss=loss,
        heads={"pointer": pointer} if cfg.projection else {},
        init_aux=mlm.first_step,
        update_aux=mlm.next_step,
        parts=PARTS,
    )
