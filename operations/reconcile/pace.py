"""The rate limit of a run, and its end on a signal."""

import threading
import time
from collections.abc import Callable

from operations.errors import OperationError


class Interrupted(OperationError):
    """Raised when a run is told to stop; `--resume` continues it."""

    def __init__(self) -> None:
        super().__init__("interrupted: rag-outbox reconcile --resume continues it")


class Pace:
    """Lets at most `rate` keys per second pass on average; 0 is no limit. `clock` returns seconds."""

    def __init__(
        self, rate: float = 0.0, stop: threading.Event | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._stop = stop or threading.Event()
        self._clock = clock
        self._free_at = clock()

    def spend(self, keys: int) -> None:
        """Wait until the rate allows this number of keys. Raises Interrupted."""
        if self._rate:
            now = self._clock()
            self._free_at = max(self._free_at, now) + keys / self._rate
            self._stop.wait(max(0.0, self._free_at - now))
        if self._stop.is_set():
            raise Interrupted
