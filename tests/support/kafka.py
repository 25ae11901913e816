"""Relays and consumers in threads, and the messages that a reader of the topic sees."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import uuid4

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # no __all__
from sqlalchemy import Engine, text

from consumers.dead_letters import KafkaDeadLetters
from consumers.kafka import KafkaConsumer
from consumers.kafka_subscription import KafkaSubscription
from consumers.refill_rounds import Refill
from consumers.sink import Sink
from relays.kafka import KafkaRelay, kafka_relay
from relays.ports import OutboxRow
from schema.database.tables import LANES
from schema.kafka import topics
from schema.kafka.names import Names
from schema.retry import call_with_retry
from schema.sinks import Applier
from tests.support.pipeline import applier
from tests.support.servers import Servers
from tests.support.waiting import wait_for

SESSION_MILLISECONDS = 6_000  # the shortest that a broker accepts by default


def properties(servers: Servers) -> dict[str, Any]:
    return {"bootstrap.servers": servers.kafka, "session.timeout.ms": SESSION_MILLISECONDS}


def create_topics(servers: Servers, names: Names) -> None:
    assert topics.ensure({"bootstrap.servers": servers.kafka}, names, LANES) == []


def remove_all(servers: Servers, topic: str) -> None:
    """Remove all messages, as the retention does."""
    admin = AdminClient({"bootstrap.servers": servers.kafka})
    call_with_retry(  # a new partition may have no leader for a moment
        lambda: _remove_all(admin, topic), retry_on=lambda error: isinstance(error, KafkaException), seconds=30
    )


def _remove_all(admin: AdminClient, topic: str) -> None:
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = {
        TopicPartition(topic, one): latest for one in admin.list_topics(topic, timeout=30).topics[topic].partitions
    }
    ends = admin.list_offsets(asked)
    removed = [TopicPartition(topic, one.partition, end.result(30).offset) for one, end in ends.items()]
    for future in admin.delete_records(removed).values():
        future.result(30)


@contextmanager
def running(run: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run in a thread until the context ends; then raise its error, or add it as a note to the context's own error."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(run, stop)
        try:
            yield
        except BaseException as failure:
            stop.set()
            if (error := outcome.exception()) is not None:
                failure.add_note(f"a relay or consumer had ended with {error!r}")
            raise
        stop.set()
    outcome.result()


@contextmanager
def relaying(
    engine: Engine, servers: Servers, names: Names, *, report: Callable[[Sequence[OutboxRow]], None] = lambda _: None
) -> Iterator[KafkaRelay]:
    """A running relay."""
    relay = kafka_relay(engine, names, properties(servers), lanes=LANES, report=report)
    with running(relay.run):
        yield relay


@contextmanager
def consuming(
    engine: Engine,
    sink: Sink,
    servers: Servers,
    names: Names,
    *,
    refill: Refill | None = None,
    wrapped: Callable[[Applier], Applier] = lambda one: one,
) -> Iterator[None]:
    """A running consumer; `wrapped` may put something around its applier."""
    kafka = properties(servers)
    consumer = KafkaConsumer(
        wrapped(applier(engine, sink)),
        KafkaSubscription(kafka, names, sink.name),
        KafkaDeadLetters(kafka, names.dead_letters_topic(sink.name), engine, sink.name),
        refill=refill,
    )
    with running(consumer.run):
        yield


def pending(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT COUNT(*) FROM outbox")).scalar_one())


def wait_until_empty(engine: Engine, *, timeout_seconds: float = 60.0) -> None:
    wait_for(lambda: pending(engine) == 0, "an empty outbox", timeout_seconds=timeout_seconds)


@dataclass(frozen=True)
class Seen:
    partition: int
    event_id: str
    doc_id: str
    version: int
    headers: dict[str, str]
    value: bytes


def topic(servers: Servers, name: str) -> list[Seen]:
    """All messages that a `read_committed` reader sees, in the order of each partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers.kafka,
            "group.id": uuid4().hex,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    try:
        partitions = consumer.list_topics(name, timeout=30).topics[name].partitions
        consumer.assign([TopicPartition(name, partition, OFFSET_BEGINNING) for partition in partitions])
        ended: set[int | None] = set()
        seen: list[Seen] = []
        while len(ended) < len(partitions):
            for message in consumer.consume(500, 1.0):
                if message.error() is not None:
                    ended.add(message.partition())
                else:
                    seen.append(_seen(message))
        return seen
    finally:
        consumer.close()


class _Part(msgspec.Struct):
    part: int = 1
    parts: int = 1


def assert_exactly_once_and_in_order(seen: list[Seen], written: Mapping[str, int]) -> None:
    """Assert that all versions of each document, from 1 to the last, were seen once, in order, with all parts."""
    found: dict[str, list[tuple[int, int]]] = {}
    parts: dict[tuple[str, int], int] = {}
    for one in seen:
        event = msgspec.msgpack.decode(one.value, type=_Part)
        found.setdefault(one.doc_id, []).append((one.version, event.part))
        parts[one.doc_id, one.version] = event.parts
    assert found.keys() == written.keys()
    for doc_id, last in written.items():
        versions = range(1, last + 1)
        wanted = [(version, part + 1) for version in versions for part in range(parts.get((doc_id, version), 1))]
        assert found[doc_id] == wanted, doc_id
    assert len({one.event_id for one in seen}) == len(seen)


def _seen(message: Message) -> Seen:
    headers = {name: value.decode() for name, value in cast(list[tuple[str, bytes]], message.headers() or [])}
    key, value = message.key(), message.value()
    assert isinstance(key, bytes)
    assert isinstance(value, bytes)
    return Seen(message.partition() or 0, headers["ce_id"], key.decode(), int(headers["ce_sequence"]), headers, value)
