"""The embedded relay: it hands outbox rows straight to the sinks, in one process, without a broker.

Invariants 3 and 4: it reads from the oldest row on, in id order, each time; a row leaves the outbox only when every
sink holds it or it became a dead letter. The outbox is the queue, so a crash at any step repeats work and loses none.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from sqlalchemy import Engine

from relays import outbox
from relays.outbox_row import OutboxRow
from schema.failures import DeadLetter, DeadLetterLimit, Retryable
from schema.retry import call_with_retry
from schema.sinks import Applier

_log = logging.getLogger(__name__)

_BATCH_ROWS = 500
_BATCH_BYTES = 16 * 1024 * 1024
_IDLE_SECONDS = (0.005, 0.25)  # the pause doubles from the first to the second while there is nothing to do


class DirectRelay:
    """One relay a database: two at once would apply everything twice (harmless, but wasteful).

    `report` is called with the number of settled events after each batch, and `failing` with the reason and the seconds
    until the next attempt while a sink does not answer.
    """

    def __init__(
        self,
        engine: Engine,
        appliers: Sequence[Applier],
        *,
        report: Callable[[int], None] = lambda _: None,
        failing: Callable[[str, float], None] = lambda _reason, _seconds: None,
    ) -> None:
        self._engine = engine
        self._appliers = appliers
        self._report = report
        self._failing = failing
        self._pool = ThreadPoolExecutor(len(appliers), thread_name_prefix="direct-relay")
        self._limit = DeadLetterLimit()

    def run(self, stop: threading.Event, *, until_idle: bool, patience_seconds: float | None = None) -> None:
        """Relay until `stop` is set or, with `until_idle`, until the outbox is empty.

        A failing sink is retried for ever, or for `patience_seconds`; then its Retryable is raised.
        """
        pause = _IDLE_SECONDS[0]
        while not stop.is_set():
            if self._patiently(stop, patience_seconds):
                pause = _IDLE_SECONDS[0]
            elif until_idle:
                return
            else:
                stop.wait(pause)
                pause = min(2 * pause, _IDLE_SECONDS[1])

    def relay_batch(self) -> int:
        """One round of the loop; returns how many events left the outbox. Raises Retryable when a sink failed."""
        rows = self.claim()
        if rows:
            self.settle(rows, self.apply(rows))
            self._report(len(rows))
        return len(rows)

    def claim(self) -> list[OutboxRow]:
        """The oldest rows, bounded in rows and bytes."""
        return outbox.claim_oldest(self._engine, _BATCH_ROWS, _BATCH_BYTES)

    def apply(self, rows: Sequence[OutboxRow]) -> list[DeadLetter]:
        """Every sink at once; raises the first failure after all have ended."""
        envelopes = [row.envelope for row in rows]
        outcomes = [self._pool.submit(applier.apply, envelopes) for applier in self._appliers]
        wait(outcomes)
        return [letter for outcome in outcomes for letter in outcome.result()]

    def settle(self, rows: Sequence[OutboxRow], dead: Sequence[DeadLetter]) -> None:
        """Remove the rows, and keep those that a sink refused among the dead letters, in one transaction."""
        ids = {row.envelope.event_id: row.id for row in rows}
        outbox.settle(self._engine, [row.id for row in rows], [(ids[one.envelope.event_id], one) for one in dead])
        for letter in dead:
            _log.error("dead_letter stage=%s doc_id=%s reason=%s", letter.stage, letter.envelope.doc_id, letter.reason)
        self._limit.count(len(rows), len({letter.envelope.event_id for letter in dead}))

    def close(self) -> None:
        self._pool.shutdown()

    def _patiently(self, stop: threading.Event, patience_seconds: float | None) -> int:
        """One batch, tried again with backoff while a sink fails; ends early, with 0, when `stop` is set."""

        try:
            return call_with_retry(
                self.relay_batch,
                retry_on=lambda error: isinstance(error, Retryable),
                stop=stop,
                seconds=patience_seconds,
                report=lambda error, seconds: self._failing(str(error), seconds),
            )
        except Retryable:
            if stop.is_set():
                return 0
            raise
