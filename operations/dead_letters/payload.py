"""Reads the payload of a dead letter: from its row, or from the sink's topic of dead letters."""

import time
from typing import TYPE_CHECKING, cast

from sqlalchemy import select

from operations.dead_letters.letters import Letter
from operations.errors import OperationError
from operations.settings import PREFIX
from operations.wiring import System
from schema.database.connection import reading
from schema.database.tables import outbox_dead_letters

if TYPE_CHECKING:
    from confluent_kafka import Message

_CALL_SECONDS = 30.0
_POLL_SECONDS = 1.0


class PayloadGone(OperationError):
    """Raised when a payload cannot be read: Kafka removed it after its retention, or is not named in the settings."""


def read_payload(system: System, letter: Letter) -> bytes:
    """Raises PayloadGone, KafkaException."""
    if letter.row.kafka_position is None:
        with reading(system.engine) as connection:
            columns = outbox_dead_letters.c
            return connection.execute(select(columns.payload).where(columns.id == letter.id)).scalar_one() or b""
    record = _read_record(system, letter.row.kafka_position)
    if record is None or _event_id(record) != letter.row.event_id:  # the topic may be a new one
        raise PayloadGone(f"Kafka no longer has the payload at {letter.row.kafka_position}")
    value = record.value() or b""
    return value if isinstance(value, bytes) else value.encode()


def _read_record(system: System, position: str) -> "Message | None":
    """The record at topic/partition/offset; None if the topic does not have it."""
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    from schema.kafka.clients import for_consumer

    if system.settings.kafka is None:
        raise PayloadGone(f"the payload is in Kafka, at {position}: set {PREFIX}KAFKA_BOOTSTRAP_SERVERS")
    topic, partition, offset = position.rsplit("/", 2)
    consumer = Consumer(
        {
            **for_consumer(system.settings.kafka),
            "group.id": f"{system.settings.namespace}-dead-letters",  # required by librdkafka; it is never joined
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
        }
    )
    try:
        place = TopicPartition(topic, int(partition), int(offset))
        if topic not in consumer.list_topics(timeout=_CALL_SECONDS).topics:
            return None
        low, high = consumer.get_watermark_offsets(place, timeout=_CALL_SECONDS)
        if not low <= place.offset < high:
            return None
        consumer.assign([place])
        deadline = time.monotonic() + _CALL_SECONDS
        while time.monotonic() < deadline:
            record = consumer.poll(_POLL_SECONDS)
            if record is not None and record.error() is None:
                return record if record.offset() == place.offset else None
            if record is not None and (error := record.error()) is not None and not error.retriable():
                return None
        raise PayloadGone(f"Kafka did not answer for {position} within {_CALL_SECONDS:.0f} s")
    except KafkaException as error:
        raise PayloadGone(f"Kafka did not give {position}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _event_id(record: "Message") -> str:
    """As `Message.envelope` in consumers/subscription.py: without a header, the place that the event had."""
    headers = dict(cast(list[tuple[str, str | bytes | None]], record.headers() or []))
    found = headers.get("ce_id") or headers.get("dead_letter_origin") or b""
    return (found.decode(errors="replace") if isinstance(found, bytes) else found)[-36:]
