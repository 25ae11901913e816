"""The relay to Kafka: claim, publish, settle, with the next claim and the last settling beside the publishing.

Invariant 3: a document's events are in one lane, a lane has one owner, and its rows go out in id order. A crash at any
step loses nothing and repeats nothing: what a committed transaction names, the lanes' next owner settles.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from sqlalchemy import Engine

from relays import offset_metadata, outbox
from relays.lanes import Lanes
from relays.outbox_row import OutboxRow
from relays.publisher import Fenced, Outcome, Published, Publisher, Refused, Undone
from schema.failures import DeadLetter, Retryable
from schema.kafka.names import Names
from schema.retry import Backoff, call_with_retry

_log = logging.getLogger(__name__)
T = TypeVar("T")

_ROWS_A_LANE = 500
_BATCH_BYTES = 32 * 1024 * 1024
_BACKLOG_ROWS = 500  # from such a batch on, the next one is claimed beside the publishing; before, it would come late
_IDLE_SECONDS = (0.005, 0.25)  # the pause doubles from the first to the second while there is nothing to do
_BACKOFF = Backoff(0.1, 5.0)
_SERVE_SECONDS = 0.05  # how often the group is served while a database call is under way
STAGE = "relay"


class KafkaRelay:
    """One of any number. `report` is called with the rows of each committed transaction, in order."""

    def __init__(
        self,
        engine: Engine,
        names: Names,
        kafka: Mapping[str, Any],
        *,
        report: Callable[[Sequence[OutboxRow]], None] = lambda _: None,
    ) -> None:
        outbox.log_small_deletes(engine)
        self._engine = engine
        self._report = report
        self._lanes = Lanes(names, kafka)
        self._publisher = Publisher(names, kafka)
        self._claiming = ThreadPoolExecutor(1, thread_name_prefix="claim")
        self._settling = ThreadPoolExecutor(1, thread_name_prefix="settle")
        self._settled: Future[None] | None = None
        self._published: Sequence[OutboxRow] = ()  # being settled
        self._stop = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Relay until `stop` is set; then the batch in flight is settled and the group left."""
        self._stop = stop
        pause = _IDLE_SECONDS[0]
        ahead: Future[list[OutboxRow]] | None = None
        try:
            while not stop.is_set():
                self._lanes.poll(0)
                self.take_over()
                claimed = self._serving(ahead or self.claim(self._published))
                ahead = None
                rows = [row for row in claimed if row.lane in self._lanes.owned]
                if not rows:
                    self._lanes.poll(pause)
                    pause = min(2 * pause, _IDLE_SECONDS[1])
                    continue
                pause = _IDLE_SECONDS[0]
                if len(rows) >= _BACKLOG_ROWS:
                    ahead = self.claim([*self._published, *rows])
                if not self.publish(rows) and ahead is not None:
                    self._serving(ahead)  # read before these rows were out: a later version may not overtake them
                    ahead = None
        finally:
            self.close()

    def claim(self, in_flight: Sequence[OutboxRow]) -> Future[list[OutboxRow]]:
        """Start reading the oldest rows of the owned lanes that are not in flight."""
        lanes = frozenset(self._lanes.owned)

        def read() -> list[OutboxRow]:
            return _fitting(outbox.claim_lanes(self._engine, lanes, in_flight, _ROWS_A_LANE, _BATCH_BYTES))

        return self._claiming.submit(self._again, read)

    def publish(self, rows: Sequence[OutboxRow]) -> bool:
        """Publish rows in order and start to settle them; False when not all of them went out as one batch."""
        rows = [row for row in rows if row.lane in self._lanes.owned]
        membership = self._lanes.membership()
        if membership is None or not rows:
            return False
        outcome: Outcome = self._publisher.publish(rows, self._lanes, membership, self.finish_settling)
        match outcome:
            case Published():
                self._report(rows)
                self.settle(rows)
                return True
            case Undone(reason):
                _log.warning("batch_undone rows=%d reason=%s", len(rows), reason)
            case Fenced(reason):
                _log.warning("batch_fenced rows=%d reason=%s", len(rows), reason)
            case Refused(reason) if len(rows) == 1:
                letter = DeadLetter(STAGE, rows[0].envelope, reason)
                _log.error("dead_letter stage=%s doc_id=%s reason=%s", STAGE, letter.envelope.doc_id, reason)
                self._again(lambda: outbox.settle(self._engine, [rows[0].id], [(rows[0].id, letter)]))
            case Refused():
                middle = len(rows) // 2
                self.publish(rows[:middle])
                self.publish(rows[middle:])
        return False

    def settle(self, rows: Sequence[OutboxRow]) -> None:
        """Start to remove published rows."""
        ids = [row.id for row in rows]
        self._published = rows
        self._settled = self._settling.submit(self._again, lambda: outbox.settle(self._engine, ids))

    def finish_settling(self) -> None:
        """Wait until the rows of the last transaction are gone: an offset names one transaction's rows only.

        While they go, the next ones are sent already.
        """
        if self._settled is not None:
            self._serving(self._settled)
        self._settled, self._published = None, ()

    def take_over(self) -> None:
        """Settle what earlier owners of the arriving lanes published; those lanes can be claimed then."""
        if not self._lanes.arriving:
            return
        try:
            said = self._lanes.committed()
        except Retryable as error:
            _log.info("takeover_waits reason=%s", error)
            return
        named = [row for text in said.values() for row in offset_metadata.decode(text)]
        if named:
            settled = self._serving(self._settling.submit(self._again, lambda: self._settle_named(named)))
            _log.info("lanes_recovered lanes=%s settled=%d", sorted(said), settled)
        self._lanes.take_over(said)

    def close(self) -> None:
        """Settle what is published and leave the group."""
        self._stop.set()
        self._claiming.shutdown(cancel_futures=True)
        self._settling.shutdown()
        self._publisher.close()
        self._lanes.close()

    def _settle_named(self, named: Sequence[offset_metadata.Named]) -> int:
        ids = offset_metadata.matching(named, outbox.event_ids(self._engine, [outbox_id for outbox_id, _ in named]))
        outbox.settle(self._engine, ids)
        return len(ids)

    def _serving(self, future: "Future[T]") -> T:
        """The future's result, with the group served meanwhile."""
        while not wait([future], _SERVE_SECONDS).done:
            self._lanes.poll(0)
        return future.result()

    def _again(self, work: Callable[[], T]) -> T:
        """What `work` returns, tried again while the database is away; its error once the relay stops."""
        return call_with_retry(work, backoff=_BACKOFF, stop=self._stop)


def _fitting(rows: Sequence[OutboxRow]) -> list[OutboxRow]:
    """As many rows of each lane as its offset can name."""
    lanes: dict[int, list[offset_metadata.Named]] = {}
    for row in rows:
        lanes.setdefault(row.lane, []).append((row.id, offset_metadata.checksum(row.envelope.event_id)))
    last = {lane: named[offset_metadata.room(named) - 1][0] for lane, named in lanes.items()}
    return [row for row in rows if row.id <= last[row.lane]]
