"""Adjust an encoder to parallel text: draw linked words together, and hold the rest where it was.

In: a stream of pairs in the separate layout, with word links (but for "wordot"), and a frozen copy
of the encoder. Two losses share the pass: "align", the distance of linked words, and "drift", how
far the encoder has moved from the frozen copy. Source: Cao et al. 2020; Efimov et al. 2022 and
their released code; Wu & Dredze 2020 (drift of parameters); Alqahtani et al. 2021 ("wordot").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jalign.align import word_pairs as w
from jalign.align.transport import Entropic, sinkhorn_divergence
from jalign.config import check_choices
from jalign.objectives._supervised import make_encode
from jalign.types import Array, Aux, Batch, Batches, Encoder, Key, Loss, Mean, Objective, Params

READS = ("ids", "example", "side", "position", "word", "lang")
LINKS = ("links", "link_weight")
CHOICES = {
    "distance": ("l2", "wordot"),
    "reduction": ("mse", "mean", "sum"),
    "pool": w.POOLS,
    "drift": ("states", "parameters", "none"),
}
SIDES = {"src": (1,), "trg": (2,), "both": (1, 2)}


@dataclass(frozen=True)
class Config:
    """The distance, the words, and the drift.

    `distance`: "l2" of linked words, or "wordot", the Sinkhorn divergence (weight `mu` of the
    entropy, `num_iters` rounds) of the words of all sources and all targets of a step, which needs
    no links. `reduction`: "mse", the mean over words and dimensions, as the released code; "mean",
    over words, of squared distances; "sum" of them over the step, as the paper prints it. So the
    drift weighs pairs / words as much with "mse" as it does with "sum".

    `pool`: a word's vector is the "mean" of its pieces, the "first" or "last"; "piece": links join
    pieces. `min_weight`: of links (those of a lexicon are probabilities). `one_to_one`: words of
    several links lose them all. `skip_identical`: links of words with the same pieces are dropped.
    `frame`: the special tokens around the sentences are pairs, too. Sentences that are left without
    a link, or have more than `max_words` words on a side (0: any number), take no part.

    `drift`: of hidden "states", on `drift_side`, a language, src, trg or both; of "parameters", the
    Euclidean norm of the difference; or "none". `frozen`: model whose encoder is the frozen copy,
    "" for that which the run starts from.
    """

    stream: str = "pair"
    distance: str = "l2"
    reduction: str = "mse"
    pool: str = "mean"
    min_weight: float = 0.0
    one_to_one: bool = True
    skip_identical: bool = True
    frame: bool = True
    max_words: int = 0
    drift: str = "states"
    drift_side: str = "en"
    frozen: str = ""
    mu: float = 0.05
    num_iters: int = 100

    def __post_init__(self) -> None:
        """Check the entries. Raises: ValueError naming the entry."""
        check_choices(self, CHOICES)
        if not 0 <= self.min_weight <= 1 or self.max_words < 0:
            raise ValueError(
                f"min_weight={self.min_weight}, max_words={self.max_words}: need 0 to 1, and 0 or "
                "more"
            )
        if self.frozen and self.drift == "none":
            raise ValueError(f"frozen={self.frozen!r} is not used with drift='none': remove it")
        Entropic(self.mu, self.num_iters)  # checks its numbers

    @property
    def splits(self) -> bool:
        """Say whether a step's loss is that of its parts put together."""
        return self.distance == "l2" and self.reduction != "sum"


