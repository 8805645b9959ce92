"""Let two directions of attention agree: AMBER's word alignment loss on packed pairs.

In: attention probabilities from the slots of one side to those of the other, in both directions.
Nothing is attended or counted across examples.
"""

from __future__ import annotations

import jax.numpy as jnp

from jalign.align.similarity import row_pair_mask
from jalign.types import Array, Batch, Loss, Mean


def word_agreement(
    src_BHLL: Array, trg_BHLL: Array, batch: Batch, *, renormalize: bool = False
) -> Loss:
    """Return 1 - sum_ij A_src[i, j] A_trg[j, i] / min(|src|, |trg|) of each pair, averaged over
    heads; summed over pairs, with their count.

    `src_BHLL`: probabilities from source slots (rows) to target slots; `trg_BHLL` from target slots
    to source slots. Only content slots count; what a slot gives to others is lost, unless
    `renormalize` makes its content probabilities sum to 1. The metric "mass" is what they sum to.
    Source: Hu et al. 2021 (AMBER), word alignment; printed as a trace, meant as the sum over equal
    cells (methods.md 3.1), which awesome-align's consistency loss is, too.
    """
    pair_BLL = row_pair_mask(batch["example"], batch["side"])
    cells_BLL = (pair_BLL, pair_BLL.swapaxes(1, 2))
    # f32: sums of many small probabilities
    src_BHLL, trg_BHLL = (
        jnp.where(cell_BLL[:, None], x_BHLL.astype(jnp.float32), 0.0)
        for x_BHLL, cell_BLL in zip((src_BHLL, trg_BHLL), cells_BLL, strict=True)
    )
    mass = _mass(src_BHLL, cells_BLL[0]) + _mass(trg_BHLL, cells_BLL[1])
    if renormalize:
        src_BHLL, trg_BHLL = _renormalized(src_BHLL), _renormalized(trg_BHLL)
    both_BL = (src_BHLL * trg_BHLL.swapaxes(2, 3)).sum(axis=3).mean(axis=1)
    src_BL = batch["side"] == 1
    same_BLL = batch["example"][:, :, None] == batch["example"][:, None, :]
    num_src_BL = (same_BLL & src_BL[:, None, :]).sum(axis=2)
    shorter_BL = jnp.minimum(num_src_BL, pair_BLL.sum(axis=2))
    agreement = (both_BL / jnp.maximum(shorter_BL, 1)).sum()
    # a pair counts at the first slot of its source
    first_BL = src_BL & ~jnp.pad(src_BL[:, :-1], ((0, 0), (1, 0)))
    count = (first_BL & (shorter_BL > 0)).sum().astype(jnp.float32)
    return Loss(count - agreement, count, {"mass": mass})


def _mass(x_BHLL: Array, cell_BLL: Array) -> Mean:
    count = cell_BLL.any(axis=2).sum().astype(jnp.float32)
    return Mean(x_BHLL.mean(axis=1).sum(), count)


def _renormalized(x_BHLL: Array) -> Array:
    total_BHL1 = x_BHLL.sum(axis=3, keepdims=True)
    return x_BHLL / jnp.where(total_BHL1 > 0, total_BHL1, 1.0)
