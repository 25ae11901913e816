"""Dead letters of a consumer: refused events, kept in a topic with their original bytes and the reason.

Invariant 11: an event that a sink refuses is stored here before its offset is committed.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from confluent_kafka import Producer

from consumers.subscription import Message
from schema.failures import DeadLetter, Retryable
from schema.kafka.clients import for_producer

_log = logging.getLogger(__name__)

_FLUSH_SECONDS = 10.0
_DURABLE = {"enable.idempotence": True, "acks": "all", "linger.ms": 5}


class DeadLetters(Protocol):
    """Where refused events go."""

    def send(self, letters: Sequence[tuple[Message, DeadLetter]]) -> None:
        """Store refused events. Returns when all of them are stored; raises Retryable otherwise."""


class KafkaDeadLetters:
    """A topic; each record has the key, value and headers of the refused event, and three more headers."""

    def __init__(self, kafka: Mapping[str, Any], topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._producer: Producer | None = None

    def send(self, letters: Sequence[tuple[Message, DeadLetter]]) -> None:
        if not letters:
            return
        producer = self._producer or Producer({**for_producer(self._kafka), **_DURABLE})
        self._producer = None  # replaced after any failure below
        for message, letter in letters:
            self._produce(producer, message, letter)
        if producer.flush(_FLUSH_SECONDS):
            producer.purge()
            raise Retryable("Kafka does not take the dead letters")
        self._producer = producer

    def _produce(self, producer: Producer, message: Message, letter: DeadLetter) -> None:
        _log.error("dead_letter stage=%s doc_id=%s reason=%s", letter.stage, letter.envelope.doc_id, letter.reason)
        headers = headers_of(message, letter)
        producer.produce(self._topic, key=message.key, value=message.value, headers=headers)


def headers_of(message: Message, letter: DeadLetter) -> list[tuple[str, str | bytes | None]]:
    """The message's headers, then why and where it was refused, and where it stood in its topic."""
    return [
        *message.headers,
        ("dead_letter_stage", letter.stage),
        ("dead_letter_reason", letter.reason),
        ("dead_letter_origin", message.origin),
    ]