def make(cfg: Config, encoder: Encoder) -> Objective:
    """Build the objective.

    Raises: ValueError where the stream is no separate pairs, or has not the language of the drift.
    """
    layout = encoder.layouts.get(cfg.stream, "separate")
    if layout != "separate":
        raise ValueError(
            f"stream {cfg.stream!r} has layout {layout!r}: a word's vector must not see the "
            f"translation; set config.streams.{cfg.stream}.layout='separate'"
        )
    drift, encode = _make_drift(cfg, encoder), make_encode(encoder, cfg.stream)
    parts = ("align",) if drift is None else ("align", "drift")

    def loss(params: Params, aux: Aux, batches: Batches, key: Key | None) -> dict[str, Loss]:
        batch = batches[cfg.stream]
        words = w.read_words(batch, pool=cfg.pool)
        chosen = choose_pairs(cfg, batch, words)
        vector_BLD = w.word_vectors(encode(params, batch, key), words, pool=cfg.pool)
        if cfg.distance == "l2":
            src_BAD, trg_BAD = w.pick(vector_BLD, chosen.pairs)
            aligned = squares(src_BAD - trg_BAD, chosen.pairs.keep_BA, cfg.reduction)
        else:
            aligned = transport_loss(cfg, vector_BLD, chosen)
        found = {"align": aligned.replace(metrics=chosen.metrics)}
        if drift is not None:
            found["drift"] = drift(params, aux["frozen"], batch, vector_BLD, chosen)
        return found

    return Objective(
        streams=(cfg.stream,),
        reads=READS + (LINKS if cfg.distance == "l2" else ()),
        loss=loss,
        init_aux=_freeze if drift is not None else lambda params: {},
        splits=cfg.splits,
        parts=parts,
        frozen=cfg.frozen,
    )


def _freeze(params: Params) -> Aux:
    """Copy the encoder: the step overwrites the parameters that it is given."""
    return {"frozen": {"encoder": jax.tree.map(jnp.copy, params["encoder"])}}


class Chosen(NamedTuple):
    """The pairs that are drawn together, the words that take part [B, L], and what was left out."""

    words: w.Words
    pairs: w.WordPairs
    word_BL: Array
    metrics: dict[str, Mean]


def choose_pairs(cfg: Config, batch: Batch, words: w.Words) -> Chosen:
    """Filter the links of a batch, and the sentences that are left without any."""
    takes_BL = batch["example"] > 0
    if cfg.max_words:
        takes_BL &= ~w.example_has(batch["word"] >= cfg.max_words, batch)
    metrics, pairs = {}, w.WordPairs(*[jnp.zeros((len(takes_BL), 0), jnp.int32)] * 3)
    if cfg.distance == "l2":
        given = w.distinct_pairs(w.linked_words(batch, words, min_weight=cfg.min_weight))
        pairs = _filter(cfg, batch, words, given, takes_BL)
        metrics["kept"] = Mean(_count(pairs.keep_BA), _count(given.keep_BA))
        takes_BL = w.example_has(w.mark(pairs.src_BA, pairs.keep_BA, takes_BL.shape[1]), batch)
        if cfg.frame:
            frames = w.frame_pairs(batch, words)
            takes_BA, _ = w.pick(takes_BL, frames)
            pairs = w.join_pairs(pairs, frames._replace(keep_BA=frames.keep_BA & takes_BA))
    word_BL = words.is_word_BL
    if cfg.frame:
        word_BL |= (batch["example"] > 0) & (batch["side"] == 0)
    start_BL = (batch["position"] == 0) & (words.side_BL == 1)
    metrics["examples"] = Mean(_count(start_BL & takes_BL), _count(start_BL))
    return Chosen(words, pairs, word_BL & takes_BL, metrics)


def _filter(
    cfg: Config, batch: Batch, words: w.Words, pairs: w.WordPairs, takes_BL: Array
) -> w.WordPairs:
    takes_BA, _ = w.pick(takes_BL, pairs)
    pairs = pairs._replace(keep_BA=pairs.keep_BA & takes_BA)
    if cfg.one_to_one:  # before the names: a name of two links is no clear pair
        pairs = w.one_to_one(pairs)
    if cfg.skip_identical:
        same_BA = w.same_pieces(batch, words, pairs)
        pairs = pairs._replace(keep_BA=pairs.keep_BA & ~same_BA)
    return pairs


