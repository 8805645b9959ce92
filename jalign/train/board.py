"""Write TensorBoard scalars, and never stop or slow a run for it.

tensorboardX's own SummaryWriter hands events to a thread through a bounded queue: when the disk is
full the thread ends, and the run then waits for room in the queue for ever. Here the run writes the
events itself, into the same files.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FLUSH_EVERY_S = 30.0


def _tensorboard() -> Any:
    """Import what writes events.

    tensorboardX imports torch and boto3 wherever they are installed, for tensors and buckets that
    we never give it: 2.7 of the 5.6 CPU seconds that it took to import the loop (-X importtime).
    """
    spared = [name for name in ("torch", "boto3") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(spared))  # None: to import it is an ImportError at once
    try:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar
    finally:
        for name in spared:
            del sys.modules[name]
    return SimpleNamespace(
        EventsWriter=EventsWriter, Event=Event, SessionLog=SessionLog, scalar=scalar
    )


class Board:
    """The TensorBoard files of one run; a failure is said once, and no more is written."""

    def __init__(self, folder: Path, start: int, say: Callable[[str], None]) -> None:
        """Open a file; what former ones hold from step `start` on is no longer shown."""
        self.folder, self._say, self._writer = folder, say, None
        self._flushed, self._tb = 0.0, _tensorboard()
        with self._failures():
            folder.mkdir(parents=True, exist_ok=True)
            name = f".{time.time_ns() % 10**9:09d}"  # two starts within a second are two files
            self._writer = self._tb.EventsWriter(str(folder / "events"), name)
            if start:
                log = self._tb.SessionLog(status=self._tb.SessionLog.START)
                self._write(self._tb.Event(step=start, session_log=log))

    @contextlib.contextmanager
    def _failures(self):
        try:
            yield
        except OSError as error:
            self._say(f"TensorBoard files in {self.folder}: {error}; the run goes on without them")
            writer, self._writer = self._writer, None
            with contextlib.suppress(OSError):
                if writer:
                    writer.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Write one value."""
        if self._writer is None:
            return
        with self._failures():
            self._write(self._tb.Event(step=step, summary=self._tb.scalar(tag, value)))
            if time.monotonic() - self._flushed > FLUSH_EVERY_S:
                self._flushed = time.monotonic()
                self._writer.flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        if self._writer is not None:
            with self._failures():
                self._writer.close()
            self._writer = None
