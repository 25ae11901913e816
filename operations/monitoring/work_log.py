"""One log line per minute of work, for people who watch a log instead of a dashboard."""

import logging
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)

_SECONDS = 60.0


class WorkLog:
    """Counts events; the first count after a minute writes the line, so an idle process is silent.

    `describe_lag` says what still waits; it is called once per line.
    """

    def __init__(
        self, done: str, describe_lag: Callable[[], str] = lambda: "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._done = done
        self._describe_lag = describe_lag
        self._clock = clock
        self._events = 0
        self._since: float | None = None  # when this minute's first event was counted

    def count(self, events: int) -> None:
        now = self._clock()
        if self._since is None:
            self._since = now
        self._events += events
        seconds = now - self._since
        if seconds >= _SECONDS:
            _log.info("%s events=%d rate=%.1f/s%s", self._done, self._events, self._events / seconds, self._lag())
            self._events, self._since = 0, None

    def _lag(self) -> str:
        lag = self._describe_lag()
        return f" {lag}" if lag else ""
