"""The embedded relay: it hands outbox rows straight to the sinks, in one process, without a broker.

Invariants 3 and 4: it reads from the oldest row on, in id order, each time; a row leaves the outbox only when every
sink holds it or it became a dead letter. The outbox is the queue, so a crash at any step repeats work and loses none.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Engine, delete, insert, null, select
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from schema.batches import bounded
from schema.database import reading
from schema.events import Envelope
from schema.failures import DeadLetter, Retryable
from schema.tables import outbox, outbox_dead_letters

_log = logging.getLogger(__name__)

_BATCH_ROWS = 500
_BATCH_BYTES = 16 * 1024 * 1024
_IDLE_SECONDS = (0.005, 0.25)  # the pause doubles from the first to the second while there is nothing to do
_BACKOFF_SECONDS = (0.1, 10.0)  # full jitter up to a limit that doubles from the first to the second
_DEAD_LETTERS_AT_MOST = 100  # in the last _DEAD_LETTER_WINDOW events
_DEAD_LETTER_WINDOW = 1_000


class TooManyDeadLetters(Exception):
    """Raised when so many events are refused that the fault lies elsewhere; the outbox keeps the rest."""


class Applier(Protocol):
    """What brings one sink up to date; see consumers/applier.py."""

    @property
    def name(self) -> str: ...

    def apply(self, envelopes: Sequence[Envelope], /) -> list[DeadLetter]: ...


@dataclass(frozen=True)
class Claimed:
    """Outbox rows in id order."""

    ids: tuple[int, ...]
    envelopes: tuple[Envelope, ...]


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
        self._recent: deque[int] = deque([0] * _DEAD_LETTER_WINDOW, _DEAD_LETTER_WINDOW)  # 1 a dead letter

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
        claimed = self.claim()
        if claimed.ids:
            dead = self.apply(claimed)
            self.settle(claimed, dead)
            self._report(len(claimed.ids))
        return len(claimed.ids)

    def claim(self) -> Claimed:
        """The oldest rows, bounded in rows and bytes."""
        with reading(self._engine) as connection:
            sizes = connection.execute(
                select(outbox.c.id, outbox.c.payload_bytes).order_by(outbox.c.id).limit(_BATCH_ROWS)
            ).all()
            batch = next(bounded(sizes, _BATCH_ROWS, _BATCH_BYTES, lambda row: int(row.payload_bytes)), [])
            ids = [row.id for row in batch]
            rows = connection.execute(select(outbox).where(outbox.c.id.in_(ids)).order_by(outbox.c.id)).all()
        return Claimed(
            tuple(row.id for row in rows),
            tuple(
                Envelope(
                    row.event_id,
                    row.event_type,
                    row.aggregate_id,
                    row.aggregate_version,
                    row.content_type,
                    row.payload,
                    row.headers or {},
                )
                for row in rows
            ),
        )

    def apply(self, claimed: Claimed) -> list[DeadLetter]:
        """Every sink at once; raises the first failure after all have ended."""
        outcomes = [self._pool.submit(applier.apply, claimed.envelopes) for applier in self._appliers]
        wait(outcomes)
        return [letter for outcome in outcomes for letter in outcome.result()]

    def settle(self, claimed: Claimed, dead: Sequence[DeadLetter]) -> None:
        """Remove the rows, and keep those that a sink refused among the dead letters, in one transaction."""
        outbox_ids = dict(zip((envelope.event_id for envelope in claimed.envelopes), claimed.ids, strict=True))
        with self._engine.begin() as connection:
            if dead:
                connection.execute(
                    insert(outbox_dead_letters),
                    [
                        {
                            "stage": letter.stage,
                            "outbox_id": outbox_ids[letter.envelope.event_id],
                            "event_id": letter.envelope.event_id,
                            "aggregate_type": "document",
                            "aggregate_id": letter.envelope.doc_id,
                            "aggregate_version": letter.envelope.version,
                            "event_type": letter.envelope.event_type,
                            "content_type": letter.envelope.content_type,
                            "headers": dict(letter.envelope.headers) or null(),
                            "payload": letter.envelope.payload,
                            "error": letter.reason,
                            "attempts": 1,
                        }
                        for letter in dead
                    ],
                )
            connection.execute(delete(outbox).where(outbox.c.id.in_(claimed.ids)))
        for letter in dead:
            _log.error("dead_letter stage=%s doc_id=%s reason=%s", letter.stage, letter.envelope.doc_id, letter.reason)
        self._stop_a_flood(len(claimed.ids), len({letter.envelope.event_id for letter in dead}))

    def close(self) -> None:
        self._pool.shutdown()

    def _patiently(self, stop: threading.Event, patience_seconds: float | None) -> int:
        """One batch, tried again with backoff while a sink fails; ends early, with 0, when `stop` is set."""

        def pause(seconds: float) -> None:
            stop.wait(seconds)

        def given_up(state: RetryCallState) -> bool:
            return stop.is_set() or (patience_seconds is not None and stop_after_delay(patience_seconds)(state))

        def tell(state: RetryCallState) -> None:
            if state.outcome is not None and state.next_action is not None:
                self._failing(str(state.outcome.exception()), state.next_action.sleep)

        retrying = Retrying(
            retry=retry_if_exception_type(Retryable),
            wait=wait_random_exponential(multiplier=_BACKOFF_SECONDS[0], max=_BACKOFF_SECONDS[1]),
            stop=given_up,
            sleep=pause,
            before_sleep=tell,
            reraise=True,
        )
        try:
            return retrying(self.relay_batch)
        except Retryable:
            if stop.is_set():
                return 0
            raise

    def _stop_a_flood(self, events: int, dead: int) -> None:
        self._recent.extend([0] * (events - dead) + [1] * dead)
        if (count := sum(self._recent)) > _DEAD_LETTERS_AT_MOST:
            raise TooManyDeadLetters(f"{count} of the last {_DEAD_LETTER_WINDOW} events became dead letters; stopped")
