"""Dead letters of a consumer: refused events, kept in a topic with their original bytes and the reason.

Invariant 11: an event that a sink refuses is stored here before its offset is committed.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer
from sqlalchemy import Engine, insert

from consumers.subscription import Message
from schema.database.connection import reading
from schema.database.dead_letters import RECENT, count_recent
from schema.database.tables import outbox_dead_letters
from schema.failures import DeadLetter, Retryable
from schema.kafka.clients import for_producer
from schema.kafka.offsets import count_since
from schema.limits import DOC_ID_BYTES
from schema.retry import translate_transient

_log = logging.getLogger(__name__)

_FLUSH_SECONDS = 10.0
_DURABLE = {
    "enable.idempotence": True,
    "acks": "all",
    "batch.num.messages": 1,  # Kafka refuses a batch as a whole: a large letter takes no other with it
}
_TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
_NOT_DELIVERED = KafkaError(KafkaError._TIMED_OUT)

OnDelivery = Callable[[KafkaError | None, Any], None]


class DeadLetters(Protocol):
    """Where refused events go."""

    def send(self, letters: Sequence[tuple[Message, DeadLetter]]) -> None:
        """Store refused events. Returns when all of them are stored; raises Retryable otherwise."""

    def count_stored(self) -> int:
        """How many were stored in the last hour, by all processes of the sink. Raises Retryable."""


class KafkaDeadLetters:
    """A topic; each record has the key, value and headers of the refused event, and three more headers.

    A letter that is too large for the topic goes to `outbox_dead_letters` instead.
    """

    def __init__(self, kafka: Mapping[str, Any], topic: str, engine: Engine, sink: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._sink = sink
        self._engine = engine
        self._producer: Producer | None = None

    def send(self, letters: Sequence[tuple[Message, DeadLetter]]) -> None:
        if not letters:
            return
        producer = self._producer or Producer({**for_producer(self._kafka), **_DURABLE})
        self._producer = None  # replaced after any failure below
        errors: list[KafkaError | None] = [_NOT_DELIVERED] * len(letters)
        for place, (message, letter) in enumerate(letters):
            _log.error("dead_letter stage=%s doc_id=%s reason=%s", letter.stage, letter.envelope.doc_id, letter.reason)
            self._produce(producer, message, letter, partial(_note, errors, place))
        if producer.flush(_FLUSH_SECONDS):
            producer.purge()
        too_large = [place for place, error in enumerate(errors) if error is not None and error.code() in _TOO_LARGE]
        for place, error in enumerate(errors):
            if error is not None and place not in too_large:
                raise Retryable(f"Kafka does not take the dead letters: {error.str()}")
        self._keep([letters[place] for place in too_large])
        if not too_large:
            self._producer = producer

    def count_stored(self) -> int:
        try:
            in_topic = count_since(self._kafka, self._topic, time.time() - RECENT.total_seconds())
        except KafkaException as error:
            raise Retryable(f"Kafka does not count the dead letters: {error.args[0].str()}") from error
        with translate_transient(), reading(self._engine) as connection:
            return in_topic + count_recent(connection, [self._sink])

    def _produce(self, producer: Producer, message: Message, letter: DeadLetter, note: OnDelivery) -> None:
        headers = headers_of(message, letter)
        try:
            producer.produce(self._topic, key=message.key, value=message.value, headers=headers, on_delivery=note)
        except BufferError as error:
            raise Retryable("Kafka does not take the dead letters: the producer's queue is full") from error
        except KafkaException as error:
            note(error.args[0], None)

    def _keep(self, letters: Sequence[tuple[Message, DeadLetter]]) -> None:
        """Store letters in the database; one that is there already stays."""
        if not letters:
            return
        once: Any = insert(outbox_dead_letters)
        once = once.prefix_with("IGNORE", dialect="mysql").prefix_with("OR IGNORE", dialect="sqlite")
        with translate_transient(), self._engine.begin() as connection:
            connection.execute(once, [_row_of(message, letter) for message, letter in letters])


def _note(errors: list[KafkaError | None], place: int, error: KafkaError | None, _record: object) -> None:
    errors[place] = error


def _row_of(message: Message, letter: DeadLetter) -> dict[str, Any]:
    envelope = letter.envelope
    return {
        "stage": letter.stage,
        "outbox_id": 0,  # unknown here
        "event_id": envelope.event_id[-36:],  # without a header ce_id: the end of the origin
        "aggregate_type": "document",
        "aggregate_id": envelope.doc_id[:DOC_ID_BYTES],
        "aggregate_version": envelope.version,
        "event_type": envelope.event_type[:64],
        "content_type": envelope.content_type[:64],
        "headers": {**envelope.headers, "dead_letter_origin": message.origin},
        "payload": envelope.payload,
        "error": letter.reason,
        "attempts": 1,
    }


def headers_of(message: Message, letter: DeadLetter) -> list[tuple[str, str | bytes | None]]:
    """The message's headers, then why and where it was refused, and where it stood in its topic."""
    return [
        *message.headers,
        ("dead_letter_stage", letter.stage),
        ("dead_letter_reason", letter.reason),
        ("dead_letter_origin", message.origin),
    ]
