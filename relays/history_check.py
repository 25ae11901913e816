"""The check of a new history, in the background of the relay that owns lane 0: one relay at a time, and never its loop.

What it does is given by the process: it finds out by itself whether a check is due.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait

from relays.ports import Lanes

_log = logging.getLogger(__name__)

_PAUSE_SECONDS = 10.0
_STOP_SECONDS = 5.0  # how long the end of a process waits for a check that does not stop

Check = Callable[[Callable[[], bool]], object]  # called with a function that says when to stop


class HistoryCheck:
    """Runs `check` again and again; a failed one is tried again later. Owns `executor`, which has one thread."""

    def __init__(
        self, check: Check, lanes: Lanes, executor: Executor, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._check = check
        self._lanes = lanes
        self._executor = executor
        self._clock = clock
        self._running: Future[object] | None = None
        self._next_at = 0.0
        self._failure = ""
        self._is_closed = False

    def tend(self) -> None:
        """Start the check if it is time; returns at once."""
        if self._running is not None:
            if not self._running.done():
                return
            self._note(self._running)
            self._running = None
            self._next_at = self._clock() + _PAUSE_SECONDS
        if 0 in self._lanes.owned and self._clock() >= self._next_at:
            self._running = self._executor.submit(self._check, self._must_stop)

    def close(self) -> None:
        """Stop a running check: the next owner of lane 0 begins it again."""
        self._is_closed = True
        if self._running is not None:
            wait([self._running], _STOP_SECONDS)
        self._executor.shutdown(wait=False)

    def _must_stop(self) -> bool:
        """A lane that arrives is that of this relay, too: its last transaction may be in doubt."""
        return self._is_closed or not (0 in self._lanes.owned or 0 in self._lanes.arriving)

    def _note(self, ended: "Future[object]") -> None:
        """A failure that lasts is logged once."""
        error = ended.exception()
        reason = "" if error is None else f"{type(error).__name__}: {error}"
        if reason and reason != self._failure:
            _log.warning("history_check_failed reason=%s", reason)
        self._failure = reason
