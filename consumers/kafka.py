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
from typing import Any

from consumers.background import Background
from consumers.batch import Batch, keep_to_limit
from consumers.dead_letters import DeadLetters
from consumers.isolation import WHOLE_ATTEMPTS
from consumers.outages import Outages
from consumers.refill_rounds import NoRefill, Refill, RefillRounds
from consumers.subscription import Message, Partition, Subscription
from schema.events.events import Envelope
from schema.failures import DatabaseAway, DeadLetter, DeadLetterLimit, Retryable, SomeFail
from schema.outage import DatabaseOutage
from schema.retry import Backoff
from schema.sinks import Applier
from schema.threads import DRAIN_SECONDS, DaemonExecutor

_log = logging.getLogger(__name__)

_FETCH_ROWS = 50  # per poll, so that a batch exceeds its bytes by at most 50 events
_IDLE_SECONDS = 0.25
_FILL_SECONDS = 0.005  # how long a batch waits for its next event
_BACKOFF = Backoff()


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
        self._database = database or DatabaseOutage(clock=clock)
        self._outages = Outages(applier.name, self._database, clock)
        executor = executor or DaemonExecutor(f"apply-{applier.name}")
        self._background = Background(executor, subscription, self._database, clock)
        self._refill = refill or NoRefill()
        self._rounds = RefillRounds(self._refill, self._background, self._outages, backoff, clock)
        self._probe = probe
        self._clock = clock
        self._backoff = backoff
        self._limit = DeadLetterLimit(dead_letters.count_stored)
        self._batch = Batch()
        self._tried: list[Message] = []  # by the attempt
        self._attempt: Future[list[DeadLetter]] | None = None
        self._left_behind: list[Future[Any]] = []  # they ran when this consumer left the group
        self._has_failed = False  # the last attempt: the next one marks what it wrote
        self._is_held_unproven = False  # the documents held back failed alone: try them with the next others
        self._held_failures = 0
        self._held_until = 0.0
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
        self._left_behind = self._running  # the executor ends them before the next call
        self._attempt = self._rounds.running = None
        self._has_joined = self._has_failed = False
        self._subscription.leave()
        self._batch = Batch()

    def rejoin(self) -> None:
        """Join the group again once the database answers, unless the consumer must stop.

        What it had written to the sink is marked before: the process that writes is the one that notices a late write.
        """
        calls = (self._probe, lambda: self._applier.apply([]), self._refill.mark_written)
        if all(self._call_until_done(one) for one in calls):
            _log.warning("group_rejoined sink=%s", self._applier.name)
            self.join()

    def poll_batch(self) -> None:
        """Poll the next messages, bounded in rows and bytes; none after a quarter of a second of silence."""
        rows, timeout = 1, _IDLE_SECONDS
        while not self._batch.is_full:
            messages = self._subscription.poll(rows, timeout)
            if not messages:
                if not self._batch:
                    self._subscription.store_positions()
                return
            self._batch.add(messages)
            rows, timeout = min(_FETCH_ROWS, self._batch.room), _FILL_SECONDS

    def apply(self) -> None:
        """Apply the batch; retry with backoff while the sink is down.

        Documents on which only the sink fails are held back: the loop goes on with the messages behind them, and tries
        them again from time to time. An attempt that failed is repeated even if its partitions are lost by then: what
        it wrote must be marked. Returns before the batch is applied when the consumer must stop, or leave its group.
        """
        failures = 0
        while (selected := self._select()) or (self._has_failed and not self._batch):
            self._progress()  # per attempt: one that never ends is no progress
            began, self._tried = self._clock(), selected
            self._attempt = self._background.start(self._applier.apply, [message.envelope for message in selected])
            if not self._background.wait(self._attempt):
                return
            try:
                self._finish()
                failures, self._has_failed, self._is_held_unproven = 0, False, False
                if self._batch.has_held:
                    self._outages.database.note_success()
                else:
                    self._held_failures = 0
                    self._outages.note_success(self._outages.sink)
            except Retryable as error:
                self._attempt, self._has_failed = None, True
                self._outages.note_failure(self._outages.sink, error, began)
                if self._background.stop.is_set():
                    break  # not committed: the next owner applies it
                self._is_held_unproven = bool(selected) and self._batch.is_held(selected)
                if self._is_held_unproven or isinstance(error, SomeFail):
                    self._postpone_held(began)
                    continue
                failures += 1
                self._background.pause(self._backoff.seconds(failures))
                if self._database.must_leave:
                    return
                if failures >= WHOLE_ATTEMPTS and not isinstance(error, DatabaseAway):
                    self._subscription.resume()
                    self.poll_batch()  # the applier tells an event at fault by others that the sink takes
        if self._batch.is_full:  # of messages held back: no others can be polled
            self._background.pause(self._held_until - self._clock())
        self._subscription.resume()

    def _select(self) -> list[Message]:
        """The messages to apply now."""
        selected = self._batch.select(also_held=self._clock() >= self._held_until)
        return self._batch.select(also_held=True) if selected and self._is_held_unproven else selected

    def _postpone_held(self, began: float) -> None:
        """At most half of the time is spent on documents that are held back."""
        self._held_failures += 1
        now = self._clock()
        self._held_until = now + max(self._backoff.seconds(self._held_failures), now - began)

    def commit(self) -> None:
        """Commit the offsets of every batch that is applied and marked."""
        self._subscription.commit()

    def refill(self) -> None:
        """Refill some documents that are absent from the sink; a partition's number is the lane of its documents."""
        if self._database.must_leave or self._background.stop.is_set():
            return
        if self._rounds.run({number for _, number in self._subscription.owned}):
            self._subscription.resume()

    def ensure_member(self) -> None:
        """Join again when Kafka has long ago removed this consumer from the group."""
        self._subscription.ensure_member()
        self._drop(self._batch.partitions - self._subscription.owned)

    def close(self) -> None:
        """Wait for the batch in flight and leave the group, so that the others take the partitions over at once.

        A batch that hangs for longer than DRAIN_SECONDS is abandoned. Then the group is not left: the others must not
        begin before this process has ended, since it may still write to the sink.
        """
        if not self._background.close([*self._left_behind, *self._running]):
            _log.warning("batch_abandoned sink=%s", self._applier.name)
        elif self._has_joined:
            self._subscription.leave()

    @property
    def _running(self) -> list[Future[Any]]:
        return [one for one in (self._attempt, self._rounds.running) if one is not None]

    def _call_until_done(self, call: Callable[[], object]) -> bool:
        """Call outside of the group, and repeat it while it fails. Returns False once the consumer must stop."""
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
        """Store the dead letters of the ended attempt; then its messages may be committed. Raises Retryable.

        Raises SomeFail once that is done for the documents on which the sink did not fail, and TooManyDeadLetters once
        the events before the first letter too many are committed.
        """
        if self._attempt is None:
            return
        failure: SomeFail | None = None
        dead: Sequence[DeadLetter]
        try:
            dead = self._attempt.result()
        except SomeFail as error:
            failure, dead = error, error.dead
        failing = frozenset[str]() if failure is None else failure.doc_ids
        taken = [one for one in self._batch.find(self._tried) if one.envelope.doc_id not in failing]
        done, letters = keep_to_limit(taken, dead, self._limit.count_room() if dead else 0)
        self._dead_letters.send(letters)
        self._batch.hold(self._tried, failing)
        self._limit.note(len(done), len(letters))
        self._subscription.store_offsets(self._batch.finish(done))
        if done:
            self._report([message.envelope for message in done], [letter for _, letter in letters])
        if len(done) < len(taken):
            self._attempt = None
            self.commit()
            self._limit.check()
        if failure is not None:
            raise failure
        self._attempt = None

    def _release(self, partitions: Collection[Partition]) -> None:
        """Let the attempt in flight end and commit it, so that the next owner has nothing to repeat."""
        if self._rounds.running is not None:
            wait([self._rounds.running], DRAIN_SECONDS)
        if self._attempt is not None:
            wait([self._attempt], DRAIN_SECONDS)
            if self._attempt.done():
                with suppress(Retryable):
                    self._finish()
        self.commit()
        self._drop(partitions)

    def _drop(self, partitions: Collection[Partition]) -> None:
        """Forget messages that belong to another consumer now; versions fence what is being applied (invariant 6)."""
        self._batch.drop(partitions)
