"""Ask a run to stop: SIGTERM or Ctrl-C sets a flag that every loop looks at."""

from __future__ import annotations

import signal
from types import TracebackType

import jax
import numpy as np
from jax.experimental import multihost_utils


class StopFlag:
    """Catch SIGTERM and Ctrl-C while the run is in its loops.

    A second SIGTERM is heeded no faster; a second Ctrl-C interrupts at once, as ever.
    """

    def __init__(self) -> None:
        """Start unset."""
        self.asked = 0  # the signal's number, once there was one

    def __enter__(self) -> StopFlag:
        """Install the handlers."""
        self._old = {s: signal.signal(s, self._ask) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the former handlers back."""
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, signum, frame) -> None:
        del frame
        self.asked = self.asked or signum
        signal.signal(signal.SIGINT, self._old[signal.SIGINT])

    def agreed(self) -> int:
        """Return the signal that any process was sent, 0 for none.

        Every process gets the same answer, so all stop at the same step.
        """
        if jax.process_count() == 1:
            return self.asked
        return int(np.max(multihost_utils.process_allgather(np.int32(self.asked))))
