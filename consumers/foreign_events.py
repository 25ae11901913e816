"""Events of other systems in a shared topic: they are skipped and counted, never applied and never dead letters."""

import logging
import time
from collections.abc import Callable

from consumers.subscription import Message
from schema.kafka.source import find_foreign_source

_log = logging.getLogger(__name__)

_REPORT_SECONDS = 60.0  # between two log lines


class ForeignEvents:
    """Recognises them by `ce_source`, which the relay sets. `source` is that of this system."""

    def __init__(self, source: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self.count = 0
        self._reported = 0
        self._report_at = 0.0
        self._last = ""

    def skip(self, message: Message) -> bool:
        """Whether the message is of another system. Without the header it is not: it becomes a dead letter."""
        source = find_foreign_source(message.headers, self._source)
        if source is None:
            return False
        self._note(source)
        return True

    def report(self) -> None:
        """Log the count if it grew since the last line."""
        if self.count > self._reported:
            _log.warning("foreign_events count=%d source=%s own=%s", self.count, self._last, self._source)
            self._reported = self.count
            self._report_at = self._clock() + _REPORT_SECONDS

    def _note(self, source: str) -> None:
        self.count += 1
        self._last = source
        if not self._reported or self._clock() >= self._report_at:
            self.report()
