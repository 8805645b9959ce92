"""Keep the list of batches that a run leaves out: those of `--skip_batches`, and those of a spike.

`workdir/skipped.json` holds it. Step s takes the s-th batch that is not on the list, so that a run
is a pure function of (config, data, seed, list): it does not matter which checkpoint it went on
from. Process 0 writes and tells the others.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from jalign.data.pipeline import Range, batch_of
from jalign.errors import ConfigError
from jalign.train.together import tell

SKIPPED_FILE = "skipped.json"


def parse_ranges(text: str) -> tuple[Range, ...]:
    """Read `100-120,300` as [100, 121) and [300, 301). Raises: ConfigError."""
    found = []
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise ConfigError(
                f"--skip_batches={text!r}: {part!r} is no range of batches such as 100-120 or 300"
            )
        found.append((first, last + 1))
    return merge(found)


def merge(ranges: Iterable[Sequence[int]]) -> tuple[Range, ...]:
    """Sort ranges, and join those that touch."""
    merged: list[Range] = []
    for begin, end in sorted((int(b), int(e)) for b, e in ranges):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return tuple(merged)


class Skipped:
    """The list of one workdir."""

    def __init__(self, workdir: Path, by_hand: Sequence[Range] = ()) -> None:
        """Read it; `by_hand` is added, once that is known to be possible (`add_by_hand`)."""
        self.path = workdir / SKIPPED_FILE
        self.entries = tell(_read(self.path) if jax.process_index() == 0 else [])
        self.by_hand = merge(by_hand)

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Return all ranges of the list, sorted and joined."""
        return merge(entry["batches"] for entry in self.entries)

    @property
    def num_rollbacks(self) -> int:
        """Count the entries that a spike has made."""
        return sum("step" in entry for entry in self.entries)

    def agrees(self, step: int, then: Iterable[Sequence[int]]) -> bool:
        """Say whether a checkpoint made with the list `then` is one of a run with this list.

        Raises: ConfigError where `then` has batches that this list, which only grows, lacks.
        """
        before = merge(then)
        named = _absent(before, _absent(before, self.by_hand))
        now = merge([*self.ranges, *named])  # where the file is lost, the user may name them again
        if lost := _absent(before, now):
            raise ConfigError(
                f"{self.path} lacks batches {write_ranges(lost)}, which the checkpoint of step "
                f"{step} left out: put the file back, or type "
                f"--skip_batches={write_ranges(before)}"
            )
        cursor = _cursor(step, before)
        return _below(before, cursor) == _below(now, cursor)

    def add_by_hand(self, step: int, then: Iterable[Sequence[int]]) -> str:
        """Add what the user asked for to the list of a run that goes on at `step`; return what is
        to be said.

        Raises: ConfigError where one of the batches has been trained on.
        """
        new = merge([*self.ranges, *self.by_hand])
        if new == self.ranges:
            return ""
        cursor = _cursor(step, merge(then))
        if _below(new, cursor) != _below(merge([*self.ranges, *then]), cursor):
            raise ConfigError(
                f"--skip_batches={write_ranges(self.by_hand)}: the checkpoint of step {step} was "
                f"trained on the batches before {cursor}, which can no longer be skipped. Name "
                f"later ones, or remove the checkpoints after step {self.by_hand[0][0]}"
            )
        self._add({"batches": _absent(self.by_hand, self.ranges), "why": "--skip_batches"})
        return f"skipping batches {write_ranges(self.ranges)}"

    def add_spike(self, step: int, num_steps: int, why: str) -> str:
        """Add the batches of the last `num_steps` steps before `step`; return what is to be
        said.
        """
        now = self.ranges
        first, last = batch_of(max(step - num_steps, 0), now), batch_of(step - 1, now)
        self._add({"batches": [[first, last + 1]], "why": why, "step": step})
        return f"skipping batches {write_ranges([(first, last + 1)])}"

    def _add(self, entry: dict[str, Any]) -> None:
        ranges = entry.pop("batches")
        self.entries += [{"batches": list(r), **entry, "time": time.time()} for r in ranges]
        if jax.process_index() == 0:
            partial = self.path.with_suffix(".partial")
            with partial.open("w", encoding="utf-8") as file:
                json.dump(self.entries, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.path)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("skipped")


def write_ranges(ranges: Iterable[Sequence[int]]) -> str:
    """Write [100, 121) and [300, 301) as `100-120,300`."""
    return ",".join(f"{b}-{e - 1}" if e - b > 1 else f"{b}" for b, e in ranges)


def _cursor(step: int, ranges: Sequence[Range]) -> int:
    """Return the first batch that comes after those of the first `step` steps."""
    return batch_of(step - 1, ranges) + 1 if step else 0


def _below(ranges: Sequence[Range], limit: int) -> tuple[Range, ...]:
    return tuple((b, min(e, limit)) for b, e in ranges if b < limit)


def _absent(wanted: Sequence[Range], there: Sequence[Range]) -> list[Range]:
    """Return the parts of `wanted` that `there` lacks."""
    left = list(wanted)
    for begin, end in there:
        left = [
            part
            for b, e in left
            for part in ((b, min(e, begin)), (max(b, end), e))
            if part[0] < part[1]
        ]
    return left


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_bytes())
        merge(entry["batches"] for entry in entries)
        return entries
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}): the run cannot know which batches it left out; restore "
            "the file, or use another --workdir"
        ) from error
