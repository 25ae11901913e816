"""The consumer loop, the same for every sink: poll a batch, apply it, commit its offsets, refill absent documents.

Invariant 8: offsets are committed only after the marks, so a crash repeats at most the batch in flight. While the sink
is slow or down the partitions are paused and the group is served, so that the consumer keeps them: every other consumer
has the same store. Without its database the consumer leaves the group: others may reach it.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import suppress
from typing import Protocol

from consumers.background import Background
from consumers.dead_letters import DeadLetters
from consumers.outages import Outages
from consumers.subscription import Message, Partition, Subscription
from schema.events.events import Envelope
from schema.failures import DatabaseAway, DeadLetter, DeadLetterLimit, Retryable
from schema.outage import DatabaseOutage
from schema.retry import Backoff
from schema.sinks import Applier
from schema.threads import DaemonExecutor

_log = logging.getLogger(__name__)

_BATCH_ROWS = 500
_BATCH_BYTES = 16 * 1024 * 1024
_FETCH_ROWS = 50  # per poll, so that a batch exceeds _BATCH_BYTES by at most 50 events
_IDLE_SECONDS = 0.25
_FILL_SECONDS = 0.005  # how long a batch waits for its next event
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
    `database` decides when to leave the group because the metadata database is away; `probe` raises Retryable until
    that answers.
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
        database: DatabaseOutage | None = None,
        probe: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        backoff: Backoff = _BACKOFF,
    ) -> None:
        self._applier = applier
        self._subscription = subscription
        self._dead_letters = dead_letters
        self._report = report
        self._progress = progress
        self._refill = refill
        self._database = database or DatabaseOutage(clock=clock)
        self._outages = Outages(applier.name, self._database, clock)
        executor = executor or DaemonExecutor(f"apply-{applier.name}")
        self._background = Background(executor, subscription, self._database, clock)
        self._probe = probe
        self._clock = clock
        self._backoff = backoff
        self._limit = DeadLetterLimit(dead_letters.count_stored)
        self._batch: list[Message] = []  # in flight, of partitions that this consumer owns
        self._attempt: Future[list[DeadLetter]] | None = None
        self._round: Future[int] | None = None  # of the refill
        self._refill_failures = 0
        self._refill_at = 0.0
        self._has_joined = False

    def run(self, stop: threading.Event) -> None:
        """Consume until `stop` is set; then finish and commit the batch in flight, and leave the group."""
        self._background.stop = stop
        self.join()
        try:
            while not stop.is_set():
                self._progress()
                self.poll_batch()
                self.apply()
                self.commit()
                self.refill()
                self.ensure_member()
                if self._database.must_leave:
                    self.leave()
                    self.rejoin()
        finally:
            self.close()

    def join(self) -> None:
        self._subscription.join(on_revoke=self._release, on_lost=self._drop)
        self._has_joined = True

    def leave(self) -> None:
        """Leave the group without the batch in flight: the next owners of the partitions apply it."""
        _log.warning("group_left sink=%s seconds=%.0f", self._applier.name, self._database.seconds)
        self._database.note_leave()
        self._attempt = self._round = None  # the executor ends them before the next call
        self._has_joined = False
        self._subscription.leave()
        self._batch = []

    def rejoin(self) -> None:
        """Join the group again once the database answers, unless the consumer must stop.

        What it had written to the sink is marked before: the process that writes is the one that notices a late write.
        """
        if self._call_until_done(self._probe) and self._call_until_done(lambda: self._applier.apply([])):
            _log.warning("group_rejoined sink=%s", self._applier.name)
            self.join()

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

    def apply(self) -> None:
        """Apply the batch; retry with backoff while the sink is down.

        An attempt that failed is repeated even if its partitions are lost by then: what it wrote must be marked.
        Returns before the batch is applied when the consumer must stop, or leave its group.
        """
        failures = 0
        while self._batch or failures:
            self._progress()  # per attempt: one that never ends is no progress
            began = self._clock()
            self._attempt = self._background.start(self._applier.apply, [message.envelope for message in self._batch])
            if not self._background.wait(self._attempt):
                return
            try:
                self._finish()
                failures = 0
                self._outages.note_success(self._outages.sink)
            except Retryable as error:
                self._attempt = None
                failures += 1
                self._outages.note_failure(self._outages.sink, error, began)
                if self._background.stop.is_set():
                    break  # not committed: the next owner applies it
                self._background.pause(self._backoff.seconds(failures))
                if self._database.must_leave:
                    return
                if failures >= _LONELY_ATTEMPTS and not isinstance(error, DatabaseAway):
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
        if self._database.must_leave or self._background.stop.is_set():
            return
        began = self._clock()
        self._round = self._background.start(self._refill.run_round, lanes)
        if not self._background.wait(self._round):
            return
        ended, self._round = self._round, None
        try:
            ended.result()
            self._refill_failures = 0
            self._outages.note_success(self._outages.refill)
        except Retryable as error:
            self._refill_failures += 1
            self._refill_at = self._clock() + self._backoff.seconds(self._refill_failures)
            self._outages.note_failure(self._outages.refill, error, began)
        self._subscription.resume()

    def ensure_member(self) -> None:
        """Join again when Kafka has long ago removed this consumer from the group."""
        self._subscription.ensure_member()

    def close(self) -> None:
        """Wait for the batch in flight and leave the group, so that the others take the partitions over at once.

        A batch that hangs for longer than DRAIN_SECONDS is abandoned. Then the group is not left: the others must not
        begin before this process has ended, since it may still write to the sink.
        """
        if not self._background.close([one for one in (self._attempt, self._round) if one is not None]):
            _log.warning("batch_abandoned sink=%s", self._applier.name)
        elif self._has_joined:
            self._subscription.leave()

    def _call_until_done(self, call: Callable[[], object]) -> bool:
        """Call outside of the group, again while it fails. Returns False once the consumer must stop."""
        failures = 0
        stop = self._background.stop
        while not stop.is_set():
            self._progress()
            began = self._clock()
            attempt = self._background.start(call)
            while not attempt.done():
                if stop.is_set():
                    return False
                wait([attempt], _IDLE_SECONDS)
            try:
                attempt.result()
                self._database.note_success()
            except Retryable as error:
                failures += 1
                self._outages.note_failure(self._outages.sink, error, began)
                stop.wait(self._backoff.seconds(failures))
            else:
                return True
        return False

    def _finish(self) -> None:
        """Store the dead letters of the ended attempt; then its batch may be committed. Raises Retryable.

        Raises TooManyDeadLetters once the events before the first letter too many are committed.
        """
        if self._attempt is None:
            return
        dead = self._attempt.result()
        self._attempt = None
        applied, letters = self._keep_to_limit(dead)
        self._dead_letters.send(letters)
        done = {id(message) for message in applied}
        self._batch = [message for message in self._batch if id(message) not in done]
        self._limit.note(len(applied), len(letters))
        self._subscription.store_offsets(applied)
        self._report([message.envelope for message in applied], [letter for _, letter in letters])
        if self._batch:
            self.commit()
            self._limit.check()

    def _keep_to_limit(self, dead: Sequence[DeadLetter]) -> tuple[list[Message], list[tuple[Message, DeadLetter]]]:
        """The messages of the batch that may be committed, and the dead letters among them.

        A letter too many holds up its partition from there on. Leaves out letters of partitions that were revoked
        during the attempt: their next owner sends them.
        """
        by_envelope = {id(letter.envelope): letter for letter in dead}
        room = self._limit.count_room() if dead else 0
        held_up: set[Partition] = set()
        applied: list[Message] = []
        letters: list[tuple[Message, DeadLetter]] = []
        for message in self._batch:
            letter = by_envelope.get(id(message.envelope))
            if letter is not None and len(letters) >= room:
                held_up.add(message.partition)
            if message.partition in held_up:
                continue
            applied.append(message)
            if letter is not None:
                letters.append((message, letter))
        return applied, letters

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
