"""The processes of a simulation: shipped relays and consumers over the models, and how each of them is started."""

from collections.abc import Collection, Sequence
from random import Random
from typing import Any
from zlib import crc32

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from consumers.applier import Applier
from consumers.kafka import KafkaConsumer
from consumers.milvus.sink import MilvusSink
from consumers.minio.sink import MinioSink
from consumers.refill import Refill
from consumers.sink import Change, Sink
from relays.kafka import KafkaRelay
from relays.publisher import KafkaPublisher
from schema.database.history import Identity
from schema.database.tables import LANES
from schema.failures import Retryable, StoreMissing
from schema.kafka.names import Names
from schema.object_store import marker
from schema.outage import DatabaseOutage
from schema.retry import Backoff
from schema.sinks import MILVUS, MINIO
from tests.simulation.database import Database, RelayOutbox
from tests.simulation.kafka import Broker, Lanes, Topic, open_subscription
from tests.simulation.milvus import Client, Milvus
from tests.simulation.scheduler import Port, Process, Scheduler, TaskEvent, TaskExecutor
from tests.support.inline_executor import InlineExecutor
from tests.support.memory_dead_letters import MemoryDeadLetters
from tests.support.memory_object_store import MemoryObjectStore
from tests.support.pipeline import DIMENSION, MARKS, SYSTEM_ID

_STORE_CALLS = {"put", "read", "copy", "sha256", "keys", "remove"}
SINKS = (MILVUS, MINIO)
LEAVE_AFTER_SECONDS = 1.0


def lane_of(doc_id: str) -> int:
    return crc32(doc_id.encode()) % LANES


class World:
    """The stores and Kafka, which outlive all processes."""

    def __init__(self, scheduler: Scheduler, random: Random) -> None:
        self.scheduler = scheduler
        self.random = random
        self.database = Database(scheduler)
        self.broker = Broker(scheduler, random)
        self.topics = {sink: Topic(self.broker) for sink in SINKS}
        self.milvus = Milvus()
        self.objects = MemoryObjectStore()
        marker.claim(self.objects, SYSTEM_ID)
        self.dead_letters = MemoryDeadLetters()
        self.backoff = Backoff(0.1, 2.0, random.uniform)
        self.refilled = 0
        self.given: dict[str, set[tuple[str, int, str]]] = {sink: set() for sink in SINKS}  # with versions, histories

    def store(self) -> Any:
        return Port(
            self.scheduler, "store", self.objects, _STORE_CALLS, lambda: OSError("the object store does not answer")
        )


class RelayProcess(Process):
    def __init__(self, world: World, name: str) -> None:
        super().__init__(name)
        self.stop = TaskEvent(world.scheduler)
        self.lanes = world.broker.lanes()
        self.outage = DatabaseOutage(LEAVE_AFTER_SECONDS, world.scheduler.clock)
        scheduler = world.scheduler
        outbox = RelayOutbox(world.database)
        self.relay = KafkaRelay(
            outbox,
            Lanes(scheduler, self.lanes),
            KafkaPublisher(Names("rag", SYSTEM_ID), {}, LANES),
            new_executor=lambda _name: TaskExecutor(scheduler, self),
            clock=scheduler.clock,
            outage=self.outage,
            backoff=world.backoff,
        )
        self._outbox = outbox
        scheduler.spawn(self, self._run)

    @property
    def recovered(self) -> int:
        """How many rows it settled when it took lanes over."""
        return self._outbox.recovered

    def _run(self) -> None:
        try:
            self.relay.run(self.stop)
        except DBAPIError:
            assert self.stop.is_set(), "only a relay that is stopped gives up"

    @property
    def may_be_killed(self) -> bool:
        return True

    def expire(self, world: World) -> None:
        """End the session; the process notices it later."""
        if world.broker.is_member(self.lanes.member_id):
            world.broker.expire(self.lanes.member_id)


