"""Contrast sentences with translations and words with synonyms: VECO 2.0, re-specified.

In: a stream of pairs in the separate layout, with word links of a thesaurus
(`config.streams.pair.thesaurus`). Two losses share one unmasked pass: "s2s", each sentence against
all sentences of the batch in the other language, and "t2t", each linked word against the other
words of its own pair. `mlm` beside it is the third task. Source: Zhang et al. 2023 (VECO 2.0), of
which this is no replication: its abstract says what the three tasks are, and no code was released.
What it does not say is ours (methods.md 6.2) and is an entry of `Config`: where a sentence's and a
word's vector come from, temperatures, candidates, weights, which words a dictionary links.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jalign.align import sentences as s
from jalign.align import word_pairs as w
from jalign.align.contrast import CHOICES, joined, sentence_contrast, token_contrast
from jalign.config import check_choices, check_some
from jalign.nn.microbatch import join_rows, over_microbatches
from jalign.objectives import _sentences
from jalign.objectives._supervised import make_encode
from jalign.types import Array, Aux, Batch, Batches, Encoder, Key, Loss, Mean, Objective, Params

PARTS = ("s2s", "t2t")
READS = (*_sentences.READS, "word", "links", "link_weight")
HEAD = "veco2_scale"


@dataclass(frozen=True)
class Config(_sentences.Config):
    """The contrast of sentences, and that of words.

    `losses`: "s2s", "t2t" or both; without "t2t" the stream needs no links. Words: `token_tau`, the
    temperature; `token_candidates`, the other words of the pair ("union") or of its other side
    ("opposite"); `word_pool`, a word's vector is the "mean" of its pieces, the "first" or "last".
    """

    losses: tuple[str, ...] = PARTS
    tau: float = 0.05
    token_tau: float = 0.1
    token_candidates: str = "union"
    word_pool: str = "mean"

    def __post_init__(self) -> None:
        """Check the entries. Raises: ValueError naming the entry."""
        super().__post_init__()
        check_some(self, "losses", PARTS)
        check_choices(self, {"token_candidates": CHOICES["candidates"], "word_pool": w.POOLS})
        if self.token_tau <= 0:
            raise ValueError(f"token_tau={self.token_tau}: need more than 0")


def make(cfg: Config, encoder: Encoder) -> Objective:
    """Build the objective. Raises: ValueError where the stream is no separate pairs."""
    _sentences.check_separate(encoder, cfg.stream)
    heads, tau = _sentences.make_tau(cfg, HEAD)
    encode, rule = make_encode(encoder, cfg.stream), cfg.rule()
    has_words = "t2t" in cfg.losses
    reads = READS if has_words else _sentences.READS

    def loss(params: Params, aux: Aux, batches: Batches, key: Key | None) -> dict[str, Loss]:
        del aux
        batch = {name: batches[cfg.stream][name] for name in reads}
        num = s.room(batch["ids"].shape[1], cfg.max_pairs)

        def one(part: Batch, number: Array) -> tuple[s.Sentences, Loss | None]:
            part_key = None if key is None else jax.random.fold_in(key, number)
            h_BLD = encode(params, part, part_key)
            sentences = s.sentence_vectors(h_BLD, part, num, pool=cfg.pool)
            return sentences, word_loss(cfg, h_BLD, part) if has_words else None

        sentences, words = over_microbatches(one, batch, encoder.accumulate)
        found = {}
        if "s2s" in cfg.losses:
            whole = s.Sentences(*join_rows(tuple(sentences[:4])), sentences.over.sum())
            parts = encoder.accumulate
            contrasted = sentence_contrast(whole.pairs(), rule, tau=tau(params), parts=parts)
            metrics = contrasted.metrics | _sentences.over_metric(whole)
            found["s2s"] = contrasted.replace(metrics=metrics)
        if has_words:
            found["t2t"] = jax.tree.map(lambda x: x.sum(axis=0), words)
        return found

    return Objective(
        streams=(cfg.stream,),
        reads=reads,
        loss=loss,
        heads=heads if "s2s" in cfg.losses else {},
        splits=False,
        splits_itself=True,
        parts=tuple(part for part in PARTS if part in cfg.losses),
    )


def word_loss(cfg: Config, h_BLD: Array, batch: Batch) -> Loss:
    """Contrast the linked words of each pair with its other words.

    The mean is over the linked pairs of words of the batch, so sentences without any add nothing.
    Links of weight 0 (the thesaurus has a limit) are no positives, but no negatives either. Metrics
    besides those of the contrast: "linked", pairs of words for each pair of sentences.
    """
    words = w.read_words(batch, pool=cfg.word_pool)
    positives = w.distinct_pairs(w.linked_words(batch, words))
    vector_BLD = w.word_vectors(h_BLD, words, pool=cfg.word_pool)
    loss = token_contrast(
        vector_BLD,
        words.is_word_BL,
        batch["example"],
        batch["side"],
        positives,
        synonym_BLL=synonyms(batch, words),
        tau=cfg.token_tau,
        candidates=cfg.token_candidates,
    )
    num_BL = (batch["position"] == 0) & (words.side_BL == 1)
    linked = Mean(loss.count, num_BL.sum().astype(jnp.float32))
    return loss.replace(metrics=loss.metrics | {"linked": linked})


def synonyms(batch: Batch, words: w.Words) -> Array:
    """Tell which words are synonyms of which, either way round: bool [B, L, L].

    They are linked, whatever the weight, or share a link, as two inflections of one word do that
    have a translation in common.
    """
    known = batch | {"link_weight": jnp.ones_like(batch["link_weight"])}
    link_BLL = joined(w.linked_words(known, words), batch["ids"].shape[1])
    link_BLL |= link_BLL.swapaxes(1, 2)
    # bf16 holds the ones, and its sums of them are at least 1: only zero or not is asked
    count_BLL = jnp.einsum("BLM,BMN->BLN", *2 * (link_BLL.astype(jnp.bfloat16),))
    return link_BLL | (count_BLL > 0)
