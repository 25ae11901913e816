"""The embedded relay: claim, apply, settle, report. It hands outbox rows straight to the sinks, in one process.

Invariants 3 and 4: it reads in id order, each time from the oldest row; a row leaves the outbox only when every sink
holds it or it became a dead letter. Rows of documents on which a sink fails while it takes others wait in the outbox,
and the relay goes on behind them. The outbox is the queue, so a crash at any step repeats work and loses none. What
the sinks may have seen is noted first, so that an older copy of the database is recognised and starts a new history.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from functools import partial
from typing import TypeVar

from sqlalchemy import Engine

from relays.held_back import HeldBack
from relays.idle import IdlePause
from relays.outbox import SqlOutbox
from relays.ports import Outbox, OutboxRow
from schema.failures import DatabaseAway, DeadLetter, DeadLetterLimit, Retryable, SomeFail
from schema.retry import Backoff, call_with_retry, translate_transient
from schema.sinks import Applier

_log = logging.getLogger(__name__)

_BATCH_ROWS = 500
_BATCH_BYTES = 16 * 1024 * 1024
_BACKOFF = Backoff()

T = TypeVar("T")
Report = Callable[[Sequence[OutboxRow], Sequence[DeadLetter]], None]
ReportFailure = Callable[[str, float], None]


class DirectRelay:
    """One relay per database: two at once would apply everything twice, which is harmless but wasteful.

    `report` is called with the settled rows and their dead letters after each batch, `progress` before each attempt and
    when idle, and `failing` with the reason and the seconds until the next attempt while a sink or the database fails.
    `refill` is called after each batch and when idle: it refills documents that are absent from a sink, and returns
    their number. The relay owns `executor`, which has a thread per applier. `clock` returns seconds.
    """

    def __init__(
        self,
        outbox: Outbox,
        appliers: Sequence[Applier],
        *,
        executor: Executor,
        backoff: Backoff = _BACKOFF,
        report: Report = lambda _rows, _dead: None,
        failing: ReportFailure = lambda _reason, _seconds: None,
        progress: Callable[[], None] = lambda: None,
        refill: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outbox = outbox
        self._appliers = appliers
        self._executor = executor
        self._backoff = backoff
        self._report = report
        self._failing = failing
        self._progress = progress
        self._refill = refill
        self._clock = clock
        self._held = HeldBack(backoff, clock)
        self._limit = DeadLetterLimit(lambda: outbox.count_dead_letters([applier.name for applier in appliers]))

    def run(self, stop: threading.Event, *, until_idle: bool, patience_seconds: float | None = None) -> None:
        """Relay until `stop` is set or, with `until_idle`, until the outbox is empty and nothing can be refilled.

        A failing sink or database is retried for ever, or for `patience_seconds` per step; then its Retryable is
        raised. So is that of documents held back once nothing else is left to do. Raises TooManyDeadLetters.
        """

        def retry(step: Callable[[], T]) -> T:
            return self._call_with_retry(step, stop, patience_seconds)

        pause = IdlePause()
        try:
            retry(self._outbox.start_history)
            while not stop.is_set():
                self._progress()
                rows, dead = retry(self.claim_and_apply)
                if rows:
                    done, letters = retry(partial(self.keep_to_limit, rows, dead))
                    retry(partial(self.settle, done, letters))
                    self.report(done, letters)
                    if len(done) < len(rows):
                        retry(self._limit.check)
                if retry(self._refill) or rows:
                    pause.reset()
                elif until_idle and self._held.error is None:
                    return
                else:
                    self._check_patience(until_idle, patience_seconds)
                    stop.wait(pause.next_seconds())
        except Retryable:
            if not stop.is_set():
                raise

    def _note_failure(self, error: BaseException, seconds: float) -> None:
        self._progress()
        self._failing(str(error), seconds)

    def _check_patience(self, until_idle: bool, patience_seconds: float | None) -> None:
        """Raises the error of documents held back for too long, if nothing else is left to do."""
        if not until_idle or self._held.error is None or patience_seconds is None:
            return
        if self._held.seconds >= patience_seconds:
            raise self._held.error

    def claim_and_apply(self) -> tuple[list[OutboxRow], Sequence[DeadLetter]]:
        """Returns the rows to settle, and their dead letters. Raises Retryable: rows may have arrived since."""
        rows = self.claim()
        if not rows:
            return [], []
        self._outbox.note_relayed(rows[-1].id)
        began = self._clock()
        try:
            dead: Sequence[DeadLetter] = self.apply(rows)
        except SomeFail as error:
            self._held.note_failure(rows, error, began)
            return [row for row in rows if row.envelope.doc_id not in error.doc_ids], error.dead
        except Retryable as error:
            if isinstance(error, DatabaseAway) or not self._held.holds(rows):
                raise
            self._held.note_failure(rows, error, began)
            return [], []
        self._held.note_success(rows)
        return rows, dead

    def claim(self) -> list[OutboxRow]:
        """Return the oldest rows that are not held back, bounded in rows and bytes."""
        more_rows, more_bytes = min(self._held.rows, _BATCH_ROWS), min(self._held.size_bytes, _BATCH_BYTES)
        return self._held.select(self._outbox.claim_oldest(_BATCH_ROWS + more_rows, _BATCH_BYTES + more_bytes))

    def apply(self, rows: Sequence[OutboxRow]) -> list[DeadLetter]:
        """Apply rows to all sinks concurrently; raises the first failure after all have ended.

        Raises SomeFail with the documents of every sink, if no sink fails on all.
        """
        envelopes = [row.envelope for row in rows]
        attempts = [self._executor.submit(applier.apply, envelopes) for applier in self._appliers]
        wait(attempts)
        dead: list[DeadLetter] = []
        failures: list[SomeFail] = []
        for attempt in attempts:
            try:
                dead += attempt.result()
            except SomeFail as error:
                failures.append(error)
                dead += error.dead
        if not failures:
            return dead
        doc_ids = {doc_id for error in failures for doc_id in error.doc_ids}
        taken = [letter for letter in dead if letter.envelope.doc_id not in doc_ids]
        raise SomeFail("; ".join(map(str, failures)), doc_ids, taken) from failures[0]

    def keep_to_limit(
        self, rows: Sequence[OutboxRow], dead: Sequence[DeadLetter]
    ) -> tuple[Sequence[OutboxRow], Sequence[DeadLetter]]:
        """The rows before the first one whose dead letters would be too many, and the dead letters among them."""
        refused = {letter.envelope.event_id for letter in dead}
        room = self._limit.count_room() if dead else 0
        if len(refused) <= room:
            return rows, dead
        held_up = [place for place, row in enumerate(rows) if row.envelope.event_id in refused][room]
        done = rows[:held_up]
        kept = {row.envelope.event_id for row in done}
        return done, [letter for letter in dead if letter.envelope.event_id in kept]

    def settle(self, rows: Sequence[OutboxRow], dead: Sequence[DeadLetter]) -> None:
        """Remove the rows, and store those that a sink refused as dead letters, in one transaction."""
        self._outbox.settle(rows, dead)
        self._limit.note(len(rows), len({letter.envelope.event_id for letter in dead}))

    def report(self, rows: Sequence[OutboxRow], dead: Sequence[DeadLetter]) -> None:
        """Report settled rows and log dead letters."""
        for letter in dead:
            _log.error("dead_letter stage=%s doc_id=%s reason=%s", letter.stage, letter.envelope.doc_id, letter.reason)
        self._report(rows, dead)

    def close(self) -> None:
        self._executor.shutdown()

    def _call_with_retry(self, step: Callable[[], T], stop: threading.Event, patience_seconds: float | None) -> T:
        """Raises the last Retryable once `stop` is set, or after `patience_seconds`."""

        def attempt() -> T:
            with translate_transient():
                return step()

        return call_with_retry(
            attempt,
            retry_on=lambda error: isinstance(error, Retryable),
            backoff=self._backoff,
            stop=stop,
            seconds=patience_seconds,
            report=self._note_failure,
        )


def direct_relay(
    engine: Engine,
    appliers: Sequence[Applier],
    *,
    backoff: Backoff = _BACKOFF,
    report: Report = lambda _rows, _dead: None,
    failing: ReportFailure = lambda _reason, _seconds: None,
    progress: Callable[[], None] = lambda: None,
    refill: Callable[[], int] = lambda: 0,
) -> DirectRelay:
    """A relay from a database to sinks in this process."""
    executor = ThreadPoolExecutor(len(appliers), thread_name_prefix="direct-relay")
    outbox = SqlOutbox(engine)
    return DirectRelay(
        outbox,
        appliers,
        executor=executor,
        backoff=backoff,
        report=report,
        failing=failing,
        progress=progress,
        refill=refill,
    )
