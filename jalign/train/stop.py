"""Ask a run to stop: SIGTERM sets a flag that every loop looks at."""

from __future__ import annotations

import signal
from types import TracebackType

import jax
import numpy as np
from jax.experimental import multihost_utils


class StopFlag:
    """Catch SIGTERM while the run is in its loops; a second one is heeded no faster."""

    def __init__(self) -> None:
        """Start unset."""
        self.asked = False

    def __enter__(self) -> StopFlag:
        """Install the handler."""
        self._old = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(
        self, kind: type | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the former handler back."""
        signal.signal(signal.SIGTERM, self._old)

    def _ask(self, signum, frame) -> None:
        del signum, frame
        self.asked = True

    def agreed(self) -> bool:
        """Say whether any process was asked; every process gets the same answer, so all stop at the
        same step.
        """
        if jax.process_count() == 1:
            return self.asked
        return bool(np.max(multihost_utils.process_allgather(np.int32(self.asked))))
