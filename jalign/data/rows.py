"""Fill packed rows with tokens: the three layouts of a stream.

In: opened sources (token ids, memory-mapped) and a layout. Out: batches of the packed fields of
architecture section 4.

| layout | an example is | attention unit |
| --- | --- | --- |
| single | `<s> text </s>` | the example |
| joint | `<s> src </s> trg </s>` | the example |
| separate | `<s> src </s>` `<s> trg </s>` | one side of the example |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jalign.data.links import Linker, PairText
from jalign.data.packing import PackedOnce, PackedRows
from jalign.data.records import Side
from jalign.data.shuffle import make_key, temperature_weights

LAYOUTS = ("single", "joint", "separate")
SPECIALS = {"single": 2, "joint": 3, "separate": 4}
FIELDS = ("ids", "example", "side", "position", "word", "lang")
LINK_FIELDS = ("links", "link_weight")
SIDE_SRC, SIDE_TRG = 1, 2


@dataclass(frozen=True)
class Part:
    """One part of a mixture: the sides of a source that make an example, and their language ids.

    Parts of equal `langs` share one temperature weight: it is languages and pairs that are
    balanced, not files.
    """

    name: str
    sides: tuple[Side, ...]
    langs: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """How examples lie in rows.

    `max_unit` is the longest attention unit, in slots (the encoder's positions bound it). A longer
    single text is cut into equal pieces; a longer pair is left out and counted. `swap` puts the
    target side first in every other visit (side ids keep their meaning: 1 is the source).
    """

    kind: str
    row_length: int
    max_unit: int
    swap: bool = False

    def __post_init__(self) -> None:
        """Check the layout. Raises: ValueError naming what to type instead."""
        if self.kind not in LAYOUTS:
            raise ValueError(f"layout={self.kind!r}: need one of {', '.join(LAYOUTS)}")
        if not 4 <= self.max_unit <= self.row_length:
            raise ValueError(f"max_unit={self.max_unit}: need 4 to row_length={self.row_length}")


class PartIndex:
    """Which draws a part offers: each is (record, piece, number of pieces), or nothing where it
    cannot fit.
    """

    def __init__(self, part: Part, layout: Layout) -> None:
        """Measure every example of a part once, from the offsets alone."""
        self.part, self.layout = part, layout
        tokens = [np.diff(side.offsets) for side in part.sides]
        self.records: np.ndarray | None = None  # None: draw d is record d, whole
        self.num_left_out = self.num_cut = 0
        if layout.kind == "single":
            self._cut(tokens[0])
        else:
            self._leave_out(tokens)

    def _cut(self, tokens: np.ndarray) -> None:
        room = self.layout.max_unit - SPECIALS["single"]
        pieces = np.maximum(1, -(-tokens // room))
        self.num_cut = int((pieces > 1).sum())
        if self.num_cut:
            self.records = np.repeat(np.arange(tokens.size), pieces)
            self.piece = np.arange(self.records.size) - np.repeat(
                np.cumsum(pieces) - pieces, pieces
            )
            self.pieces = pieces[self.records]
        self.size = int(pieces.sum())

    def _leave_out(self, tokens: list[np.ndarray]) -> None:
        joint = self.layout.kind == "joint"
        slots = sum(tokens) + SPECIALS[self.layout.kind]
        unit = slots if joint else np.maximum(*tokens) + 2
        keep = (unit <= self.layout.max_unit) & (slots <= self.layout.row_length)
        self.num_left_out = int((~keep).sum())
        if self.num_left_out:
            self.records = np.flatnonzero(keep)
        self.size = int(keep.sum())

    def record(self, draw):
        """Map draws to record numbers."""
        return draw if self.records is None else self.records[draw]

    def spans(self, draw) -> list[tuple]:
        """Return (begin, end) in the flat token arrays of each side, for one draw or an array of
        them.
        """
        record = self.record(draw)
        spans = [(side.offsets[record], side.offsets[record + 1]) for side in self.part.sides]
        if self.layout.kind == "single" and self.records is not None:
            (begin, end), piece, pieces = spans[0], self.piece[draw], self.pieces[draw]
            size = end - begin
            spans = [(begin + size * piece // pieces, begin + size * (piece + 1) // pieces)]
        return spans

    def slots(self, draw: np.ndarray) -> np.ndarray:
        """Count the slots of draws, special tokens included."""
        return sum(end - begin for begin, end in self.spans(draw)) + SPECIALS[self.layout.kind]


@dataclass(frozen=True)
class Specials:
    """The ids that frame a sentence."""

    bos: int
    eos: int
    pad: int


class RowSource:
    """Random access to the packed rows of one stream: `rows(i, n)` is a batch of the rows
    [i, i + n).
    """

    def __init__(
        self,
        parts: Sequence[Part],
        layout: Layout,
        specials: Specials,
        *,
        alpha: float = 1.0,
        seed: int = 0,
        once: bool = False,
        linker: Linker | None = None,
    ) -> None:
        """Index the parts and plan the packing: endless and shuffled, or with `once` each example
        one time. `linker` gives the pairs of a batch their `links` and `link_weight`.

        Raises: ValueError where nothing fits the layout.
        """
        indexed = [PartIndex(part, layout) for part in parts]
        self.num_left_out = {i.part.name: i.num_left_out for i in indexed if i.num_left_out}
        self.num_cut = {i.part.name: i.num_cut for i in indexed if i.num_cut}
        self.index = [i for i in indexed if i.size]
        if not self.index:
            raise ValueError(
                f"no example of {[p.name for p in parts]} fits {layout}: raise max_unit or "
                "row_length"
            )
        self.layout, self.specials, self.seed, self.linker = layout, specials, seed, linker
        self.fields = (*FIELDS, "row", *(LINK_FIELDS if linker else ()))
        self.counts = dict(getattr(linker, "counts", {}))
        self.shares = _shares(self.index, alpha)
        sizes = [i.size for i in self.index]
        self.packed: PackedRows | PackedOnce
        if once:
            self.packed = PackedOnce(sizes, self._slots, row_length=layout.row_length)
        else:
            self.packed = PackedRows(
                sizes, self._slots, self.shares, row_length=layout.row_length, seed=seed
            )

    def _slots(self, part: int, draws: np.ndarray) -> np.ndarray:
        return self.index[part].slots(draws)

    def records(self, row: int) -> list[tuple[str, int]]:
        """Name what row `row` holds: (part name, record number) of each example."""
        return [
            (self.index[p].part.name, int(self.index[p].record(d)))
            for p, d in zip(*self.packed.row(row), strict=True)
        ]

    def rows(self, first: int, num: int) -> dict[str, np.ndarray]:
        """Return the packed fields of rows [first, first + num), int32 [num, L], and `row` int32
        [num]; with a linker `links` int32 [num, L, 2] and `link_weight` float32 [num, L] too.
        """
        batch = {name: np.zeros((num, self.layout.row_length), np.int32) for name in FIELDS}
        batch["ids"][:] = self.specials.pad
        batch["word"][:] = -1
        for r in range(num):
            fields = {name: values[r] for name, values in batch.items()}
            self._fill(fields, first + r)
        batch["row"] = (np.arange(first, first + num) & 0x7FFFFFFF).astype(np.int32)
        return batch | self._links(batch, first) if self.linker else batch

    def _links(self, batch: dict[str, np.ndarray], first: int) -> dict[str, np.ndarray]:
        """Ask the linker about all pairs of a batch at once; as many links as slots are kept, the
        heaviest.
        """
        num, length = batch["ids"].shape
        texts, slots = [], []
        for r in range(num):
            for number, (source, record) in enumerate(self.records(first + r), start=1):
                mine = batch["example"][r] == number
                sides = [np.flatnonzero(mine & (batch["side"][r] == s)) for s in (1, 2)]
                fields = [batch[name][r][at] for at in sides for name in ("ids", "word")]
                texts.append(PairText(source.partition("/")[2], record, *fields))
                slots.append((r, *sides))
        found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(num)]
        for (r, src, trg), (pieces, weight) in zip(slots, self.linker(texts), strict=True):
            found[r].append((np.stack([src[pieces[:, 0]], trg[pieces[:, 1]]], axis=1), weight))
        links = np.full((num, length, 2), -1, np.int32)
        weights = np.zeros((num, length), np.float32)
        for r, parts in enumerate(found):
            if parts:
                pairs, weight = (np.concatenate(x) for x in zip(*parts, strict=True))
                best = np.argsort(-weight, kind="stable")[:length]
                links[r, : best.size], weights[r, : best.size] = pairs[best], weight[best]
        return {"links": links, "link_weight": weights}

    def _fill(self, fields: dict[str, np.ndarray], row: int) -> None:
        at = 0
        for number, (p, draw) in enumerate(zip(*self.packed.row(row), strict=True), start=1):
            index = self.index[p]
            names = (SIDE_SRC, SIDE_TRG)[: len(index.part.sides)]
            sides = list(
                zip(names, index.part.sides, index.part.langs, index.spans(draw), strict=True)
            )
            if (
                self.layout.swap
                and len(sides) == 2
                and int(make_key(self.seed, 3, row, number)) & 1
            ):
                sides.reverse()
            start = unit = at
            for k, (side, tokens, lang, (begin, end)) in enumerate(sides):
                side_start = at
                if k == 0 or self.layout.kind == "separate":
                    unit = at
                    fields["ids"][at] = self.specials.bos
                    at += 1
                stop = at + int(end - begin)
                fields["ids"][at:stop] = tokens.ids[begin:end]
                fields["word"][at:stop] = tokens.word[begin:end]
                fields["side"][at:stop] = side
                fields["ids"][stop] = self.specials.eos
                at = stop + 1
                fields["lang"][side_start:at] = lang
                fields["position"][unit:at] = np.arange(at - unit)
            fields["example"][start:at] = number


def _shares(index: Sequence[PartIndex], alpha: float) -> list[float]:
    """Give each group of equal languages its temperature weight, split inside by size."""
    groups: dict[tuple[int, ...], int] = {}
    for i in index:
        groups[i.part.langs] = groups.get(i.part.langs, 0) + i.size
    weight = dict(zip(groups, temperature_weights(list(groups.values()), alpha), strict=True))
    return [float(weight[i.part.langs] * i.size / groups[i.part.langs]) for i in index]