def _count(flag: Array) -> Array:
    return flag.sum().astype(jnp.float32)


def squares(difference_BND: Array, keep_BN: Array, reduction: str) -> Loss:
    """Return the squared lengths of the kept differences, reduced as `Config.reduction` says."""
    square_BN = jnp.square(difference_BND).sum(axis=2)
    total, count = jnp.where(keep_BN, square_BN, 0.0).sum(), _count(keep_BN)
    if reduction == "mse":
        total = total / difference_BND.shape[2]
    return Loss(total, jnp.ones(()) if reduction == "sum" else count, {})


def transport_loss(cfg: Config, vector_BLD: Array, chosen: Chosen) -> Loss:
    """Return the Sinkhorn divergence of all source words and all target words of the batch.

    Source: Alqahtani et al. 2021, section 3 (methods.md 7.8): one set per side and step.
    """
    flat_1ND = vector_BLD.reshape(1, -1, vector_BLD.shape[2])
    side_BL = jnp.where(chosen.word_BL, chosen.words.side_BL, 0)
    src_1N, trg_1N = ((side_BL == side).reshape(1, -1) for side in (1, 2))
    rule = Entropic(cfg.mu, cfg.num_iters, anneal=True)
    divergence_1 = sinkhorn_divergence(flat_1ND, flat_1ND, src_1N, trg_1N, rule)
    return Loss(divergence_1[0], jnp.ones(()), {})


Drift = Callable[[Params, Params, Batch, Array, Chosen], Loss]


def _make_drift(cfg: Config, encoder: Encoder) -> Drift | None:
    """Build `drift(params, frozen, batch, vector_BLD, chosen)`."""
    if cfg.drift == "none":
        return None
    if cfg.drift == "parameters":
        return lambda params, frozen, *_: parameter_drift(params, frozen)
    encode, is_held = make_encode(encoder, cfg.stream), _make_is_held(cfg, encoder)

    def drift(
        params: Params, frozen: Params, batch: Batch, vector_BLD: Array, chosen: Chosen
    ) -> Loss:
        words = chosen.words
        frozen_BLD = encode(jax.lax.stop_gradient(frozen), batch, None)  # without dropout
        difference_BLD = vector_BLD - w.word_vectors(frozen_BLD, words, pool=cfg.pool)
        return squares(difference_BLD, chosen.word_BL & is_held(batch, words), cfg.reduction)

    return drift


def _make_is_held(cfg: Config, encoder: Encoder) -> Callable[[Batch, w.Words], Array]:
    """Build the test of which slots belong to the side that is held where it was."""
    if cfg.drift_side in SIDES:
        held = SIDES[cfg.drift_side]
        return lambda batch, words: jnp.isin(words.side_BL, jnp.array(held))
    if cfg.drift_side not in encoder.languages:
        raise ValueError(
            f"drift_side={cfg.drift_side!r}: need a language of the data "
            f"({', '.join(encoder.languages) or 'none known'}), or one of {', '.join(SIDES)}"
        )
    number = encoder.languages.index(cfg.drift_side)
    return lambda batch, words: (batch["lang"] == number) & (batch["example"] > 0)


def parameter_drift(params: Params, frozen: Params) -> Loss:
    """Return the Euclidean norm of the difference to the frozen encoder; its gradient at 0 is 0.

    Source: Wu & Dredze 2020 and their code (methods.md 5.2).
    """
    change = jax.tree.map(
        lambda x, x0: jnp.square(x.astype(jnp.float32) - jax.lax.stop_gradient(x0)).sum(),
        params["encoder"],
        frozen["encoder"],
    )
    square = sum(jax.tree.leaves(change))
    moved = square > 0
    norm = jnp.where(moved, jnp.sqrt(jnp.where(moved, square, 1.0)), 0.0)
    return Loss(norm, jnp.ones(()), {})
