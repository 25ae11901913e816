"""Dead letters of a consumer: a topic keeps the refused events, and a row per event in the database lists them.

Invariant 11: an event that a sink refuses is in the topic, then in the database, before its offset is committed.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Record
from sqlalchemy import Engine

from consumers.subscription import Message
from schema.database import dead_letters
from schema.database.connection import reading
from schema.failures import DeadLetter, Retryable
from schema.kafka.clients import for_producer
from schema.retry import translate_transient

_log = logging.getLogger(__name__)

_FLUSH_SECONDS = 10.0
_CALL_SECONDS = 5.0
_REPEAT_SECONDS = 60.0  # between two log lines while Kafka does not take the letters
_DURABLE = {
    "enable.idempotence": True,
    "acks": "all",
    "batch.num.messages": 1,  # Kafka refuses a batch as a whole: a large letter takes no other with it
}
_TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
_NOT_DELIVERED = KafkaError(KafkaError._TIMED_OUT)

Delivered = str | KafkaError  # topic/partition/offset, or why not
OnDelivery = Callable[[KafkaError | None, Any], None]


class DeadLetters(Protocol):
    """Where refused events go."""

    def send(self, letters: Sequence[tuple[Message, DeadLetter]]) -> None:
        """Store refused events. Returns when all of them are stored; raises Retryable otherwise."""

    def count_stored(self) -> int:
        """How many were stored in the last hour, by all processes of the sink. Raises Retryable."""


class KafkaDeadLetters:
    """A topic, and the table `outbox_dead_letters`.

    Each record has the key, value and headers of the refused event, and three more headers. Its row names the record;
    the payload of a letter that is too large for the topic is in the row.
    """

    def __init__(self, kafka: Mapping[str, Any], topic: str, engine: Engine, sink: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._sink = sink
        self._engine = engine
        self._producer: Producer | None = None
        self._said_at = -_REPEAT_SECONDS

    def send(self, letters: Sequence[tuple[Message, DeadLetter]]) -> None:
        if not letters:
            return
        delivered = self._deliver(letters)
        rows = [_row_of(message, letter, place) for (message, letter), place in zip(letters, delivered, strict=True)]
        with translate_transient(), self._engine.begin() as connection:
            dead_letters.store(connection, rows)
        for _, letter in letters:
            _log.error("dead_letter stage=%s doc_id=%s reason=%s", letter.stage, letter.envelope.doc_id, letter.reason)

    def count_stored(self) -> int:
        with translate_transient(), reading(self._engine) as connection:
            return dead_letters.count_recent(connection, [self._sink])

    def _deliver(self, letters: Sequence[tuple[Message, DeadLetter]]) -> list[Delivered]:
        """Where Kafka confirmed each letter, or that it is too large. Raises Retryable when Kafka did not take one."""
        producer = self._producer or Producer({**for_producer(self._kafka), **_DURABLE})
        self._producer = None  # replaced after any failure below
        delivered: list[Delivered] = [_NOT_DELIVERED] * len(letters)
        for number, (message, letter) in enumerate(letters):
            self._produce(producer, message, letter, partial(_note, delivered, number))
        if producer.flush(_FLUSH_SECONDS):
            producer.purge()
        errors = [one for one in delivered if isinstance(one, KafkaError)]
        for error in errors:
            if error.code() not in _TOO_LARGE:
                reason = self._explain(producer, error)
                self._log_failure(len(letters), reason)
                raise Retryable(f"Kafka does not take the dead letters: {reason}")
        if not errors:
            self._producer = producer
        return delivered

    def _produce(self, producer: Producer, message: Message, letter: DeadLetter, note: OnDelivery) -> None:
        headers = headers_of(message, letter)
        try:
            producer.produce(self._topic, key=message.key, value=message.value, headers=headers, on_delivery=note)
        except BufferError as error:
            raise Retryable("Kafka does not take the dead letters: the producer's queue is full") from error
        except KafkaException as error:
            note(error.args[0], None)

    def _explain(self, producer: Producer, error: KafkaError) -> str:
        """For a topic that does not exist, the client only says that the time is over."""
        with suppress(KafkaException, KeyError):
            found = producer.list_topics(self._topic, timeout=_CALL_SECONDS).topics[self._topic].error
            if found is not None and found.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return f"there is no topic {self._topic}: run rag-outbox init"
        return error.str()

    def _log_failure(self, count: int, reason: str) -> None:
        if time.monotonic() - self._said_at >= _REPEAT_SECONDS:
            self._said_at = time.monotonic()
            _log.error("dead_letters_wait sink=%s letters=%d reason=%s", self._sink, count, reason)


def _note(delivered: list[Delivered], number: int, error: KafkaError | None, record: Record) -> None:
    delivered[number] = error or f"{record.topic()}/{record.partition()}/{record.offset()}"


def _row_of(message: Message, letter: DeadLetter, delivered: Delivered) -> dict[str, Any]:
    headers = {**letter.envelope.headers, "dead_letter_origin": message.origin}
    position = delivered if isinstance(delivered, str) else None
    return dead_letters.row_of(letter, headers=headers, kafka_position=position)


def headers_of(message: Message, letter: DeadLetter) -> list[tuple[str, str | bytes | None]]:
    """The message's headers, then why and where it was refused, and where it stood in its topic."""
    return [
        *message.headers,
        ("dead_letter_stage", letter.stage),
        ("dead_letter_reason", letter.reason),
        ("dead_letter_origin", message.origin),
    ]
