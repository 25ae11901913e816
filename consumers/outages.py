"""The outages that a consumer notes and logs: those of its database, of its sink, and of its refills."""

import logging
from collections.abc import Callable

from schema.failures import DatabaseAway, Retryable
from schema.outage import DatabaseOutage, Outage, make_logged_outage

_log = logging.getLogger(__name__)


class Outages:
    """`clock` is that of `database`."""

    def __init__(self, sink: str, database: DatabaseOutage, clock: Callable[[], float]) -> None:
        self.database = database
        of = f"sink={sink}"
        self.sink = make_logged_outage(_log, "sink_failing", "sink_recovered", of, clock)
        self.refill = make_logged_outage(_log, "refill_failing", "refill_recovered", of, clock)

    def note_success(self, one: Outage) -> None:
        """Note that an attempt of `one` succeeded: then the database answered, too."""
        self.database.note_success()
        one.note_success()

    def note_failure(self, one: Outage, error: Retryable, began: float) -> None:
        """Note that an attempt of `one`, which began at `began`, failed: at the database, or at the sink."""
        self.database.note(error, began)
        if not isinstance(error, DatabaseAway):
            one.note_failure(error)
