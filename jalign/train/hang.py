"""Notice that a run hangs: no step, no result of an evaluation, nothing, for too long.

A thread looks at the time of the last beat. When it is too old, it says where every thread stands
and ends the process with exit code 42, upon which a scheduler starts it again. What hangs in
practice: a collective whose other side has died or was stopped, a storage that no longer answers.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

EXIT_CODE = 42


class HangWatch:
    """End the process when `beat` was not called for `limit_s` seconds (0: never)."""

    def __init__(self, limit_s: float, say: Callable[[str], None]) -> None:
        """Prepare; `with` starts and stops the thread."""
        self.limit_s, self._say = limit_s, say
        self._done = threading.Event()
        self.beat("start")

    def beat(self, what: str) -> None:
        """Note that the run is alive, and what it does next."""
        self._what, self._at = what, time.monotonic()

    def __enter__(self) -> HangWatch:
        """Start watching."""
        if self.limit_s > 0:
            threading.Thread(target=self._watch, name="hang watch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        self._done.set()

    def _watch(self) -> None:
        tick, last = min(self.limit_s / 4, 10.0), time.monotonic()
        while not self._done.wait(tick):
            now = time.monotonic()
            if now - last > 3 * tick:  # this very process was stopped, or the machine asleep
                self._at += now - last
            last = now
            if now - self._at > self.limit_s and not self._done.is_set():
                self._end(now - self._at)

    def _end(self, silent_s: float) -> None:
        self._say(
            f"hangs: nothing for {silent_s:.0f} s during: {self._what}. Another process may be "
            "dead or stopped, or the storage may not answer ('jalign doctor' looks). Exit code 42: "
            "start the same command again. Where this is no hang, raise config.hang_s. All "
            "threads:"
        )
        faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)
        sys.__stderr__.flush()
        os._exit(EXIT_CODE)  # an orderly end would wait for what hangs
