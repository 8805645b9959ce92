"""Rank translations, and write one side's tokens from the other's states: dual-alignment
pre-training.

In: a stream of pairs in the separate layout. Two losses share the pass: "ranking", as in `labse`
but through a layer that only training has, and "translation": a small decoder reads the states of
one side and mask tokens in place of the other, and predicts every token of it. Source: Li et al.
2023 (DAP) and their released code (methods.md 7.3). Differs: the decoder's layers begin as copies
of the encoder's last ones, as released, but it shares the encoder's embeddings and masked-LM head,
of which the released one has copies; it predicts over the whole vocabulary; its inputs get no
second position embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jalign.align import sentences as s
from jalign.align.contrast import sentence_contrast
from jalign.align.word_pairs import unit_sides
from jalign.nn.layers import Dense
from jalign.nn.microbatch import join_rows, over_microbatches
from jalign.nn.vocab_loss import gather_masked, gather_slots, vocab_cross_entropy
from jalign.objectives import _sentences
from jalign.objectives._supervised import make_encode
from jalign.types import Array, Aux, Batch, Batches, Encoder, Key, Loss, Mean, Objective, Params

PARTS = ("ranking", "translation")
READS = (*_sentences.READS, "lang")
DECODER, POOLER, SCALE = "dap_decoder", "dap_pooler", "dap_scale"


@dataclass(frozen=True)
class Config(_sentences.Config):
    """The contrast, and the translation of states.

    `into`: the side that is written, "src", "trg", or a language of the data, in which case pairs
    with it on both sides or none are not written. `layers`: of the decoder. `room`: the share of
    the slots that the vocabulary loss has room for; tokens beyond it are counted ("over_cap").
    """

    tau: float = 0.05
    into: str = "en"
    layers: int = 2
    room: float = 0.6
    vocab_loss: str = "auto"

    def __post_init__(self) -> None:
        """Check the entries. Raises: ValueError naming the entry."""
        super().__post_init__()
        if self.layers < 1 or not 0 < self.room <= 1:
            raise ValueError(
                f"layers={self.layers}, room={self.room}: need at least 1, and more than 0 to 1"
            )


class Pooler(nn.Module):
    """A dense layer and tanh over a sentence's vector, float32; training alone has it."""

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Return tanh(h W + b)."""
        dense = Dense((h.shape[-1],), ("embed", None), jnp.float32, name="dense")
        return jnp.tanh(dense(h.astype(jnp.float32)))


class DecoderLayers(NamedTuple):
    """The layers of the decoder as a head: they are parameters of an encoder that has no others."""

    module: nn.Module

    def init(self, key: Key, h: Array) -> Params:
        """Draw them; `init_heads` then overwrites them with copies."""
        del h
        # the parameters do not depend on the attention, and kernels refuse such short rows
        module = type(self.module)(replace(self.module.cfg, attention="dense"))
        one = jnp.zeros((1, 4), jnp.int32)
        drawn = module.init(key, one, one, one + 1, method=module.initialise)["params"]
        return {"params": {"layers": drawn["layers"]}}


def make(cfg: Config, encoder: Encoder) -> Objective:
    """Build the objective.

    Raises: ValueError where the stream is no separate pairs, the data has no such language, or the
    encoder has no masked-LM head or cannot give its last layers.
    """
    _sentences.check_separate(encoder, cfg.stream)
    if encoder.last_layers is None or not encoder.module.cfg.head:
        raise ValueError(
            "the decoder is made of the encoder's last layers and its masked-LM head: set "
            "config.encoder.family='bert' and config.encoder.head=True"
        )
    scale, tau = _sentences.make_tau(cfg, SCALE)
    encode, translate = make_encode(encoder, cfg.stream), _make_translate(cfg, encoder)
    rule, parts = cfg.rule(), encoder.accumulate

    def loss(params: Params, aux: Aux, batches: Batches, key: Key | None) -> dict[str, Loss]:
        del aux
        batch = {name: batches[cfg.stream][name] for name in READS}
        num = s.room(batch["ids"].shape[1], cfg.max_pairs)

        def one(part: Batch, number: Array):
            part_key = None if key is None else jax.random.fold_in(key, number)
            h_BLD = encode(params, part, part_key)
            found = s.sentence_vectors(h_BLD, part, num, pool=cfg.pool)
            return tuple(found[:4]), found.over, translate(params, h_BLD, part, part_key)

        sentences, over, written = over_microbatches(one, batch, parts)
        found = s.Sentences(*join_rows(sentences), over.sum())
        pairs = found.pairs()
        sides = (Pooler().apply({"params": params[POOLER]}, x) for x in pairs[:2])
        pairs = pairs._replace(**dict(zip(("src_ND", "trg_ND"), sides, strict=True)))
        ranked = sentence_contrast(pairs, rule, tau=tau(params), parts=parts)
        return {
            "ranking": ranked.replace(metrics=ranked.metrics | _sentences.over_metric(found)),
            "translation": jax.tree.map(lambda x: x.sum(axis=0), written),
        }

    decoder, _ = encoder.last_layers({"layers": {}}, cfg.layers)

    def init_heads(params: Params) -> Params:
        _, last = encoder.last_layers(params["encoder"], cfg.layers)
        return {DECODER: {"layers": jax.tree.map(jnp.copy, last["layers"])}}

    return Objective(
        streams=(cfg.stream,),
        reads=READS,
        loss=loss,
        heads={POOLER: Pooler(), DECODER: DecoderLayers(decoder)} | scale,
        splits=False,
        splits_itself=True,
        parts=PARTS,
        init_heads=init_heads,
    )


def _make_translate(cfg: Config, encoder: Encoder):
    """Build `translate(params, h_BLD, batch, key)`: the loss of the tokens that are written."""
    is_written = _make_is_written(cfg, encoder)
    longest = encoder.max_unit.get(cfg.stream)

    def decode(module: nn.Module, h_BLD: Array, batch: Batch, train: bool) -> Loss:
        written_BL, first_BL = is_written(batch), batch["position"] == 0
        mask_BL = jnp.full_like(batch["ids"], encoder.tokens.mask)
        empty_ND = module.embed(mask_BL, batch["position"], deterministic=not train)
        states_BLD = jnp.where(written_BL[..., None], empty_ND.reshape(h_BLD.shape), h_BLD)
        # both sides are one unit; the first tokens, whose states the ranking shapes, are out of it
        unit_BL = jnp.where(first_BL, 0, batch["example"])
        length = batch["ids"].shape[1]
        h_BLD = module(
            mask_BL,
            batch["position"],
            unit_BL,
            max_unit=longest and min(2 * longest, length),
            deterministic=not train,
            states_BLD=states_BLD.astype(h_BLD.dtype),
        )
        target_BL = written_BL & ~first_BL
        return _predict(cfg, module, h_BLD, batch["ids"], target_BL, encoder.num_groups)

    def translate(params: Params, h_BLD: Array, batch: Batch, key: Key | None) -> Loss:
        module, last = encoder.last_layers(params["encoder"], cfg.layers)
        variables = {"params": last | params[DECODER]}
        rngs = {} if key is None else {"dropout": jax.random.fold_in(key, 1)}
        return nn.apply(decode, module)(variables, h_BLD, batch, key is not None, rngs=rngs)

    return translate


def _predict(
    cfg: Config, module: nn.Module, h_BLD: Array, ids_BL: Array, target_BL: Array, groups: int
) -> Loss:
    """Return the cross-entropy at the targets that there is room for."""
    cap = max(1, int(cfg.room * target_BL.size / groups))
    index_GP, keep_GP = gather_masked(target_BL, cap, groups)
    h_ND = module.transform(gather_slots(h_BLD, index_GP).reshape(-1, h_BLD.shape[-1]))
    target_N = gather_slots(ids_BL, index_GP).reshape(-1)
    nll_N, right_N = vocab_cross_entropy(h_ND, *module.output(), target_N, method=cfg.vocab_loss)
    keep_N = keep_GP.reshape(-1)
    count = keep_N.sum().astype(jnp.float32)
    over = target_BL.sum().astype(jnp.float32) - count
    metrics = {
        "accuracy": Mean((right_N & keep_N).sum().astype(jnp.float32), count),
        "over_cap": Mean(over, jnp.ones(())),
    }
    return Loss(jnp.where(keep_N, nll_N, 0.0).sum(), count, metrics)


def _make_is_written(cfg: Config, encoder: Encoder):
    """Build the test of which slots belong to the side that is written: bool [B, L]."""
    if cfg.into in ("src", "trg"):
        side = 1 if cfg.into == "src" else 2
        return lambda batch: unit_sides(batch) == side
    if cfg.into not in encoder.languages:
        raise ValueError(
            f"into={cfg.into!r}: need src, trg, or a language of the data "
            f"({', '.join(encoder.languages) or 'none known'})"
        )
    number = encoder.languages.index(cfg.into)

    def is_written(batch: Batch) -> Array:
        example_BL = batch["example"]
        is_it_BL = (example_BL > 0) & (batch["lang"] == number)
        same_BLM = example_BL[:, :, None] == example_BL[:, None, :]
        other_BL = (same_BLM & ~is_it_BL[:, None, :]).any(axis=2)  # both sides of it: no source
        return is_it_BL & other_BL

    return is_written
