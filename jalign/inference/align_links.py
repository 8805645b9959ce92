"""Take links off the devices, and turn links between slots into links between words.

In: a module, the layers to read and the rules that pick links. Out: a pure function for the engine,
whose arrays hold one bit per cell; and `Found`, which gathers the cells of a window and lists the
word links of its pairs. All of it works on flat arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jalign.align.extract import matching
from jalign.align.methods import Rule, cell_arrays
from jalign.align.symmetrize import symmetrize
from jalign.align.words import WordLinks
from jalign.inference.align_texts import PairCut
from jalign.inference.engine import Done, Function
from jalign.inference.plan import Batch, ranges
from jalign.types import Array

# Windows are at least 3/8 of their size apart where there are more than two: the third neighbour is
# out of reach but for rounding.
FURTHEST = 3


class Links(NamedTuple):
    """The word links of `num_pairs` pairs, flat and sorted: link a joins word `src_A[a]` and word
    `trg_A[a]` of pair `pair_A[a]`, with `score_A[a]` where scores were asked for.
    """

    num_pairs: int
    pair_A: np.ndarray
    src_A: np.ndarray
    trg_A: np.ndarray
    score_A: np.ndarray | None = None

    @property
    def firsts(self) -> np.ndarray:
        """Return the first link of each pair, and the number of links at the end."""
        return np.searchsorted(self.pair_A, np.arange(self.num_pairs + 1))

    def split(self) -> list[WordLinks]:
        """Return the links of each pair by themselves."""
        pairs_A2, cuts = np.stack([self.src_A, self.trg_A], axis=1), self.firsts
        return [
            WordLinks(pairs_A2[a:b], None if self.score_A is None else self.score_A[a:b])
            for a, b in zip(cuts[:-1], cuts[1:], strict=True)
        ]


class Cells(NamedTuple):
    """Linked cells: the slots of both sides, flat in the items, and scores."""

    src: np.ndarray
    trg: np.ndarray
    score: np.ndarray | None


def make_cells(
    module: nn.Module, layers: Sequence[int] | None, rules: Sequence[Rule], scores: bool
) -> Function:
    """Make the function that returns for every rule the cells of every layer: {"0/links": uint8
    [layers, rows, L, L / 8], …}, bits packed along the last axis.

    `layers`: indices into the module's states of all layers, or None: its last layer, as one.
    """

    def of_layer(h_BLD, fields):
        pool_BL = fields["pool"]
        example_BL, side_BL = (pool_BL + 1) // 2, jnp.where(pool_BL > 0, 2 - pool_BL % 2, 0)
        word_BL = fields["word"] - 1 if "word" in fields else None
        out = {}
        for number, rule in enumerate(rules):
            arrays = cell_arrays(rule, h_BLD, example_BL, side_BL, word_BL, scores=scores)
            out |= {f"{number}/{name}": _packed(x) for name, x in arrays.items()}
        return out

    def cells(params, fields, *, max_unit, num_units):
        del num_units
        h = module.apply(
            {"params": params}, fields["ids"], fields["position"], fields["unit"],
            max_unit=max_unit, all_layers=layers is not None,
        )  # fmt: skip
        if layers is None:
            return {name: x[None] for name, x in of_layer(h, fields).items()}
        return jax.lax.map(lambda h_BLD: of_layer(h_BLD, fields), h[jnp.array(layers)])

    return cells


def _packed(x_BLL: Array) -> Array:
    """Pack bools to bits: 8 times less to fetch, and empty bytes are skipped as they are."""
    return jnp.packbits(x_BLL, axis=-1) if x_BLL.dtype == bool else x_BLL


class Found:
    """The cells that one rule linked at one layer, gathered over the batches of a window."""

    def __init__(self, number: int, rule: Rule, at: int) -> None:
        """Take the rule, its number, and the index of its layer in the arrays."""
        self.number, self.rule, self.at = number, rule, at
        self.parts: dict[str, list[Cells]] = {}

    def add(self, done: Done, slot_N: np.ndarray) -> None:
        """Add the cells of a batch; `slot_N`: for each of its slots the slot of the items."""
        arrays = self._arrays(done.arrays)
        score_BLL = arrays.pop("score", None)
        if self.rule.method == "match":
            pair_BLL = _unpacked(arrays["pair"])
            arrays = {"links": np.packbits(matching(arrays["sim"], pair_BLL), axis=-1)}
        length = done.batch.row_length
        for name, packed_BLM in arrays.items():
            row, src, trg = _nonzero(packed_BLM)
            score = None if score_BLL is None else score_BLL[row, src, trg]
            cells = Cells(slot_N[row * length + src], slot_N[row * length + trg], score)
            self.parts.setdefault(name, []).append(cells)

    def _arrays(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        head = f"{self.number}/"
        return {n[len(head) :]: x[self.at] for n, x in arrays.items() if n.startswith(head)}

    def links(self, cut: PairCut) -> Links:
        """List the word links of the window's pairs."""
        found = {name: _own(_joined(parts), cut) for name, parts in self.parts.items()}
        if "forward" not in found or "reverse" not in found:
            cells = next(iter(found.values()), _joined([]))
            return _words(cells, cut)[0]
        both = _joined([found["forward"], found["reverse"]])
        forward = np.arange(both.src.size) < found["forward"].src.size
        links, order, group = _words(both, cut)
        ways = [np.zeros(links.pair_A.size, bool) for _ in range(2)]
        for way, member in zip(ways, (forward, ~forward), strict=True):
            way[group[member[order]]] = True
        return _combined(links, ways, self.rule.method)


