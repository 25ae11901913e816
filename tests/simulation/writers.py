"""Writers, and what an operator does after a failover, after the loss of a store, and for what no store has."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from sqlalchemy import Connection, select, update
from sqlalchemy.exc import DBAPIError

from consumers import marks
from consumers.lost_history import LostEvent
from consumers.refill import mark_all_absent
from operations import history
from operations.topic import ReadEvent
from producer import Writer
from producer.errors import FileRequired, UnknownDocument, VectorRequired
from producer.files import DocumentFile
from schema.database.history import lock_identity
from schema.database.tables import outbox, sink_states
from schema.events.events import decode
from schema.retry import call_with_retry
from schema.sinks import MILVUS, SINKS
from tests.simulation.kafka import Broker, Topic
from tests.simulation.plan import Operation
from tests.simulation.processes import World
from tests.simulation.scheduler import Process, TaskEvent
from tests.support.pipeline import MODEL, document

_RESERVED_IDS = 40


class Writers(Process):
    """Each writer takes the next operation when it has ended the last one."""

    def __init__(self, world: World, operations: deque[Operation], count: int, pace_seconds: float) -> None:
        super().__init__("writers")
        self._world = world
        self._operations = operations
        self._pace_seconds = pace_seconds
        self._writer = Writer(MODEL)
        self._locked: set[str] = set()  # documents of open transactions
        self.late = 0
        self._last = 0  # outbox id before the open transaction
        self.running = count
        for _ in range(count):
            world.scheduler.spawn(self, self._run)

    def _run(self) -> None:
        while self._operations:
            self._world.scheduler.sleep(self._world.random.uniform(0, self._pace_seconds))
            if not self._operations:
                break
            operation = self._operations.popleft()
            doc_id = operation.doc_id
            self._world.scheduler.wait_until(partial(self._is_free, doc_id))
            self._locked.add(doc_id)
            with suppress(DBAPIError, OSError, UnknownDocument, VectorRequired, FileRequired):  # the service gets them
                self._commit(operation)
            self._locked.discard(doc_id)
        self.running -= 1

    def _is_free(self, doc_id: str) -> bool:
        return doc_id not in self._locked

    def _commit(self, operation: Operation) -> None:
        """One transaction. A late one inserts its outbox rows long before it commits."""
        world, database = self._world, self._world.database
        file = None
        if operation.file is not None and operation.kind == "upsert":
            file = DocumentFile.from_bytes(operation.file, "original.md", world.store())
        first, epoch = None, database.epoch
        if operation.is_late:
            first = database.reserve_ids(_RESERVED_IDS)
            world.scheduler.sleep(world.random.uniform(0, 2))
            if database.epoch != epoch:
                return  # its server is gone
        with database.engine.begin() as connection:
            self._last = database.last_id()
            match operation.kind:
                case "upsert":
                    given = document(
                        operation.doc_id, *operation.contents, business_tag=operation.tag or None, file=file
                    )
                    self._writer.upsert(connection, given)
                case "relabel":
                    self._writer.relabel(connection, operation.doc_id, business_tag=operation.tag or None)
                case "delete":
                    self._writer.delete(connection, operation.doc_id)
                case "resync":
                    self._writer.resync(connection, operation.doc_id)
            if first is not None:
                self._use_reserved(connection, first)

    def _use_reserved(self, connection: Connection, first: int) -> None:
        """Give the rows of this transaction the ids that were reserved."""
        new = connection.execute(select(outbox.c.id).where(outbox.c.id >= first + _RESERVED_IDS).order_by(outbox.c.id))
        ids = [outbox_id for outbox_id in new.scalars() if outbox_id > self._last]
        if 0 < len(ids) <= _RESERVED_IDS:
            self.late += 1
            for place, outbox_id in enumerate(ids):
                connection.execute(update(outbox).where(outbox.c.id == outbox_id).values(id=first + place))


class _Reader:
    """The topic for the shipped check."""

    is_at_end = True

    def __init__(self, broker: Broker, topics: Mapping[str, Topic]) -> None:
        self._broker = broker
        self._committed = {sink: topic.committed for sink, topic in topics.items()}

    def read(self, _since: object, _is_stopped: object, _starts: object = None) -> Iterator[list[ReadEvent]]:
        for (_, partition), log in self._broker.log.items():
            events = [decode(message.envelope) for message in log]
            yield [
                ReadEvent(one.doc_id, partition, offset, one.version, one.part, one.history_id, LostEvent.of(one).files)
                for offset, one in enumerate(events)
            ]
            self._broker.scheduler.point("topic.read done")

    def read_committed(self, sink: str) -> dict[int, int]:
        self._broker.scheduler.point("topic.committed")
        return {partition: offset for (_, partition), offset in self._committed[sink].items()}


class Operator(Process):
    """A person, or a supervisor, who looks after the system."""

    def __init__(self, world: World) -> None:
        super().__init__("operator")
        self._world = world

    def check_history(self, absent: Collection[tuple[str, str]]) -> None:
        """Run the shipped check; and what only a comparison of the stores finds.

        `absent` are the sinks and documents that were absent on an old server: no topic tells of them.
        """
        self._retry(lambda: self._check_history(absent))

    def restore_milvus(self) -> None:
        """What `rag-outbox init` does when it finds no collection."""
        self._retry(lambda: mark_all_absent(self._world.database.engine, MILVUS, "the store was missing and is new"))
        if self._world.milvus.rows is None:
            self._world.milvus.rows = {}

    def repair(self, sink: str, doc_id: str) -> None:
        """A comparison of the stores has found a difference."""

        def mark() -> None:
            with self._world.database.engine.begin() as connection:
                marks.lock_documents(connection, [doc_id])
                marks.mark_absent(connection, sink, {doc_id: "a difference was found"})

        self._retry(mark)

    def write_again(self, doc_id: str) -> None:
        """Write a document whose files or vectors no store has: what `last_error` asks for."""
        rows = self._world.database.rows
        contents = [one for (one,) in rows("SELECT content FROM chunks WHERE doc_id = ? ORDER BY chunk_index", doc_id)]
        [(tag,)] = rows("SELECT business_tag FROM documents WHERE doc_id = ?", doc_id)
        file = DocumentFile.from_bytes(b"written again", "original.md", self._world.store())
        with self._world.database.engine.begin() as connection:
            Writer(MODEL).upsert(connection, document(doc_id, *contents, business_tag=tag, file=file))

    def _check_history(self, absent: Collection[tuple[str, str]]) -> None:
        with self._world.database.engine.begin() as connection:
            lock_identity(connection)
        reader: Any = _Reader(self._world.broker, self._world.topics)
        history.check(self._world.database.engine, reader)
        with self._world.database.engine.begin() as connection:
            for sink in SINKS:
                state = sink_states.c
                failed = select(state.doc_id).where(state.sink == sink, state.state == "failed")
                doc_ids = {*connection.execute(failed).scalars(), *(doc_id for name, doc_id in absent if name == sink)}
                reasons = dict.fromkeys(sorted(doc_ids), "it was absent")
                marks.lock_documents(connection, reasons)
                marks.mark_absent(connection, sink, reasons)

    def _retry(self, work: Callable[[], object]) -> None:
        call_with_retry(work, backoff=self._world.backoff, stop=TaskEvent(self._world.scheduler))
