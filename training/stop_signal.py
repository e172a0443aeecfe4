"""The wish that a run save and stop, as SIGTERM or Ctrl-C tell it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# A launcher passes on what its whole group has received already; so soon, it is the same Ctrl-C.
PATIENCE_S = 2.0


class StopSignal:
    """Notes SIGTERM and SIGINT while they are watched.

    SIGTERM may come any number of times. Ctrl-C that is pressed again after a while interrupts.

    Attributes:
        number: of the first signal, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._noted = 0.0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside the context a signal does nothing but be noted."""
        before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def exit_status(self) -> int:
        """128 + the signal's number; SIGTERM's where another process's signal stopped this one."""
        return 128 + (self.number or signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        now = time.monotonic()
        if self.number is None:
            self.number, self._noted = number, now
        elif number == signal.SIGINT and now - self._noted >= PATIENCE_S:
            raise KeyboardInterrupt
