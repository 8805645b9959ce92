"""Speak: log lines and a progress bar on stderr, metrics.jsonl, results.jsonl and TensorBoard
files.

Only process 0 writes. A resumed run drops what it had logged after the checkpoint, so that every
step stands once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jalign.train.board import Board


def say(message: str) -> None:
    """Write one line to stderr."""
    print(message, file=sys.stderr, flush=True)


def format_duration(seconds: float) -> str:
    """Write seconds as 1:02:03 or 2:03."""
    hours, rest = divmod(int(max(seconds, 0)), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def format_line(m: Mapping[str, Any], steps: int) -> str:
    """Write a record of metrics.jsonl as one line for people."""
    losses = ", ".join(
        f"{k.removeprefix('loss/')} {v:.3f}" for k, v in m.items() if k.startswith("loss/")
    )
    mfu = f"MFU {100 * m['mfu']:.0f} %" if m["mfu"] else "MFU unknown"
    return (
        f"step {m['step']}/{steps} | loss {m['loss']:.3f} ({losses}) | {m['tokens_per_s']:,.0f} "
        f"tokens/s | rows {100 * m['pack_efficiency']:.1f} % full | input wait "
        f"{100 * m['input_wait_frac']:.1f} % | {mfu} | {m['memory_mib']:,.0f} MiB | "
        f"goodput {100 * m['goodput']:.1f} % | {format_duration(m['time_left_s'])} left"
    )


def keep_until(path: Path, step: int) -> None:
    """Drop the records of a .jsonl file after `step`, and a line that a kill cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["step"] <= step:
            kept.append(line + "\n")
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)


class Log:
    """The voice of one run."""

    def __init__(self, workdir: Path, steps: int, *, start: int, writes: bool) -> None:
        """Open the files of a workdir; `writes=False` on all processes but the first."""
        self.steps, self.writes = steps, writes
        self.progress, self._paths = (
            None,
            {name: workdir / f"{name}.jsonl" for name in ("metrics", "results")},
        )
        self._board, self._folder = None, workdir / "tensorboard"
        self._unwritten: dict[str, list[str]] = {name: [] for name in self._paths}
        if not writes:
            return
        if sys.stderr.isatty():
            self._open_bar(start)
        self.rewind(start)

    def rewind(self, step: int) -> None:
        """Drop what was logged after a step that the run goes on from."""
        if not self.writes:
            return
        for path in self._paths.values():
            keep_until(path, step)
        if self._board:
            self._board.close()
        self._board = Board(self._folder, step, self.say)
        self.step(step)

    def _open_bar(self, start: int) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.progress = Progress(*columns, console=Console(stderr=True), transient=False)
        self._task = self.progress.add_task("step", total=self.steps, completed=start, note="")
        self.progress.start()

    def say(self, message: str) -> None:
        """Write one line to stderr, above the bar where there is one."""
        if not self.writes:
            return
        if self.progress:
            self.progress.console.print(message, markup=False, highlight=False)
        else:
            say(message)

    def step(self, step: int) -> None:
        """Move the bar."""
        if self.progress:
            self.progress.update(self._task, completed=step)

    def metrics(self, record: Mapping[str, Any]) -> None:
        """Log one record: a line for people, a line of metrics.jsonl, TensorBoard scalars."""
        if not self.writes:
            return
        self._append("metrics", record)
        for key, value in record.items():
            if isinstance(value, (int, float)) and key != "step":
                self._board.add_scalar(key, value, record["step"])
        if self.progress:
            note = f"loss {record['loss']:.3f} | {record['tokens_per_s']:,.0f} tokens/s"
            self.progress.update(self._task, note=note)
        self.say(format_line(record, self.steps))

    def results(self, step: int, results: list[dict[str, Any]], **more: Any) -> None:
        """Log the results of an evaluation: lines of results.jsonl (with the entries `more`),
        TensorBoard scalars.
        """
        if not self.writes:
            return
        self._append("results", *({**result, "step": step, **more} for result in results))
        for r in results:
            tag = "/".join([*map(str, more.values()), r["task"], r["metric"], r["lang"]])
            self._board.add_scalar(tag, r["value"], step)

    def _append(self, name: str, *records: Mapping[str, Any]) -> None:
        """Add records at once: a kill leaves all of them or none, but for a line cut short.

        What cannot be written is kept, and written with the next.
        """
        waiting, path = self._unwritten[name], self._paths[name]
        had_to_wait = bool(waiting)
        waiting += [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab") as file:
                file.write("".join(waiting).encode())
        except OSError as error:
            with contextlib.suppress(OSError):  # half of it may be there
                os.truncate(path, size)
            if not had_to_wait:
                self.say(f"{path}: {error}; its records are kept until there is room")
            return
        waiting.clear()

    def close(self) -> None:
        """Flush and leave the terminal as it was."""
        for name, waiting in self._unwritten.items():
            if waiting:
                self._append(name)
            if waiting:
                self.say(f"{self._paths[name]}: {len(waiting)} records could not be written")
        if self.progress:
            self.progress.stop()
        if self._board:
            self._board.close()