def slots_of(cut: PairCut, batch: Batch) -> np.ndarray:
    """Return for each slot of a batch, row by row, the slot of the items that lies there."""
    sizes = cut.items.lengths[batch.item]
    slot_N = np.zeros(batch.num_rows * batch.row_length, np.int64)
    at = ranges(batch.row * batch.row_length + batch.start, sizes)
    slot_N[at] = ranges(cut.items.first[batch.item], sizes)
    return slot_N


def _unpacked(packed_BLM: np.ndarray) -> np.ndarray:
    return np.unpackbits(packed_BLM, axis=-1).astype(bool)


def _nonzero(packed_BLM: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (row, source slot, target slot) of the bits that are set."""
    length = packed_BLM.shape[1]
    flat = np.ascontiguousarray(packed_BLM).reshape(-1)
    byte = np.flatnonzero(flat)
    which, bit = np.nonzero(np.unpackbits(flat[byte, None], axis=1))
    cell = byte[which] * 8 + bit
    row, cell = np.divmod(cell, length * length)
    return row, *np.divmod(cell, length)


def _joined(parts: Sequence[Cells]) -> Cells:
    if not parts:
        none = np.zeros(0, np.int64)
        return Cells(none, none, None)
    scored = parts[0].score is not None
    return Cells(
        np.concatenate([p.src for p in parts]),
        np.concatenate([p.trg for p in parts]),
        np.concatenate([p.score for p in parts]) if scored else None,
    )


def _own(cells: Cells, cut: PairCut) -> Cells:
    """Keep every cell in one window: that in which the nearer of its pieces to an edge is furthest
    from it. The ends of a text are no edges.
    """
    if not cut.long.size or not cells.src.size:
        return cells
    item = np.searchsorted(cut.items.first, cells.src, side="right") - 1
    piece_A2 = np.stack([cut.piece[cells.src], cut.piece[cells.trg]], axis=1)
    depth, keep = _depth(cut, item, piece_A2), np.ones(item.size, bool)
    for step in range(1, FURTHEST + 1):
        for other in (item - step, item + step):
            there = (other >= 0) & (other < cut.pair.size)
            there[there] &= cut.pair[other[there]] == cut.pair[item[there]]
            theirs = _depth(cut, np.where(there, other, 0), piece_A2)
            keep &= ~(there & np.where(other < item, theirs >= depth, theirs > depth))
    return Cells(
        cells.src[keep], cells.trg[keep], None if cells.score is None else cells.score[keep]
    )


def _depth(cut: PairCut, item: np.ndarray, piece_A2: np.ndarray) -> np.ndarray:
    """Return how far the pieces lie from the edges of a window, -1 if not both are in it."""
    start_A2, end_A2 = cut.start[item], cut.end[item]
    left_A2, right_A2 = piece_A2 - start_A2, end_A2 - 1 - piece_A2
    inside = (np.minimum(left_A2, right_A2) >= 0).all(axis=1)
    far = np.iinfo(np.int64).max
    left_A2 = np.where(start_A2 == 0, far, left_A2)
    right_A2 = np.where(end_A2 == cut.last[item], far, right_A2)
    return np.where(inside, np.minimum(left_A2, right_A2).min(axis=1), -1)


def _words(cells: Cells, cut: PairCut) -> tuple[Links, np.ndarray, np.ndarray]:
    """Map cells to word links: sorted, each once, with the best score of its cells.

    Also returned: the order in which the cells sort, and in that order the link of each.
    """
    item = np.searchsorted(cut.items.first, cells.src, side="right") - 1
    fields = (cut.pair[item], cut.word[cells.src], cut.word[cells.trg])
    pair, src, trg = (field.astype(np.int64) for field in fields)
    num_src, num_trg = (int(x.max(initial=0)) + 1 for x in (src, trg))
    key = (pair * num_src + src) * num_trg + trg
    order = np.argsort(key, kind="stable")
    sorted_key = key[order]
    start = np.flatnonzero(np.diff(sorted_key, prepend=-1))
    group = np.cumsum(np.diff(sorted_key, prepend=-1) != 0) - 1
    first = order[start]
    score = cells.score
    if score is not None and score.size:
        score = np.maximum.reduceat(score[order], start)
    return Links(cut.num_pairs, pair[first], src[first], trg[first], score), order, group


def _combined(links: Links, ways: Sequence[np.ndarray], method: str) -> Links:
    """Combine the two directions of each pair."""
    keep = np.zeros(links.pair_A.size, bool)
    cuts = links.firsts
    for a, b in zip(cuts[:-1], cuts[1:], strict=True):
        every = list(zip(links.src_A[a:b].tolist(), links.trg_A[a:b].tolist(), strict=True))
        forward, reverse = (
            [x for x, is_in in zip(every, way[a:b], strict=True) if is_in] for way in ways
        )
        chosen = symmetrize(forward, reverse, method)
        keep[a:b] = [link in chosen for link in every]
    kept = (None if x is None else x[keep] for x in links[1:])
    return Links(links.num_pairs, *kept)
