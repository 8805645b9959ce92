"""Plan which examples share a row, from their lengths alone.

In: for each part of a mixture the lengths of its examples, in slots. Out: rows of L slots, hundreds
of thousands of examples a second at 0.99 and more of the slots used. Row i is a pure function of
(lengths, shares, seed, i): rows come in windows of a fixed number, each window is planned by
itself, and what is due in a window does not depend on the past.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np

from jalign.data.shuffle import Mixture, make_key

WINDOW_ROWS = 1024
SIGMAS = (
    2.5  # rows are kept free for this deviation of a window's slots; spare draws top up the rest
)
CACHED_WINDOWS = 8


class Bins:
    """Rows being filled, best fit first: the fullest row that still has room takes the example."""

    def __init__(self, num_rows: int, length: int) -> None:
        """Open `num_rows` empty rows of `length` slots."""
        self.rows_by_room: list[list[int]] = [[] for _ in range(length + 1)]
        self.rows_by_room[length] = list(range(num_rows - 1, -1, -1))
        self.rooms = 1 << length  # bit r is set while some row has exactly r free slots

    def place(self, length: int) -> int:
        """Give an example of `length` slots its row, or -1 where none has room."""
        fitting = self.rooms >> length
        if not fitting:
            return -1
        room = length + (fitting & -fitting).bit_length() - 1
        rows = self.rows_by_room[room]
        row = rows.pop()
        if not rows:
            self.rooms &= ~(1 << room)
        left = room - length
        self.rows_by_room[left].append(row)
        if left:
            self.rooms |= 1 << left
        return row

    def place_all(self, lengths: np.ndarray) -> np.ndarray:
        """Place examples longest first; return the row of each, -1 where none has room."""
        row = np.empty(lengths.size, np.int32)
        for i in np.argsort(-lengths, kind="stable").tolist():
            row[i] = self.place(int(lengths[i]))
        return row


@dataclass(frozen=True)
class Plan:
    """A packed window: row r holds the entries [first[r], first[r + 1]) of `part` and `example`."""

    first: np.ndarray
    part: np.ndarray
    example: np.ndarray
    num_postponed: int


class PackedRows:
    """An endless random-access sequence of packed rows over a mixture of parts.

    Due draws visit every part without replacement, epoch after epoch; spare draws, an independent
    sequence, only fill what room is left in a window. Due examples that find no room go to the next
    window.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        lengths: Callable[[int, np.ndarray], np.ndarray],
        shares: Sequence[float],
        *,
        row_length: int,
        seed: int,
    ) -> None:
        """Calibrate the window: `lengths(part, examples)` gives slots, each between 1 and
        `row_length`.
        """
        self.lengths, self.row_length, self.seed = lengths, row_length, seed
        self.due = Mixture(tuple(sizes), tuple(shares), seed, salt=0)
        self.spare = Mixture(tuple(sizes), tuple(shares), seed, salt=1)
        self._plans: OrderedDict[int, Plan] = OrderedDict()
        self._late: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._lock = Lock()
        self._calibrate()

    def _lengths_of(self, part: np.ndarray, example: np.ndarray) -> np.ndarray:
        out = np.empty(part.size, np.int64)
        for p in np.unique(part):
            at = part == p
            out[at] = self.lengths(int(p), example[at])
        return out

    def _calibrate(self) -> None:
        """Choose the rows and the due draws of a window so that what is due nearly always fits."""
        trial = min(8192, max(sum(self.due.sizes), 1))
        length = self._lengths_of(*self.spare.draws(0, trial))
        if length.size == 0 or length.min() < 1 or length.max() > self.row_length:
            raise ValueError(
                f"examples need 1 to {self.row_length} slots; got lengths from "
                f"{length.min(initial=0)} to {length.max(initial=0)}"
            )
        rows = np.unique(Bins(length.size, self.row_length).place_all(length)).size
        self.mean_length = float(length.mean())
        # A window never asks for more than one epoch, so that tiny corpora do not repeat inside a
        # batch.
        self.window_rows = int(min(WINDOW_ROWS, max(1, rows)))
        num = self.window_rows * length.size / rows
        margin = max(0.01, SIGMAS * float(length.std()) / (self.mean_length * num**0.5))
        self.due_per_window = max(1, int((1 - min(margin, 0.5)) * num))
        room = self.window_rows * self.row_length - self.due_per_window * self.mean_length
        self.spare_per_window = 16 + int(2 * max(room, 0) / self.mean_length)

    def _pack_due(self, window: int) -> tuple[Bins, np.ndarray, np.ndarray, np.ndarray]:
        """Pack what is due in a window, alone: (bins, part, example, row), row -1 where it must
        wait.
        """
        part, example = self.due.draws(window * self.due_per_window, self.due_per_window)
        bins = Bins(self.window_rows, self.row_length)
        row = bins.place_all(self._lengths_of(part, example))
        self._late[window] = part[row < 0], example[row < 0]
        while len(self._late) > CACHED_WINDOWS:
            self._late.popitem(last=False)
        return bins, part, example, row

    def _late_from(self, window: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (part, example) of what was due in a window and found no room there."""
        if window < 0:
            return np.empty(0, np.int32), np.empty(0, np.int64)
        if window not in self._late:
            self._pack_due(window)
        return self._late[window]

    def plan(self, window: int) -> Plan:
        """Pack one window of rows (cached: neighbouring rows cost nothing)."""
        with self._lock:
            if window not in self._plans:
                self._plans[window] = self._make_plan(window)
                while len(self._plans) > CACHED_WINDOWS:
                    self._plans.popitem(last=False)
            return self._plans[window]

    def _make_plan(self, window: int) -> Plan:
        late = self._late_from(window - 1)
        bins, *due = self._pack_due(window)
        late_row = bins.place_all(self._lengths_of(*late))
        spare = self.spare.draws(window * self.spare_per_window, self.spare_per_window)
        spare_row = bins.place_all(self._lengths_of(*spare))
        part, example, row = (
            np.concatenate(columns)
            for columns in zip(due, (*late, late_row), (*spare, spare_row), strict=True)
        )
        return self._shuffled(window, part, example, row, int((late_row < 0).sum()))

    def _shuffled(self, window, part, example, row, num_postponed) -> Plan:
        """Undo the packer's order by length: shuffle the rows of the window and the examples of
        each row.
        """
        rng = np.random.default_rng(int(make_key(self.seed, 2, window)))
        row = np.where(row < 0, -1, rng.permutation(self.window_rows)[row])
        order = rng.permutation(row.size)
        order = order[np.argsort(row[order], kind="stable")]
        order = order[row[order] >= 0]
        first = np.searchsorted(row[order], np.arange(self.window_rows + 1))
        return Plan(first, part[order], example[order], num_postponed)

    def row(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (part, example) of what row i holds, in order."""
        plan = self.plan(i // self.window_rows)
        r = i % self.window_rows
        at = slice(plan.first[r], plan.first[r + 1])
        return plan.part[at], plan.example[at]


class PackedOnce:
    """Rows that hold every example exactly once, for evaluation; rows past the last are empty."""

    def __init__(
        self,
        sizes: Sequence[int],
        lengths: Callable[[int, np.ndarray], np.ndarray],
        *,
        row_length: int,
    ) -> None:
        """Pack all examples of all parts, longest first."""
        part = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        example = np.concatenate([np.arange(size) for size in sizes])
        length = np.concatenate([lengths(p, np.arange(size)) for p, size in enumerate(sizes)])
        row = Bins(length.size, row_length).place_all(length)
        self.num_rows = int(row.max(initial=-1)) + 1
        order = np.argsort(row, kind="stable")
        self._first = np.searchsorted(row[order], np.arange(self.num_rows + 1))
        self._part, self._example = part[order], example[order]

    def row(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (part, example) of what row i holds."""
        if i >= self.num_rows:
            return self._part[:0], self._example[:0]
        at = slice(self._first[i], self._first[i + 1])
        return self._part[at], self._example[at]
