"""The consumer loop, the same for every sink: poll a batch, apply it, commit its offsets, refill absent documents.

Invariant 8: offsets are committed only after the marks, so a crash repeats at most the batch in flight. While the sink
is slow or down the partitions are paused and the group is served, so that the consumer keeps them.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Protocol

from consumers.dead_letters import DeadLetters
from consumers.subscription import Message, Partition, Subscription
from schema.events.events import Envelope
from schema.failures import DeadLetter, DeadLetterLimit, Retryable
from schema.retry import Backoff
from schema.sinks import Applier

_log = logging.getLogger(__name__)

_BATCH_ROWS = 500
_BATCH_BYTES = 16 * 1024 * 1024
_FETCH_ROWS = 50  # per poll, so that a batch exceeds _BATCH_BYTES by at most 50 events
_IDLE_SECONDS = 0.25
_FILL_SECONDS = 0.005  # how long a batch waits for its next event
_PATIENCE_SECONDS = 3.0  # how long a batch may take before partitions are paused, which drops what was fetched ahead
_SERVE_SECONDS = 0.05
_BACKOFF = Backoff()
_LONELY_ATTEMPTS = 3  # of a failing batch, before the next events join it
_DRAIN_SECONDS = 10.0  # how long a revoked partition waits for its batch


class Refill(Protocol):
    """Brings back documents that are absent from one sink, a bounded round at a time."""

    def is_due(self) -> bool:
        """Whether the next round may start."""

    def run_round(self, lanes: Collection[int] | None = None, /) -> int:
        """Refill documents of `lanes` (None: of all). Returns how many. Raises Retryable: call again later."""


class KafkaConsumer:
    """One of any number of consumers of a sink.

    `report` is called with each batch that is applied and marked, `progress` before each attempt and when idle.
    `refill` brings back documents that are absent from the sink, after each batch and when idle. `executor` applies
    batches, one at a time, and is shut down by `close`. `clock` returns seconds; `backoff` has the random source.
    """

    def __init__(
        self,
        applier: Applier,
        subscription: Subscription,
        dead_letters: DeadLetters,
        *,
        report: Callable[[Sequence[Envelope], Sequence[DeadLetter]], None] = lambda _applied, _dead: None,
        progress: Callable[[], None] = lambda: None,
        refill: Refill | None = None,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        backoff: Backoff = _BACKOFF,
    ) -> None:
        self._applier = applier
        self._subscription = subscription
        self._dead_letters = dead_letters
        self._report = report
        self._progress = progress
        self._refill = refill
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix=f"apply-{applier.name}")
        self._clock = clock
        self._backoff = backoff
        self._limit = DeadLetterLimit(dead_letters.count_stored)
        self._batch: list[Message] = []  # in flight, of partitions that this consumer owns
        self._attempt: Future[list[DeadLetter]] | None = None
        self._round: Future[int] | None = None  # of the refill
        self._refill_failures = 0
        self._refill_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Consume until `stop` is set; then finish and commit the batch in flight, and leave the group."""
        self.join()
        try:
            while not stop.is_set():
                self._progress()
                self.poll_batch()
                self.apply(stop)
                self.commit()
                self.refill()
                self.ensure_member()
        finally:
            self.close()

    def join(self) -> None:
        self._subscription.join(on_revoke=self._release, on_lost=self._drop)

    def poll_batch(self) -> None:
        """Poll the next messages, bounded in rows and bytes; none after a quarter of a second of silence."""
        size_bytes = sum(len(message.value or b"") for message in self._batch)
        rows, timeout = 1, _IDLE_SECONDS
        while len(self._batch) < _BATCH_ROWS and size_bytes < _BATCH_BYTES:
            messages = self._subscription.poll(rows, timeout)
            if not messages:
                if not self._batch:
                    self._subscription.store_positions()
                return
            self._batch += messages
            size_bytes += sum(len(message.value or b"") for message in messages)
            rows, timeout = min(_FETCH_ROWS, _BATCH_ROWS - len(self._batch)), _FILL_SECONDS

    def apply(self, stop: threading.Event) -> None:
        """Apply the batch; retry with backoff while the sink is down.

        An attempt that failed is repeated even if its partitions are lost by then: what it wrote must be marked.
        """
        failures = 0
        while self._batch or failures:
            self._progress()  # per attempt: one that never ends is no progress
            self._attempt = self._executor.submit(self._applier.apply, [message.envelope for message in self._batch])
            wait([self._attempt], _PATIENCE_SECONDS)
            self._serve_until(self._attempt.done)
            try:
                self._finish()
                failures = 0
            except Retryable as error:
                self._attempt = None
                if stop.is_set():
                    break  # not committed: the next owner applies it
                failures += 1
                _log.warning("sink_failing sink=%s attempt=%d reason=%s", self._applier.name, failures, error)
                self._serve_for(self._backoff.seconds(failures), stop)
                if failures >= _LONELY_ATTEMPTS and not stop.is_set():
                    self._subscription.resume()
                    self.poll_batch()  # one event at fault must not hold up those behind it: the applier parts them
        self._subscription.resume()

    def commit(self) -> None:
        """Commit the offsets of every batch that is applied and marked."""
        self._subscription.commit()

    def refill(self) -> None:
        """Refill some documents that are absent from the sink; a partition's number is the lane of its documents."""
        lanes = {number for _, number in self._subscription.owned}
        if self._refill is None or not lanes or self._clock() < self._refill_at or not self._refill.is_due():
            return
        self._round = self._executor.submit(self._refill.run_round, lanes)
        wait([self._round], _PATIENCE_SECONDS)
        self._serve_until(self._round.done)
        ended, self._round = self._round, None
        try:
            ended.result()
            self._refill_failures = 0
        except Retryable as error:
            self._refill_failures += 1
            self._refill_at = self._clock() + self._backoff.seconds(self._refill_failures)
            _log.warning(
                "refill_failing sink=%s attempt=%d reason=%s", self._applier.name, self._refill_failures, error
            )
        self._subscription.resume()

    def ensure_member(self) -> None:
        """Join again when Kafka has long ago removed this consumer from the group."""
        self._subscription.ensure_member()

    def close(self) -> None:
        """Wait for the batch in flight and leave the group, so that the others take the partitions over at once."""
        self._executor.shutdown()
        self._subscription.leave()

    def _finish(self) -> None:
        """Store the dead letters of the ended attempt; then its batch may be committed. Raises Retryable.

        Raises TooManyDeadLetters instead of storing them.
        """
        if self._attempt is None:
            return
        dead = self._attempt.result()
        self._attempt = None
        sent = self._send_dead_letters(dead)
        applied, self._batch = self._batch, []
        self._limit.note(len(applied), sent)
        self._subscription.store_offsets(applied)
        self._report([message.envelope for message in applied], dead)

    def _send_dead_letters(self, dead: Sequence[DeadLetter]) -> int:
        """Leave out letters of partitions that were revoked during the attempt: their next owner sends them.

        Returns how many were sent.
        """
        messages = {id(message.envelope): message for message in self._batch}
        owned = [(messages[id(letter.envelope)], letter) for letter in dead if id(letter.envelope) in messages]
        if owned:
            self._limit.check()
            self._dead_letters.send(owned)
        return len(owned)

    def _serve_for(self, seconds: float, stop: threading.Event) -> None:
        deadline = self._clock() + seconds
        self._serve_until(lambda: stop.is_set() or self._clock() >= deadline)

    def _serve_until(self, done: Callable[[], bool]) -> None:
        """Serve the group, with all partitions paused, until `done`."""
        if done():
            return
        self._subscription.pause()
        while not done():
            self._subscription.serve(_SERVE_SECONDS)

    def _release(self, partitions: Collection[Partition]) -> None:
        """Let the attempt in flight end and commit it, so that the next owner has nothing to repeat."""
        if self._round is not None:
            wait([self._round], _DRAIN_SECONDS)
        if self._attempt is not None:
            wait([self._attempt], _DRAIN_SECONDS)
            if self._attempt.done():
                with suppress(Retryable):
                    self._finish()
        self.commit()
        self._drop(partitions)

    def _drop(self, partitions: Collection[Partition]) -> None:
        """Forget messages that belong to another consumer now; versions fence what is being applied (invariant 6)."""
        self._batch = [message for message in self._batch if message.partition not in partitions]
