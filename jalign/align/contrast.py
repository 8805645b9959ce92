"""Contrast positives with negatives: sentences with those of a whole batch, words with those of
their pair.

Letters: N anchors, M candidates (keys), Q places of a queue. Every loss is a sum over the anchors
that are kept, with their count. A loss is written for the global batch: over a mesh its negatives
are those of all devices, and its gradient is that of one big batch. `parts` bounds the memory: the
[N, M] logits exist for N / parts anchors at a time and are computed again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jalign.align.word_pairs import WordPairs, pick
from jalign.config import check_choices
from jalign.types import Array, Loss, Mean

BIG_NEGATIVE = -1e30  # finite: an anchor without candidates has loss 0 and a gradient
CHOICES = {
    "similarity": ("cosine", "dot", "scaled_dot"),
    "candidates": ("opposite", "union"),
    "directions": ("both", "forward", "backward"),
    "reduction": ("mean", "sum"),
}
EXACT = jax.lax.Precision.HIGHEST  # no TF32 or bf16 passes: logits are similarities over tau


@dataclass(frozen=True)
class Rule:
    """How pairs are contrasted.

    `similarity`: "cosine", "dot", or "scaled_dot", which divides by the root of the size (all over
    the temperature). `margin`: taken off the positive's similarity (additive-margin softmax).
    `candidates`: sentences of the "opposite" side, or those of both sides but the anchor itself.
    `directions`: anchors are sources ("forward"), targets ("backward") or both; `reduction` of the
    two: their "sum" for each pair, or their "mean". `mask_duplicates`: a candidate whose pair
    shares a text with the anchor's pair is no negative.
    """

    similarity: str = "cosine"
    margin: float = 0.0
    candidates: str = "opposite"
    directions: str = "both"
    reduction: str = "mean"
    mask_duplicates: bool = False

    def __post_init__(self) -> None:
        """Check the entries. Raises: ValueError naming the entry."""
        check_choices(self, CHOICES)


class Pairs(NamedTuple):
    """Sentence vectors of both sides; which are pairs at all; the texts of each pair, as equal
    numbers for equal texts: [N, 2 sides, T], or None.
    """

    src_ND: Array
    trg_ND: Array
    keep_N: Array
    text_N2T: Array | None = None


class Anchors(NamedTuple):
    """What looks for its positive; `owner_N` is the number of its pair."""

    vector_ND: Array
    positive_ND: Array
    keep_N: Array
    owner_N: Array
    text_N2T: Array | None = None


class Keys(NamedTuple):
    """Candidates; one whose owner is the anchor's is none for that anchor (-1: nobody's)."""

    vector_MD: Array
    keep_M: Array
    owner_M: Array
    text_M2T: Array | None = None


class Terms(NamedTuple):
    """Of each anchor: the loss, whether its positive beats every candidate (a tie is no win), and
    the largest probability that it gives to anything.
    """

    nll_N: Array
    hit_N: Array
    top_N: Array


def nce(
    positive_N: Array, logit_NM: Array, candidate_NM: Array, *, margin: float | Array = 0.0
) -> Terms:
    """Return the cross-entropy of the positive among itself and the candidates, float32.

    `margin`, in logits, is taken off the positive; hits do not know it. Any leading axes.
    """
    logit_NM = jnp.where(candidate_NM, logit_NM.astype(jnp.float32), BIG_NEGATIVE)
    positive_N = positive_N.astype(jnp.float32)
    chosen_N = positive_N - margin
    others_N = jax.nn.logsumexp(logit_NM, axis=-1)
    all_N = jnp.logaddexp(chosen_N, others_N)
    best_N = logit_NM.max(axis=-1)
    top_N = jnp.exp(jnp.maximum(chosen_N, best_N) - all_N)
    return Terms(all_N - chosen_N, positive_N > best_N, jax.lax.stop_gradient(top_N))


def info_nce(
    anchors: Anchors,
    keys: Sequence[Keys],
    rule: Rule,
    *,
    tau: float | Array = 1.0,
    parts: int = 1,
) -> Loss:
    """Contrast anchors with their positives and with all keys; of the rule only what concerns one
    direction counts.

    Source: van den Oord et al. 2018; with a margin Yang et al. 2019, equation 3 (LaBSE's), whose
    similarities `tau` divides after the margin was taken off.
    Raises: ValueError where `parts` does not divide the anchors.
    """
    num = anchors.keep_N.shape[0]
    if num % parts:
        raise ValueError(f"{num} anchors do not divide into parts={parts}")
    scale = 1.0 / jnp.asarray(tau, jnp.float32)
    if rule.similarity == "scaled_dot":
        scale = scale * anchors.vector_ND.shape[1] ** -0.5
    anchors = anchors._replace(
        vector_ND=_prepare(anchors.vector_ND, rule), positive_ND=_prepare(anchors.positive_ND, rule)
    )
    keys = [k._replace(vector_MD=_prepare(k.vector_MD, rule)) for k in keys]

    def block(anchors: Anchors, keys: list[Keys], scale: Array) -> Loss:
        positive_N = (anchors.vector_ND * anchors.positive_ND).sum(axis=1)
        logit_NM = jnp.concatenate([_compare(anchors.vector_ND, k.vector_MD) for k in keys], axis=1)
        # each shard compares its anchors with all keys; left alone, XLA splits by keys and regroups
        logit_NM = nn.with_logical_constraint(logit_NM, ("batch", None))
        candidate_NM = jnp.concatenate([_candidates(anchors, k, rule) for k in keys], axis=1)
        margin = scale * rule.margin
        return reduce_terms(
            nce(positive_N * scale, logit_NM * scale, candidate_NM, margin=margin), anchors.keep_N
        )

    if parts == 1:
        return block(anchors, keys, scale)
    # every parts-th anchor, so that the shards of a mesh keep theirs
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), anchors)
    again = jax.checkpoint(block)  # else the scan keeps the logits of every part
    losses = jax.lax.map(lambda some: again(some, keys, scale), split)
    return jax.tree.map(lambda x: x.sum(axis=0), losses)


def sentence_contrast(
    pairs: Pairs,
    rule: Rule,
    *,
    tau: float | Array = 1.0,
    extra: Sequence[Keys] = (),
    parts: int = 1,
) -> Loss:
    """Contrast each sentence with its translation and with the other sentences of the batch.

    `extra`: more keys for both directions. Source: methods.md 3.1 (AMBER: dot, union, sum), 6.2
    (VECO 2.0: cosine, mean), 7.2 (LaBSE: margin, sum), 7.3 (DAP: forward).
    """
    owner_N = jnp.arange(pairs.keep_N.shape[0])
    forward, backward = (
        Anchors(*sides, pairs.keep_N, owner_N, pairs.text_N2T)
        for sides in ((pairs.src_ND, pairs.trg_ND), (pairs.trg_ND, pairs.src_ND))
    )
    src, trg = (
        Keys(side_ND, pairs.keep_N, owner_N, pairs.text_N2T)
        for side_ND in (pairs.src_ND, pairs.trg_ND)
    )
    wanted = {"forward": [(forward, trg, src)], "backward": [(backward, src, trg)]}
    wanted["both"] = wanted["forward"] + wanted["backward"]
    losses = [
        info_nce(
            anchors,
            [opposite, *((own,) if rule.candidates == "union" else ()), *extra],
            rule,
            tau=tau,
            parts=parts,
        )
        for anchors, opposite, own in wanted[rule.directions]
    ]
    loss = jax.tree.map(lambda *x: sum(x), *losses)
    return loss.replace(count=losses[0].count) if rule.reduction == "sum" else loss


def token_contrast(
    vector_BLD: Array,
    word_BL: Array,
    example_BL: Array,
    side_BL: Array,
    pairs: WordPairs,
    *,
    synonym_BLL: Array | None = None,
    tau: float | Array = 0.1,
    candidates: str = "union",
) -> Loss:
    """Contrast the two words of each pair with the other words of their example, by cosine.

    `word_BL` says where a word stands whose vector is there. An anchor's candidates are the words
    of its example, of both sides or the "opposite" one, that are neither itself nor its synonyms:
    those that a kept pair joins with it, or `synonym_BLL` (either way round) if it is given. Counts
    pairs; the loss of a pair is the mean of its two anchors'. Source: methods.md 6.2.
    """
    if candidates not in CHOICES["candidates"]:
        raise ValueError(f"candidates={candidates!r}: need {' or '.join(CHOICES['candidates'])}")
    slots = jnp.arange(vector_BLD.shape[1])
    if synonym_BLL is None:
        synonym_BLL = joined(pairs, len(slots))
    synonym_BLL = synonym_BLL | synonym_BLL.swapaxes(1, 2)
    unit_BLD = normalise(vector_BLD)
    ends = pick(unit_BLD, pairs)
    positive_BA = (ends[0] * ends[1]).sum(axis=2) / tau
    loss = None
    for end_BAD, at_BA in zip(ends, pairs[:2], strict=True):
        logit_BAL = jnp.einsum("BAD,BLD->BAL", end_BAD, unit_BLD, precision=EXACT) / tau
        own_BA1 = [_at(x_BL, at_BA)[:, :, None] for x_BL in (example_BL, side_BL)]
        candidate_BAL = word_BL[:, None, :] & (example_BL[:, None, :] == own_BA1[0])
        candidate_BAL &= (slots != at_BA[:, :, None]) & ~_at(synonym_BLL, at_BA)
        if candidates == "opposite":
            candidate_BAL &= side_BL[:, None, :] != own_BA1[1]
        found = reduce_terms(nce(positive_BA, logit_BAL, candidate_BAL), pairs.keep_BA)
        loss = found if loss is None else jax.tree.map(jnp.add, loss, found)
    return loss.replace(total=loss.total / 2, count=loss.count / 2)


def joined(pairs: WordPairs, length: int) -> Array:
    """Lay kept pairs out as a matrix of (source slot, target slot): bool [B, L, L]."""
    rows = pairs.src_BA.shape[0]
    src_BA = jnp.where(pairs.keep_BA, pairs.src_BA, length)  # out of range: dropped
    empty_BLL = jnp.zeros((rows, length, length), bool)
    return empty_BLL.at[jnp.arange(rows)[:, None], src_BA, pairs.trg_BA].set(True, mode="drop")


def reduce_terms(terms: Terms, keep_N: Array) -> Loss:
    """Sum the terms of the anchors that are kept."""
    count = keep_N.sum().astype(jnp.float32)
    metrics = {
        "accuracy": Mean((terms.hit_N & keep_N).sum().astype(jnp.float32), count),
        # near 1 from the start: the softmax is saturated, and little is learnt (methods.md 3.1)
        "max_prob": Mean(jnp.where(keep_N, terms.top_N, 0.0).sum(), count),
    }
    return Loss(jnp.where(keep_N, terms.nll_N, 0.0).sum(), count, metrics)


class Queue(NamedTuple):
    """Keys of earlier steps, a ring: the next one goes to `pointer`; `keep_Q` says which places
    hold one.
    """

    vector_QD: Array
    keep_Q: Array
    pointer: Array


def empty_queue(size: int, width: int) -> Queue:
    """Make a queue of `size` empty places."""
    return Queue(jnp.zeros((size, width)), jnp.zeros(size, bool), jnp.zeros((), jnp.int32))


def enqueue(queue: Queue, vector_ND: Array, keep_N: Array) -> Queue:
    """Put the kept vectors into the queue in order, over the oldest; of more than it holds the
    last.
    """
    size = queue.keep_Q.shape[0]
    rank_N, num = jnp.cumsum(keep_N) - 1, keep_N.sum()
    lands_N = keep_N & (rank_N >= num - size)
    at_N = jnp.where(lands_N, (queue.pointer + rank_N) % size, size)  # out of range: dropped
    return Queue(
        queue.vector_QD.at[at_N].set(vector_ND.astype(jnp.float32), mode="drop"),
        queue.keep_Q.at[at_N].set(True, mode="drop"),
        ((queue.pointer + num) % size).astype(jnp.int32),
    )


def queue_keys(queue: Queue) -> Keys:
    """Return what the queue holds as keys, without gradient."""
    nobody_Q = jnp.full(queue.keep_Q.shape, -1)
    return Keys(jax.lax.stop_gradient(queue.vector_QD), queue.keep_Q, nobody_Q)


def momentum_update(slow: Any, fast: Any, momentum: float | Array) -> Any:
    """Return momentum x slow + (1 - momentum) x fast, leaf by leaf (He et al. 2020, equation 2)."""
    return jax.tree.map(lambda s, f: momentum * s + (1.0 - momentum) * f, slow, fast)


def normalise(x_ND: Array) -> Array:
    """Divide vectors by their length, float32; a zero vector stays, with gradient 0."""
    x_ND = x_ND.astype(jnp.float32)  # f32: cosines over a temperature
    square_N1 = jnp.square(x_ND).sum(axis=-1, keepdims=True)
    safe_N1 = jnp.where(square_N1 > 0, square_N1, 1.0)
    return x_ND * jax.lax.rsqrt(safe_N1)


def _prepare(x_ND: Array, rule: Rule) -> Array:
    return normalise(x_ND) if rule.similarity == "cosine" else x_ND.astype(jnp.float32)


def _compare(x_ND: Array, y_MD: Array) -> Array:
    return jnp.einsum("ND,MD->NM", x_ND, y_MD, precision=EXACT, preferred_element_type=jnp.float32)


def _candidates(anchors: Anchors, keys: Keys, rule: Rule) -> Array:
    """Tell which keys are negatives of which anchors: bool [N, M]."""
    keep_NM = keys.keep_M & (keys.owner_M != anchors.owner_N[:, None])
    if not rule.mask_duplicates or keys.text_M2T is None:
        return keep_NM
    if anchors.text_N2T is None:
        raise ValueError("mask_duplicates needs the texts of the anchors")
    for mine in range(2):
        for theirs in range(2):
            same = anchors.text_N2T[:, None, mine] == keys.text_M2T[:, theirs]
            keep_NM &= ~same.all(axis=-1)
    return keep_NM


def _at(x_BL: Array, slot_BA: Array) -> Array:
    """Return x at slots, [B, A, ...]."""
    return jnp.take_along_axis(x_BL, slot_BA.reshape(*slot_BA.shape, *(1,) * (x_BL.ndim - 2)), 1)
