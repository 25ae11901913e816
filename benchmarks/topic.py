"""The topic as a `read_committed` reader sees it, and the outbox rows that benchmarks publish."""

import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from sqlalchemy import Connection, Engine

from schema.events.events import MSGPACK, UPSERTED

_ROWS_PER_STATEMENT = 1_000
_INSERT = (
    "INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, payload) "
    "VALUES (%s, %s, %s, %s, %s, %s)"  # only parameters: otherwise PyMySQL sends one statement per row
)


@dataclass(frozen=True, slots=True)
class Seen:
    event_id: str
    doc_id: str
    version: int
    at: float  # seconds; the broker's clock


def append(engine: Engine, events: int, size_bytes: int, documents: int) -> None:
    """Insert outbox rows: version 1 of every document, then version 2, and so on."""
    done = 0
    while done < events:
        some = range(done, min(events, done + _ROWS_PER_STATEMENT))
        rows = [(str(uuid.uuid4()), f"doc-{number % documents}", number // documents + 1) for number in some]
        with engine.begin() as connection:
            insert(connection, rows, size_bytes)
        done += len(some)


def insert(connection: Connection, rows: Iterable[tuple[str, str, int]], size_bytes: int) -> None:
    """Insert rows of (event id, document id, version), each with a payload of `size_bytes`."""
    filled = [(*row, UPSERTED, MSGPACK, payload(size_bytes)) for row in rows]
    connection.exec_driver_sql(_INSERT, filled)


def payload(size_bytes: int) -> bytes:
    """Half random, half zero: it compresses about as well as text."""
    return os.urandom(size_bytes // 2) + bytes(size_bytes - size_bytes // 2)


def read(kafka: str, topic: str) -> Iterator[Seen]:
    """Every message, in the order of each partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": uuid.uuid4().hex,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
    ended = 0
    while ended < len(partitions):
        for message in consumer.consume(1_000, 1.0):
            if message.error() is not None:
                ended += 1
                continue
            headers = dict(cast(list[tuple[str, bytes]], message.headers()))
            key = cast(bytes, message.key()).decode()
            at = message.timestamp()[1] / 1_000
            yield Seen(headers["ce_id"].decode(), key, int(headers["ce_sequence"]), at)
    consumer.close()


def verified(kafka: str, topic: str, events: int, documents: int) -> list[Seen]:
    """Read the topic. Raises SystemExit unless it has every event once, and the versions of each document in order."""
    seen = list(read(kafka, topic))
    newest: dict[str, int] = {}
    for one in seen:
        if one.version != newest.get(one.doc_id, 0) + 1:
            raise SystemExit(f"{one.doc_id}: version {one.version} after {newest.get(one.doc_id, 0)}")
        newest[one.doc_id] = one.version
    if len(seen) != events or len({one.event_id for one in seen}) != events or len(newest) != documents:
        raise SystemExit(f"{len(seen)} events of {len(newest)} documents in the topic; {events} were appended")
    return seen


def held(admin: AdminClient, topic: str) -> int:
    """The number of messages in the topic, from its offsets; transaction markers count, too."""
    partitions = _partitions(admin, topic)
    last, first = (
        admin.list_offsets(dict.fromkeys(partitions, end)).values()
        for end in (OffsetSpec.latest(), OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    )
    return sum(int(one.result().offset) for one in last) - sum(int(one.result().offset) for one in first)


def clear(admin: AdminClient, topic: str) -> None:
    """Remove every message; offsets continue."""
    for one in admin.delete_records(_partitions(admin, topic, OFFSET_END)).values():
        one.result()


def _partitions(admin: AdminClient, topic: str, offset: int = OFFSET_BEGINNING) -> list[TopicPartition]:
    return [TopicPartition(topic, one, offset) for one in admin.list_topics(topic, timeout=30).topics[topic].partitions]