class _Watched:
    """A sink that notes what it is given."""

    def __init__(self, sink: Sink, given: dict[tuple[str, int], str], ever: set[tuple[str, int, str]]) -> None:
        self._sink, self._given, self._ever = sink, given, ever

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)

    def apply(self, changes: Sequence[Change]) -> None:
        self._given.update({(one.doc_id, one.version): one.events[0].history_id for one in changes})
        self._ever.update((one.doc_id, one.version, one.events[0].history_id) for one in changes)
        self._sink.apply(changes)


class LaneRefill(Refill):
    """The shipped refill; on SQLite it does not choose by lanes."""

    def __init__(self, world: World, sink: Sink, store: Any) -> None:
        self._world = world
        self.given: dict[tuple[str, int], str] = {}  # to the sink, and not marked yet
        self.is_running = False  # with documents
        watched: Any = _Watched(sink, self.given, world.given[sink.name])
        super().__init__(world.database.engine, watched, MARKS[sink.name], store, clock=world.scheduler.clock)

    def mark_written(self) -> None:
        super().mark_written()
        self.given.clear()

    def run_round(self, lanes: Collection[int] | None = None) -> int:
        """A round that fails leaves what it gave: `mark_written` marks that."""
        try:
            refilled = super().run_round(lanes)
        finally:
            self.is_running = False
        for key in [key for key in self.given if key[0] not in self._written]:
            del self.given[key]
        self._world.refilled += refilled
        return refilled

    def _find_absent(self, connection: Connection, identity: Identity, lanes: Collection[int] | None) -> list[str]:
        found = super()._find_absent(connection, identity, None)
        doc_ids = [doc_id for doc_id in found if lanes is None or lane_of(doc_id) in lanes]
        self.is_running = bool(doc_ids)
        return doc_ids


class ConsumerProcess(Process):
    """It ends with `lost_store` when its store is not there."""

    def __init__(self, world: World, name: str, sink_name: str) -> None:
        super().__init__(name)
        self.sink_name = sink_name
        self.stop = TaskEvent(world.scheduler)
        self.lost_store = False
        self.outage = DatabaseOutage(LEAVE_AFTER_SECONDS, world.scheduler.clock)
        self.topic = world.topics[sink_name]
        scheduler, store = world.scheduler, world.store()
        sink = open_sink(world, sink_name, store)

        def new_executor() -> TaskExecutor:
            return TaskExecutor(scheduler, self)

        watched: Any = _Watched(sink, {}, world.given[sink_name])
        self.applier = Applier(world.database.engine, watched, MARKS[sink_name], new_executor=new_executor)
        self.refill = LaneRefill(world, sink, store)
        self.member, subscription = open_subscription(scheduler, self.topic)
        self.consumer = KafkaConsumer(
            self.applier,
            subscription,
            world.dead_letters,
            refill=self.refill,
            executor=new_executor(),
            clock=scheduler.clock,
            database=self.outage,
            probe=world.database.probe,
            backoff=world.backoff,
        )
        scheduler.spawn(self, lambda: self._run(sink))

    def _run(self, sink: Sink) -> None:
        try:
            try:
                sink.ensure()
            except Retryable:
                return  # it is started again
            self.consumer.run(self.stop)
        except StoreMissing:
            self.lost_store = True

    @property
    def given(self) -> dict[tuple[str, int], str]:
        """(doc_id, version) and history of what the sink was given and what is not marked yet."""
        return {**self.applier._written, **self.refill.given}

    @property
    def may_be_killed(self) -> bool:
        """Not after a late write: a consumer that dies between a late write and its mark is not found (0012)."""
        lanes = {number for (_, number), owner in self.topic.owners.items() if owner is self.member}
        return all(lane_of(doc_id) in lanes for doc_id, _ in self.given)

    def expire(self, world: World) -> None:
        if self.member in self.topic.members:
            self.topic.expire(self.member)


def open_sink(world: World, name: str, store: Any) -> Sink:
    """The shipped sink over the model of its store."""
    if name == MILVUS:
        client: Any = Client(world.milvus, world.scheduler)
        return MilvusSink(client, DIMENSION, SYSTEM_ID)
    sink = MinioSink(store, SYSTEM_ID)
    sink._pool = InlineExecutor()  # type: ignore[assignment]  # no threads
    return sink
