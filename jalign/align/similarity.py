"""Compare the items (pieces or words) of the two sides of a pair, for many pairs at once.

Letters: I source items of a pair, J target items. Everything in `jalign/align` works on two forms.
Padded: one pair per row, `sim_BIJ`, `pair_mask`. Packed: several pairs per row, `sim_BLL` with the
slots of a row on both axes, `row_pair_mask`: only the blocks (source slots x target slots of one
example) count. A mask `pair` says which cells are real, and nothing else tells the two forms apart.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jalign.types import Array

KINDS = ("dot", "cosine", "simalign")


def pair_mask(src_BI: Array, trg_BJ: Array) -> Array:
    """Return the real cells of padded pairs from the real items of each side. Bool [B, I, J]."""
    return src_BI[:, :, None] & trg_BJ[:, None, :]


def row_pair_mask(example_BL: Array, side_BL: Array) -> Array:
    """Return the cells of packed rows that compare a source slot with a target slot of the same
    example. Bool [B, L, L].
    """
    same_BLL = example_BL[:, :, None] == example_BL[:, None, :]
    src_BL = (side_BL == 1) & (example_BL > 0)
    return same_BLL & pair_mask(src_BL, side_BL == 2)


def similarity(src_BID: Array, trg_BJD: Array, *, kind: str = "dot") -> Array:
    """Compare every source item with every target item: float32 [B, I, J].

    For packed rows pass the same [B, L, D] twice. `dot` is the plain dot product (XLM-Align,
    awesome-align), `cosine` lies in [-1, 1] (a zero vector has cosine 0), `simalign` is
    (cosine + 1) / 2. Cells of padding hold whatever the vectors give.
    Raises: ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"similarity {kind!r}: need one of {', '.join(KINDS)}")
    if kind != "dot":
        src_BID, trg_BJD = _unit(src_BID), _unit(trg_BJD)
    # f32 out, and no TF32 or bf16 passes inside: raw dot products reach thousands, and links are
    # an argmax over them (methods.md 1.6)
    sim_BIJ = jnp.einsum(
        "BID,BJD->BIJ",
        src_BID,
        trg_BJD,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return (sim_BIJ + 1.0) / 2.0 if kind == "simalign" else sim_BIJ


def distort(sim_BIJ: Array, pair_BIJ: Array, ratio: float) -> Array:
    """Lower the similarity of items that lie far apart in their sentences.

    With m and n items, cell (i, j) is multiplied by 1 - ratio (i / (m - 1) - j / (n - 1))^2; a pair
    with a side of one item stays as it is. For padded and packed rows.
    Source: SimAlign's `apply_distortion`; its default ratio is 0.
    """
    m_BIJ = pair_BIJ.sum(axis=-2, keepdims=True)
    n_BIJ = pair_BIJ.sum(axis=-1, keepdims=True)
    place_i = (jnp.cumsum(pair_BIJ, axis=-2) - 1) / jnp.maximum(m_BIJ - 1, 1)
    place_j = (jnp.cumsum(pair_BIJ, axis=-1) - 1) / jnp.maximum(n_BIJ - 1, 1)
    factor = 1.0 - jnp.square(place_j - place_i) * ratio
    return jnp.where(pair_BIJ & (m_BIJ > 1) & (n_BIJ > 1), sim_BIJ * factor, sim_BIJ)


def _unit(x: Array) -> Array:
    x = x.astype(jnp.float32)
    norm = jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
    return x / jnp.where(norm > 0, norm, 1.0)
