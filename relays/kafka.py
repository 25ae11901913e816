"""The relay to Kafka: claim, publish, settle, report.

The next claim and the previous settle run concurrently with publishing. Invariant 3: a document's events are in one
lane, a lane has one owner, and its rows are published in id order. A crash at any step loses and repeats nothing: the
next owner of a lane settles the rows that the last committed transaction names. So a relay may leave at any step, too:
without its database it leaves the group, and others take its lanes over.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from relays import offset_metadata
from relays.claim import Claimer
from relays.database_calls import Abandoned, DatabaseCalls
from relays.history_check import Check, HistoryCheck
from relays.idle import IdlePause
from relays.lanes import KafkaLanes
from relays.metrics import RelayMetrics
from relays.outbox import SqlOutbox
from relays.ports import Fenced, LaneOffset, Lanes, Outbox, OutboxRow, Outcome, Published, Publisher, Refused, Undone
from relays.publisher import KafkaPublisher
from relays.settle import Settler
from schema.database.connection import is_transient
from schema.failures import DeadLetter, DeadLetterLimit
from schema.kafka.names import Names
from schema.outage import LEAVE_AFTER_SECONDS, DatabaseOutage
from schema.retry import Backoff
from schema.threads import DRAIN_SECONDS, DaemonExecutor

_log = logging.getLogger(__name__)

_BACKOFF = Backoff(0.1, 5.0)
STAGE = "relay"


class KafkaRelay:
    """One of any number of relays. `new_executor` makes an executor with one thread; its argument names the thread.

    `report` is called with the rows of each committed transaction, in order; `progress` in every round of the loop.
    `outage` decides when to leave the group, because the database is away; `clock` is its clock.
    """

    def __init__(
        self,
        outbox: Outbox,
        lanes: Lanes,
        publisher: Publisher,
        *,
        new_executor: Callable[[str], Executor] = DaemonExecutor,
        outage: DatabaseOutage | None = None,
        clock: Callable[[], float] = time.monotonic,
        history_check: HistoryCheck | None = None,
        backoff: Backoff = _BACKOFF,
        report: Callable[[Sequence[OutboxRow]], None] = lambda _: None,
        metrics: RelayMetrics | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._outbox = outbox
        self._lanes = lanes
        self._publisher = publisher
        self._report = report
        self._history_check = history_check
        self._metrics = metrics
        if metrics is not None:
            metrics.watch(lanes)
        self._progress = progress
        self._outage = outage or DatabaseOutage(clock=clock)
        self._clock = clock

        def make_calls(name: str) -> DatabaseCalls:
            return DatabaseCalls(
                lambda: new_executor(name), self._serve, backoff, self._outage, progress=progress, clock=clock
            )

        self._claiming, self._settling = make_calls("claim"), make_calls("settle")
        self._claimer = Claimer(outbox, lanes, self._claiming, lambda: publisher.batch_bytes)
        self._settler = Settler(outbox, self._settling)
        self._limit = DeadLetterLimit(lambda: self._settler.count_dead_letters(STAGE))
        self._waiting: AbstractSet[int] = frozenset()  # arriving lanes whose offsets cannot be read yet
        self._stop = threading.Event()
        self._has_joined = False
        self._give_up_at: float | None = None  # once the relay must stop

    def run(self, stop: threading.Event) -> None:
        """Relay until `stop` is set; then settle the batch in flight and leave the group."""
        self.join(stop)
        pause = IdlePause()
        try:
            while not stop.is_set():
                try:
                    if not self._has_joined:
                        self.rejoin()
                    self._relay_batch(pause)
                except Abandoned:
                    if not stop.is_set():
                        self.leave()
        except DBAPIError as error:
            if not (stop.is_set() and is_transient(error)):  # stopped while the database is away: nothing is lost
                raise
        finally:
            self.close()

    def _relay_batch(self, pause: IdlePause) -> None:
        self._progress()
        self.take_over()
        self.tend_history_check()
        rows = self.claim()
        if not rows:
            self._lanes.poll(pause.next_seconds())
            return
        pause.reset()
        began = time.monotonic()
        outcome = self.publish(rows)
        self.settle(rows, outcome)
        self.report(rows, outcome)
        if self._metrics is not None:
            self._metrics.note_batch(rows, outcome, time.monotonic() - began)

    @property
    def is_member(self) -> bool:
        """Whether the group knew this relay when it last asked."""
        return self._lanes.is_member

    def join(self, stop: threading.Event) -> None:
        """Prepare the database connections and join the group."""
        self._stop = stop
        self._claiming.open(stop)
        self._settling.open(stop)
        self._outbox.open()
        self._lanes.join()
        self._has_joined = True

    def leave(self) -> None:
        """Abandon what is under way and leave the group: the next owners of the lanes do it again, or settle it."""
        _log.warning("group_left group=relays seconds=%.0f", self._outage.seconds)
        self._outage.note_leave()
        self._claiming.abandon()
        self._settling.abandon()
        self._claimer.forget()
        self._settler.forget()
        self._leave_group()

    def rejoin(self) -> None:
        """Join the group again once the database answers. Raises Abandoned when the relay must stop."""
        self._claiming.open(self._stop)
        self._settling.open(self._stop)
        self._claiming.wait(self._claiming.start(self._outbox.probe))
        _log.warning("group_rejoined group=relays")
        self._lanes.join()
        self._has_joined = True

    def take_over(self) -> None:
        """Settle what earlier owners of the arriving lanes published; then own these lanes."""
        self._lanes.poll(0)
        if not self._lanes.arriving:
            return
        committed = self._lanes.read_committed()
        waiting = self._lanes.arriving - committed.keys()
        if waiting - self._waiting:
            _log.info("takeover_waits lanes=%s", sorted(waiting))
        self._waiting = waiting
        named = [row for metadata in committed.values() for row in offset_metadata.decode(metadata)]
        if named:
            settled = self._settler.settle_named(named)
            _log.info("lanes_recovered lanes=%s settled=%d", sorted(committed), settled)
            if self._metrics is not None:
                self._metrics.note_recovered(settled)
        self._lanes.take_over(committed)

    def tend_history_check(self) -> None:
        """Start the check of a new history in the background, as the owner of lane 0."""
        if self._history_check is not None:
            self._history_check.tend()

    def claim(self) -> list[OutboxRow]:
        """Return the next rows of the owned lanes."""
        return self._claimer.claim(self._settler.in_flight)

    def publish(self, rows: Sequence[OutboxRow]) -> Outcome:
        """Publish rows of owned lanes in one transaction, and update the lanes."""
        membership = self._lanes.membership()  # before anything is sent: a later one may own other lanes
        if membership is None:
            return Undone("this relay is not a member of the group", in_doubt=False)
        offsets: list[LaneOffset] = []
        outcome: Outcome | None = self._publisher.send(rows)
        if outcome is None:
            offsets = self._lanes.next_offsets(offset_metadata.encode_by_lane(rows))
            if self._settler.finish(self._publisher.wait_seconds):  # an offset names the rows of one transaction only
                outcome = self._publisher.commit(offsets, membership)
            else:
                outcome = self._publisher.abort("the rows of the previous batch are still in the outbox")
        if isinstance(outcome, Published):
            self._lanes.advance(offsets)
        elif outcome.in_doubt:
            self._lanes.doubt()
            # A relay that stood still may get its own time-outs first, and hear from the group afterwards.
            if isinstance(outcome, Undone) and self._lanes.has_lost({row.lane for row in rows}):
                return Fenced(outcome.reason, in_doubt=True)
        return outcome

    def settle(self, rows: Sequence[OutboxRow], outcome: Outcome) -> None:
        """Start to remove published rows. Split a refused batch, down to the dead letter; claim any other again.

        Raises TooManyDeadLetters instead of storing one.
        """
        match outcome:
            case Published():
                self._settler.start(rows)
                self._limit.note(len(rows), 0)
            case Refused(reason) if len(rows) == 1:
                self._limit.check()
                self._settler.store_dead_letter(rows[0], DeadLetter(STAGE, rows[0].envelope, reason))
                self._limit.note(1, 1)
            case Refused():
                self._claimer.split(rows)
            case Undone() | Fenced():
                self._claimer.drop()

    def report(self, rows: Sequence[OutboxRow], outcome: Outcome) -> None:
        """Report published rows; log any other outcome."""
        match outcome:
            case Published():
                self._report(rows)
            case Refused(reason) if len(rows) == 1:
                _log.error("dead_letter stage=%s doc_id=%s reason=%s", STAGE, rows[0].envelope.doc_id, reason)
            case Undone(reason):
                _log.warning("batch_undone rows=%d reason=%s", len(rows), reason)
            case Fenced(reason):
                _log.warning("batch_fenced rows=%d reason=%s", len(rows), reason)

    def close(self) -> None:
        """Wait for the settle under way, leave the group, and then wait for the check of a history to stop.

        What hangs for longer than DRAIN_SECONDS is abandoned.
        """
        self._stop.set()
        have_ended = [self._claiming.close(), self._settling.close()]
        if not all(have_ended):
            _log.warning("batch_abandoned group=relays")
        self._leave_group()
        if self._history_check is not None:
            self._history_check.close()

    def _leave_group(self) -> None:
        if self._has_joined:
            self._has_joined = False
            self._publisher.close()
            self._lanes.close()

    def _serve(self) -> None:
        """Serve the group while a call of the database is waited for. Raises Abandoned to end that wait."""
        if self._has_joined:
            self._lanes.poll(0)
        if not self._stop.is_set():
            if self._has_joined and self._outage.must_leave:
                raise Abandoned
        elif self._give_up_at is None:
            self._give_up_at = self._clock() + DRAIN_SECONDS
        elif self._clock() >= self._give_up_at:
            raise Abandoned


def kafka_relay(
    engine: Engine,
    names: Names,
    kafka: Mapping[str, Any],
    *,
    lanes: int,
    leave_after_seconds: float = LEAVE_AFTER_SECONDS,
    check_history: Check | None = None,
    report: Callable[[Sequence[OutboxRow]], None] = lambda _: None,
    metrics: RelayMetrics | None = None,
    progress: Callable[[], None] = lambda: None,
) -> KafkaRelay:
    """A relay from a MySQL database with this number of lanes to Kafka; `kafka` are librdkafka properties."""
    group = KafkaLanes(names, kafka)
    checking = None
    if check_history is not None:
        checking = HistoryCheck(check_history, group, DaemonExecutor("history-check"))
    return KafkaRelay(
        SqlOutbox(engine),
        group,
        KafkaPublisher(names, kafka, lanes),
        outage=DatabaseOutage(leave_after_seconds),
        history_check=checking,
        report=report,
        metrics=metrics,
        progress=progress,
    )
