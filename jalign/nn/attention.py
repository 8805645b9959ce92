"""Attend inside the units of packed rows.

A row holds many units (a sentence, or a joint pair): contiguous runs of one positive id; 0 is
padding. A slot sees the slots of its own unit (with a window, those at most `window` slots away),
padding sees padding. One function, four ways:

| impl | where | what it pays for |
| --- | --- | --- |
| dense | anywhere | the whole L x L square, plain autodiff: the oracle |
| banded | anywhere | the blocks within reach of unit and window, a hand-written backward pass |
| cudnn | GPU, bf16 or fp16 | the square, but no [L, L] array in memory |
| splash | TPU, L a multiple of 128 | the blocks within reach, no [L, L] array in memory |
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jalign.nn.attention_banded import banded_attention, reach_slots
from jalign.nn.attention_flash import cudnn_attention, seen_pairs, splash_attention
from jalign.nn.dropout import keep_factor
from jalign.nn.packed import Order
from jalign.types import Array, Key

IMPLS = ("auto", "dense", "banded", "cudnn", "splash")
BIG_NEGATIVE = -1e30  # finite: a row of the softmax that is all masked stays finite


def packed_attention(
    q_BLHK: Array,
    k_BLHK: Array,
    v_BLHK: Array,
    unit_BL: Array,
    *,
    max_unit: int | None = None,
    window: int | None = None,
    order: Order | None = None,
    impl: str = "auto",
    dropout_rate: float = 0.0,
    dropout_key: Key | None = None,
) -> Array:
    """Return softmax(q k^T / sqrt(K)) v inside the units of `unit_BL`, as [B, L, H, K].

    Softmax in float32; the result has the dtype of the inputs. `max_unit` promises that no unit
    has more slots; padding may be longer, its output is finite and means nothing. `window` hides
    the slots of a unit that are more than so many away, on either side; `order` hides what a slot
    may not see yet, and must leave each slot one. Dropout acts on the probabilities when a rate and
    a key are given. "auto" asks `choose_attention` about the default backend, "auto:tpu" or
    "auto:gpu" about one that is compiled for and not here.
    Raises: ValueError if `impl` is unknown or cannot serve this shape, dtype or dropout.
    """
    dropout = dropout_rate > 0.0 and dropout_key is not None
    length, head_size = q_BLHK.shape[1], q_BLHK.shape[3]
    choose, _, platform = impl.partition(":")
    if choose == "auto":
        impl = choose_attention(
            platform or jax.default_backend(),
            q_BLHK.dtype,
            length,
            head_size,
            max_unit,
            dropout=dropout,
            ordered=order is not None,
        )
    problem = _why_not(impl, q_BLHK.dtype, length, head_size, dropout, order is not None)
    if problem:
        raise ValueError(problem)
    if window is not None and window >= reach_slots(length, max_unit):
        window = None  # it hides nothing
    args = (q_BLHK, k_BLHK, v_BLHK, unit_BL)
    rate, key = (dropout_rate, dropout_key) if dropout else (0.0, None)
    match impl:
        case "dense":
            return _dense(*args, window, order, rate, key)
        case "banded":
            return banded_attention(
                *args,
                max_unit=max_unit,
                window=window,
                order=order,
                dropout_rate=rate,
                dropout_key=key,
            )
        case "cudnn":
            return cudnn_attention(*args, window=window, order=order)
    return splash_attention(*args, max_unit=max_unit, window=window)


def attention_probs(
    q_BLHK: Array,
    k_BLHK: Array,
    unit_BL: Array,
    *,
    window: int | None = None,
    order: Order | None = None,
) -> Array:
    """Return the probabilities softmax(q k^T / sqrt(K)) themselves, which no fused implementation
    gives: float32 [B, H, L, L].
    """
    sim_BHLL = jnp.einsum("BLHK,BMHK->BHLM", q_BLHK, k_BLHK, preferred_element_type=jnp.float32)
    seen_BLL = seen_pairs(unit_BL, window, order)
    sim_BHLL = jnp.where(seen_BLL[:, None], sim_BHLL * q_BLHK.shape[3] ** -0.5, BIG_NEGATIVE)
    return jax.nn.softmax(sim_BHLL)


def choose_attention(
    platform: str,
    dtype,
    length: int,
    head_size: int,
    max_unit: int | None = None,
    *,
    dropout: bool = False,
    ordered: bool = False,
) -> str:
    """Name the implementation that "auto" takes, for the log.

    The platform's flash kernel where it serves (it knows no dropout; splash knows no order), else
    "banded", whose blocks adapt to `max_unit` (`attention_banded.block_slots`, with measurements).
    """
    del max_unit
    flash = {"gpu": "cudnn", "cuda": "cudnn", "tpu": "splash"}.get(platform)
    if flash and _why_not(flash, dtype, length, head_size, dropout, ordered) is None:
        return flash
    return "banded"


def _why_not(
    impl: str, dtype, length: int, head_size: int, dropout: bool, ordered: bool
) -> str | None:
    """Say why `impl` cannot serve, and what to type instead; None if it can."""
    if impl not in IMPLS[1:]:
        return f"unknown attention {impl!r}; use one of {', '.join(IMPLS)}."
    if impl in ("dense", "banded"):
        return None
    if dropout:
        return f"attention {impl!r} has no dropout; set attention_dropout=0 or attention='banded'."
    if impl == "cudnn":
        if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
            name = jnp.dtype(dtype).name
            return (
                f"attention 'cudnn' needs bfloat16, got {name}; set dtype='bfloat16' or 'banded'."
            )
        if head_size % 8 or head_size > 128:
            return (
                f"attention 'cudnn' needs a head size that 8 divides, at most 128, got {head_size}"
                "; set attention='banded'."
            )
    if impl == "splash" and ordered:
        return (
            "attention 'splash' shows a slot its whole unit, and this pass lets one side read the "
            "other in order; set attention='auto' or 'banded'."
        )
    if impl == "splash" and length % 128:
        return (
            f"attention 'splash' needs rows that 128 divides, got {length} slots; "
            "pack to a multiple of 128 or set attention='banded'."
        )
    return None


def _dense(
    q_BLHK: Array,
    k_BLHK: Array,
    v_BLHK: Array,
    unit_BL: Array,
    window: int | None,
    order: Order | None,
    rate: float,
    key: Key | None,
) -> Array:
    prob_BHLL = attention_probs(q_BLHK, k_BLHK, unit_BL, window=window, order=order)
    if key is not None:
        prob_BHLL *= keep_factor(key, prob_BHLL.shape, rate)
    return jnp.einsum("BHLM,BMHK->BLHK", prob_BHLL.astype(v_BLHK.dtype), v_BLHK)
