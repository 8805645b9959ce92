"""Fill masks: the likeliest tokens of a masked-LM head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jalign.data.tokenizer import Tokenizer
from jalign.errors import UserError
from jalign.inference.texts import FRAME
from jalign.types import Array, Params


class Prediction(NamedTuple):
    """A token for a mask: as the vocabulary spells it, its id and probability, and the whole text
    with it in place, as the tokenizer decodes it.
    """

    token: str
    id: int
    probability: float
    text: str


def check(cfg: Any, backend: Any, tokenizer: Tokenizer, text: str, top: int) -> None:
    """Check what `fill_mask` needs. Raises: UserError."""
    mask = backend.id_to_token(tokenizer.mask_id)
    if not getattr(cfg, "head", True):
        raise UserError(
            "this model has no masked-LM head: it gives vectors (embed, encode), not words; take a "
            "folder of the same model with its head"
        )
    if not 1 <= top <= cfg.vocab_size:
        raise UserError(f"top={top}: need 1 to {cfg.vocab_size}, the size of the vocabulary")
    ids = backend.encode(text, add_special_tokens=False).ids
    if tokenizer.mask_id not in ids:
        raise UserError(f"no mask in {text[:60]!r}: this tokenizer writes it {mask}")
    if len(ids) + FRAME > cfg.positions:
        raise UserError(
            f"the text has {len(ids) + FRAME} tokens with the special ones, and this encoder takes "
            f"{cfg.positions}: give less of it around the mask"
        )


def head(module: nn.Module, top: int) -> Callable[[Params, Array], tuple[Array, Array]]:
    """Make the function that returns the `top` probabilities [P, top] and ids of states [P, D]."""

    def likeliest(module, h_PD):
        table_VD, bias_V = module.output()
        logits_PV = jnp.einsum(
            "PD,VD->PV", module.transform(h_PD), table_VD, preferred_element_type=jnp.float32
        )
        prob_PV = jax.nn.softmax(logits_PV + bias_V)  # f32: the largest of 250,000
        return jax.lax.top_k(prob_PV, top)

    return lambda params, h_PD: nn.apply(likeliest, module)({"params": params}, h_PD)


def predictions(
    backend: Any, ids: np.ndarray, at: np.ndarray, values: np.ndarray, found: np.ndarray
) -> list[list[Prediction]]:
    """Name the tokens found for the masks at `at` of a text's ids; other masks stay as they are."""

    def name(place: int, value: float, token: int) -> Prediction:
        filled = [int(i) for i in ids]
        filled[place] = token
        text = backend.decode(filled, skip_special_tokens=False)
        return Prediction(backend.id_to_token(token) or "", token, value, text)

    return [
        [name(int(p), float(v), int(i)) for v, i in zip(*best, strict=True)]
        for p, *best in zip(at, values, found, strict=True)
    ]
