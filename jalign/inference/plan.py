"""Plan which items share a row and which rows share a batch, from their lengths alone.

In: items (a text, or whatever must lie side by side in one row) and the shapes that a batch may
have. Out: batches of packed rows with nearly no padding, in few different shapes, longest first.
Nothing here knows what is computed from them. A plan is a pure function of lengths and shapes, so
the same texts give the same bits again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jalign.data.packing import Bins

SHORTEST_ROW = 64
LONGEST_ROW = (
    1024  # or what the longest item needs: rows may hold more than the encoder's positions
)
SLOTS_PER_UNIT = 4  # a unit takes at least so many: then a row has at most a quarter as many units
LONGER_ROWS = (1, 2, 4)  # rows of so many times the shortest length that would do are tried too
GAIN = 0.97  # and taken where they cost less than this share: every shape is a program to compile


class Items(NamedTuple):
    """Token sequences, flat: item i has the slots [first[i], first[i + 1]).

    `unit`: 1 to `units` inside each item (two sides of a pair are two units); `pool`: the unit
    into whose mean a slot goes, 0 for none. `more`: further fields, laid out as they are.
    """

    first: np.ndarray
    ids: np.ndarray
    position: np.ndarray
    unit: np.ndarray
    pool: np.ndarray
    units: int = 1
    more: Mapping[str, np.ndarray] = {}

    @property
    def lengths(self) -> np.ndarray:
        """Return the slots of each item."""
        return np.diff(self.first)


@dataclass(frozen=True)
class Shapes:
    """Which shapes batches have: `slots` of each device in a full one, rows for all devices alike.

    `longest`: of the items. `hidden`: of the encoder; it weighs attention against the dense layers.
    """

    longest: int
    slots: int
    hidden: int
    devices: int = 1

    @property
    def row_lengths(self) -> tuple[int, ...]:
        """Return the lengths of rows: powers of two, the last one holds the longest item."""
        top = max(LONGEST_ROW, 1 << (self.longest - 1).bit_length())
        return tuple(SHORTEST_ROW << i for i in range((top // SHORTEST_ROW).bit_length()))

    def rows(self, row_length: int) -> int:
        """Return the rows of a full batch."""
        return self.devices * max(1, self.slots // row_length)

    def padded(self, num_rows: int, row_length: int) -> int:
        """Return the rows of the batches that hold `num_rows`: the last one has a power of two."""
        full, rest = divmod(num_rows, self.rows(row_length))
        shards = -(-rest // self.devices)
        tail = self.devices << (shards - 1).bit_length() if rest else 0
        return full * self.rows(row_length) + min(tail, self.rows(row_length))

    def cost(self, num_rows: int, row_length: int) -> float:
        """Return the work of so many rows, in slots of dense layers.

        A layer's attention takes 4 L D FLOPs per slot beside 24 D^2. Measured, 384 wide on a CPU:
        512 slots per row take 1.27 times as long as 64.
        """
        slots = self.padded(num_rows, row_length) * row_length
        return slots * (1 + row_length / (6 * self.hidden))


class Batch(NamedTuple):
    """`num_rows` rows of `row_length` slots, none of whose units exceeds `max_unit`.

    Item `item[j]` lies in row `row[j]` from slot `start[j]` on, as the row's `number[j]`-th from 0.
    """

    row_length: int
    max_unit: int
    num_rows: int
    item: np.ndarray
    row: np.ndarray
    start: np.ndarray
    number: np.ndarray


def plan_batches(lengths: np.ndarray, shapes: Shapes, units: int = 1) -> list[Batch]:
    """Place every item once; `units` attention units in each.

    From the longest down: rows of the shortest length that holds the longest item left, as many
    full batches as the items of more than half that length need, their room filled up with shorter
    ones. So only the last batch, of the shortest items, is not full.
    """
    slots = np.maximum(lengths, SLOTS_PER_UNIT * units)
    left = np.argsort(-slots, kind="stable")
    batches: list[Batch] = []
    while left.size:
        level = next(n for n in shapes.row_lengths if n >= slots[left[0]])
        due = int(np.searchsorted(-slots[left], -(level // 2))) if level > SHORTEST_ROW else None
        row_length, row = _choose(slots[left], due, level, shapes)
        batches += _cut(left, row, slots, row_length, level, shapes)
        left = left[row < 0]
    return batches


def _choose(
    slots: np.ndarray, due: int | None, level: int, shapes: Shapes
) -> tuple[int, np.ndarray]:
    """Return the row length that costs least per slot used, and the row of each item."""
    best = None
    for length in (level * more for more in LONGER_ROWS):
        if length not in shapes.row_lengths:
            break
        row = _fill(slots, due, length, shapes)
        used = int(slots[row >= 0].sum())
        cost = shapes.cost(int(row.max()) + 1, length) / used
        if best is None or cost < GAIN * best[0]:
            best = cost, length, row
    return best[1:]


def _fill(slots: np.ndarray, due: int | None, row_length: int, shapes: Shapes) -> np.ndarray:
    """Place items, longest first, into the rows that the first `due` of them need (None: all)."""
    alone = Bins(slots[:due].size, row_length).place_all(slots[:due])
    if slots[:due].size == slots.size:
        return alone
    batch = shapes.rows(row_length)
    num_rows = -(-(int(alone.max()) + 1) // batch) * batch
    return Bins(num_rows, row_length).place_all(slots)


def _cut(
    items: np.ndarray, row: np.ndarray, slots: np.ndarray, row_length: int, level: int, shapes
) -> list[Batch]:
    """Cut the filled rows into batches."""
    order = np.argsort(row, kind="stable")[np.count_nonzero(row < 0) :]
    item, row = items[order], row[order]
    sizes = slots[item]
    starts_row = np.flatnonzero(np.diff(row, prepend=-1))
    first = np.repeat(starts_row, np.diff(starts_row, append=row.size))
    before = np.cumsum(sizes) - sizes
    start, number = before - before[first], np.arange(row.size) - first
    batches, full, num_rows = [], shapes.rows(row_length), int(row[-1]) + 1
    for top in range(0, num_rows, full):
        at = slice(*np.searchsorted(row, (top, top + full)))
        rows = shapes.padded(min(full, num_rows - top), row_length)
        batches.append(
            Batch(row_length, level, rows, item[at], row[at] - top, start[at], number[at])
        )
    return batches


def ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Join the ranges [start, start + size)."""
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(sizes.sum())


def lay_out(items: Items, batch: Batch) -> dict[str, np.ndarray]:
    """Fill the rows of a batch: int32 [B, L] of `ids`, `position`, `unit`, `pool` and `more`.

    Units are numbered through each row from 1; padding is 0 everywhere.
    """
    sizes = items.lengths[batch.item]
    source = ranges(items.first[batch.item], sizes)
    target = ranges(batch.row * batch.row_length + batch.start, sizes)
    base = np.repeat(batch.number * items.units, sizes)
    fields = {}
    own = {name: getattr(items, name) for name in ("ids", "position", "unit", "pool")}
    for name, flat in {**own, **items.more}.items():
        values = flat[source]
        if name in ("unit", "pool"):
            values = np.where(values > 0, values + base, 0)
        fields[name] = np.zeros((batch.num_rows, batch.row_length), np.int32)
        fields[name].reshape(-1)[target] = values
    return fields


def units_per_row(row_length: int) -> int:
    """Return the most units that a row can have."""
    return row_length // SLOTS_PER_UNIT
