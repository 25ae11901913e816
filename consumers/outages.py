"""The outages that a consumer sees, and what it logs of them: of its database, of its sink, and of its refills."""

import logging
from collections.abc import Callable

from schema.failures import DatabaseAway, Retryable
from schema.outage import DatabaseOutage, Outage

_log = logging.getLogger(__name__)


class Outages:
    """`clock` is that of `database`."""

    def __init__(self, sink: str, database: DatabaseOutage, clock: Callable[[], float]) -> None:
        self.database = database
        self._sink_name = sink
        self.sink = Outage(self._log_sink_failing, self._log_sink_recovered, clock)
        self.refill = Outage(self._log_refill_failing, self._log_refill_recovered, clock)

    def note_success(self, one: Outage) -> None:
        """Note that an attempt of `one` succeeded; the database answered it, too."""
        self.database.note_success()
        one.note_success()

    def note_failure(self, one: Outage, error: Retryable, began: float) -> None:
        """Note an attempt of `one` that began then: its error is that of the database, or the database answered."""
        self.database.note(error, began)
        if not isinstance(error, DatabaseAway):
            one.note_failure(error)

    def _log_sink_failing(self, reason: object, seconds: float) -> None:
        _log.warning("sink_failing sink=%s seconds=%.0f reason=%s", self._sink_name, seconds, reason)

    def _log_sink_recovered(self, seconds: float) -> None:
        _log.warning("sink_recovered sink=%s seconds=%.1f", self._sink_name, seconds)

    def _log_refill_failing(self, reason: object, seconds: float) -> None:
        _log.warning("refill_failing sink=%s seconds=%.0f reason=%s", self._sink_name, seconds, reason)

    def _log_refill_recovered(self, seconds: float) -> None:
        _log.warning("refill_recovered sink=%s seconds=%.1f", self._sink_name, seconds)
