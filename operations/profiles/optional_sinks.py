"""Optional sinks of the embedded profile: one that fails must not hold up the queue that all sinks share.

Its documents become absent instead, and a refill brings them once it works again.
"""

import logging
import time
from collections.abc import Callable, Collection, Sequence

from sqlalchemy import Engine

from consumers import completion, marks
from consumers.refill_rounds import Refill
from schema.events.events import Envelope
from schema.failures import DatabaseAway, DeadLetter, Retryable, SomeFail
from schema.outage import Outage, make_logged_outage
from schema.retry import Backoff, call_with_retry
from schema.sinks import Applier

_log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 60.0  # for a transaction of the metadata database
_BACKOFF = Backoff(1.0, 60.0)


class OptionalApplier:
    """Applies events to an optional sink; the documents of those that fail become absent in it."""

    def __init__(self, applier: Applier, engine: Engine) -> None:
        self._applier = applier
        self._engine = engine
        self._outage = _make_outage(applier.name)

    @property
    def name(self) -> str:
        return self._applier.name

    def apply(self, envelopes: Sequence[Envelope]) -> list[DeadLetter]:
        """Returns what the sink refuses for good. Raises DatabaseAway."""
        try:
            dead = self._applier.apply(envelopes)
        except DatabaseAway:
            raise
        except SomeFail as error:
            self._give_up(error.doc_ids, error)
            return list(error.dead)
        except Retryable as error:
            self._give_up({envelope.doc_id for envelope in envelopes}, error)
            return []
        self._outage.note_success()
        return dead

    def _give_up(self, doc_ids: Collection[str], error: Retryable) -> None:
        self._outage.note_failure(error)
        reasons = dict.fromkeys(sorted(doc_ids), f"the sink failed: {error}")

        def mark() -> None:
            with self._engine.begin() as connection:
                marks.lock_documents(connection, reasons)
                completion.follow_documents(connection, reasons)
                marks.mark_absent(connection, self.name, reasons)

        call_with_retry(mark, seconds=_PATIENCE_SECONDS)


class OptionalRefill:
    """The refill of an optional sink: while the sink fails, it tries again later. `clock` returns seconds."""

    def __init__(
        self,
        refill: Refill,
        sink: str,
        *,
        backoff: Backoff = _BACKOFF,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refill = refill
        self._outage = _make_outage(sink)
        self._backoff = backoff
        self._clock = clock
        self._failures = 0
        self._next_at = 0.0

    def is_due(self) -> bool:
        return self._clock() >= self._next_at and self._refill.is_due()

    def run_round(self, lanes: Collection[int] | None = None) -> int:
        """Returns how many documents were refilled: 0 after a failure. Raises DatabaseAway."""
        try:
            refilled = self._refill.run_round(lanes)
        except DatabaseAway:
            raise
        except Retryable as error:
            self._failures += 1
            self._next_at = self._clock() + self._backoff.seconds(self._failures)
            self._outage.note_failure(error)
            return 0
        self._failures = 0
        self._outage.note_success()
        return refilled


def _make_outage(sink: str) -> Outage:
    return make_logged_outage(_log, "optional_sink_failing", "optional_sink_recovered", f"sink={sink}")
