"""Choose what a masked language model must predict, on the device, from the step's key."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jalign.types import Array, Batch, Key, TokenIds

HALVES = ("all", "own", "first")


class MaskRates(NamedTuple):
    """The share of tokens selected, at most; of these, the share masked and the share replaced (the
    rest is kept).

    `half`: where random ids come from in a vocabulary of two halves, id + V writing what id does:
    "all" of it, the "own" half of the token replaced, or the "first".
    """

    select: float = 0.15
    mask: float = 0.8
    replace: float = 0.1
    half: str = "all"


def select_tokens(key: Key, batch: Batch, rate: float | Array) -> Array:
    """Select each content token (side > 0, never a special one) independently with `rate`. Bool
    [B, L].

    Row by row from `fold_in(key, row)`: the choice depends on neither the batch's size nor its
    sharding, so gradient accumulation and every mesh see the same masks. A rate that changes over
    the steps is an array; a higher one selects the same tokens and more.
    """
    length = batch["ids"].shape[1]

    def uniform(row):
        return jax.random.uniform(jax.random.fold_in(key, row), (length,))

    return (jax.vmap(uniform)(batch["row"]) < rate) & (batch["side"] > 0)


def corrupt(
    key: Key, batch: Batch, selected_BL: Array, vocab_size: int, tokens: TokenIds, rates: MaskRates
) -> Array:
    """Return the ids with selected tokens masked, replaced by a random non-special id, or kept.

    Source: Devlin et al. 2019, 3.1 (80/10/10); random ids are uniform over the vocabulary without
    its special tokens, as in fairseq. ALIGN-MLM's code draws from the first half (methods.md 1.1).
    """
    length = batch["ids"].shape[1]
    drawn_from = vocab_size if rates.half == "all" else vocab_size // 2

    def draws(row):
        action, word = jax.random.split(jax.random.fold_in(key, row))
        words = jax.random.randint(word, (length,), 0, drawn_from - len(tokens.specials))
        return jax.random.uniform(action, (length,)), words

    action_BL, word_BL = jax.vmap(draws)(batch["row"])
    for special in sorted(tokens.specials):
        word_BL += word_BL >= special
    if rates.half == "own":
        word_BL += jnp.where(batch["ids"] >= drawn_from, drawn_from, 0)
    new_BL = jnp.where(action_BL < rates.mask + rates.replace, word_BL, batch["ids"])
    new_BL = jnp.where(action_BL < rates.mask, tokens.mask, new_BL)
    return jnp.where(selected_BL, new_BL, batch["ids"])
