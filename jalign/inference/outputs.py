"""Say what comes back from the devices, and put it in the order of the texts.

In: a module. Out: pure functions for the engine, hidden states or one vector per unit; and their
results joined over batches and over the windows of a long text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jalign.inference.engine import Function
from jalign.inference.texts import Cut
from jalign.nn.packed import unit_means


class Encoded(NamedTuple):
    """The tokens of one text, special ones included: ids [n], states [n, D], and `spans` [n, 2],
    the characters of the text that each stands for (0, 0 for the special ones around it).
    """

    ids: np.ndarray
    states: np.ndarray
    spans: np.ndarray


def make_states(module: nn.Module, index: int | None) -> Function:
    """Make the function that returns hidden states, of all layers' the one at `index`."""

    def states(params, fields, *, max_unit, num_units):
        del num_units
        every = index is not None
        h = module.apply(
            {"params": params}, fields["ids"], fields["position"], fields["unit"],
            max_unit=max_unit, all_layers=every,
        )  # fmt: skip
        return (h[index] if every else h).astype(jnp.float32)

    return states


def make_pooled(module: nn.Module, states: Function, pooler: bool) -> Function:
    """Make the function that returns the vector of each unit [rows, units, D]."""

    def pooled(params, fields, *, max_unit, num_units):
        h_BLD = states(params, fields, max_unit=max_unit, num_units=num_units)
        v_BUD = unit_means(h_BLD, fields["pool"], num_units)
        if not pooler:
            return v_BUD
        v_ND = v_BUD.reshape(-1, v_BUD.shape[-1])
        v_ND = nn.apply(lambda m, v_ND: m.pool(v_ND), module)({"params": params}, v_ND)
        return v_ND.reshape(v_BUD.shape).astype(jnp.float32)

    return pooled


def join_vectors(parts: list, cut: Cut, pool: str, normalize: bool) -> np.ndarray:
    """Put the vectors of items in order and join those of a text's windows."""
    v_ND = np.empty((cut.text.size, parts[0][1].shape[-1]), np.float32)
    for item, some in parts:
        v_ND[item] = some
    if cut.text.size > cut.num_texts:
        weight = np.diff(cut.kept)[:, 0] if pool == "mean" else np.ones(cut.text.size)
        share = weight / np.bincount(cut.text, weight)[cut.text]  # exactly 1 for a single window
        v_ND = np.add.reduceat(v_ND * share[:, None].astype(np.float32), cut.firsts)
    if normalize:
        v_ND /= np.maximum(np.linalg.norm(v_ND, axis=1, keepdims=True), 1e-12)
    return v_ND


def join_tokens(
    states: dict[int, np.ndarray], cut: Cut, offsets: Sequence[Sequence[tuple[int, int]]]
) -> Iterator[Encoded]:
    """Join the kept slots of each text's windows; give each token its characters."""
    ends = np.append(cut.firsts[1:], cut.text.size)
    for text, windows in enumerate(map(range, cut.firsts, ends)):
        kept = [(i, slice(*cut.kept[i])) for i in windows]
        ids = np.concatenate([cut.items.ids[cut.items.first[i] :][slots] for i, slots in kept])
        spans = np.zeros((ids.size, 2), np.int32)
        spans[1:-1] = np.array(offsets[text], np.int32).reshape(-1, 2)[: ids.size - 2]
        yield Encoded(ids, np.concatenate([states[i][slots] for i, slots in kept]), spans)
