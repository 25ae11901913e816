"""The consumer loop over Kafka, the same for every sink: poll a batch, apply it, then commit its offsets.

Invariant 8: offsets are committed only after the marks, so a crash repeats at most the batch in flight. While the sink
is slow or down the partitions are paused and the group is served, so the consumer keeps them.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from schema.events.events import Envelope
from schema.failures import DeadLetter, DeadLetterLimit, Retryable
from schema.kafka.clients import Membership, for_producer, join_group
from schema.kafka.names import Names
from schema.retry import Backoff
from schema.sinks import Applier

_log = logging.getLogger(__name__)

_BATCH_ROWS = 500
_BATCH_BYTES = 16 * 1024 * 1024
_FETCH_ROWS = 50  # at once: a batch may be larger than its bound by so many events
_IDLE_SECONDS = 0.25
_FILL_SECONDS = 0.005  # how long a batch waits for its next event
_PATIENCE_SECONDS = 3.0  # how long a batch may take before the group is served: pausing drops what was fetched ahead
_SERVE_SECONDS = 0.05
_BACKOFF = Backoff()
_DRAIN_SECONDS = 10.0  # how long a revoked partition waits for its batch
_COMMIT_SECONDS = 10.0


class Runtime:
    """One of any number of consumers of a sink. `report` is called with each batch that is applied and marked."""

    def __init__(
        self,
        applier: Applier,
        names: Names,
        kafka: Mapping[str, Any],
        *,
        report: Callable[[Sequence[Envelope], Sequence[DeadLetter]], None] = lambda _applied, _dead: None,
    ) -> None:
        self._applier = applier
        self._report = report
        self._names = names
        self._kafka = kafka
        self._dead_letters_topic = names.dead_letters_topic(applier.name)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"apply-{applier.name}")
        self._limit = DeadLetterLimit()
        self._batch: list[tuple[Envelope, Message]] = []  # in flight, of partitions that are ours
        self._attempt: Future[list[DeadLetter]] | None = None
        self._owned: set[tuple[str, int]] = set()  # topic and partition
        self._paused = False  # no partition gives messages, one that arrives meanwhile included
        self._producer: Producer | None = None  # of dead letters
        self._member = Membership()
        self._consumer = self._joined()

    def run(self, stop: threading.Event) -> None:
        """Consume until `stop` is set; then the batch in flight is finished, committed, and the group left."""
        try:
            while not stop.is_set():
                self.poll_batch()
                self.apply(stop)
                self.commit()
                self.stay()
        finally:
            self.close()

    def poll_batch(self) -> None:
        """The next messages, bounded in rows and bytes; none after a quarter of a second of silence."""
        size = 0
        rows, timeout = 1, _IDLE_SECONDS  # librdkafka returns when it has so many, or so late
        while len(self._batch) < _BATCH_ROWS and size < _BATCH_BYTES:
            fetched = self._consumer.consume(rows, timeout)
            if not fetched:
                return
            for message in fetched:
                if (error := message.error()) is None:
                    if _partition(message) in self._owned:  # it may be revoked since it was fetched
                        self._batch.append((_envelope(message), message))
                        size += len(message)
                elif error.fatal():
                    raise KafkaException(error)
                else:  # librdkafka tries again by itself
                    _log.warning("kafka_error reason=%s", error)
            rows, timeout = min(_FETCH_ROWS, _BATCH_ROWS - len(self._batch)), _FILL_SECONDS

    def apply(self, stop: threading.Event) -> None:
        """Apply the batch, again and again while the sink is down."""
        attempt = 0
        while self._batch:
            self._attempt = self._pool.submit(self._applier.apply, [envelope for envelope, _ in self._batch])
            wait([self._attempt], _PATIENCE_SECONDS)
            self._serve_until(self._attempt.done)
            try:
                self.finish()
            except Retryable as error:
                self._attempt = None
                if stop.is_set():
                    break  # not committed: whoever comes next applies it
                attempt += 1
                seconds = _BACKOFF.seconds(attempt)
                _log.warning("sink_failing sink=%s attempt=%d reason=%s", self._applier.name, attempt, error)
                self._serve_for(seconds, stop)
        if self._paused:
            self._consumer.resume(self._consumer.assignment())
            self._paused = False

    def finish(self) -> None:
        """Send the dead letters of the attempt that has ended; then its batch may be committed. Raises Retryable."""
        if self._attempt is None:
            return
        dead = self._attempt.result()
        self._attempt = None
        self._bury(dead)
        applied, self._batch = self._batch, []
        self._limit.count(len(applied), len(dead))
        for message in {_partition(message): message for _, message in applied}.values():
            self._consumer.store_offsets(message)  # each partition's last
        self._report([envelope for envelope, _ in applied], dead)

    def commit(self) -> None:
        """Commit what is applied; what Kafka does not take while the group changes, the next call commits."""
        try:
            self._consumer.commit(asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() != KafkaError._NO_OFFSET:
                _log.warning("offsets_not_committed reason=%s", error)

    def stay(self) -> None:
        """Join the group again with another client when this one has long been out of it; its batch is empty."""
        if self._member.given_up(self._consumer):
            _log.warning("kafka_client_given_up group=%s", self._names.sink_group(self._applier.name))
            self._consumer.close()
            self._owned.clear()
            self._consumer = self._joined()

    def close(self) -> None:
        """Leave the group: the others take the partitions over at once."""
        self._pool.shutdown()
        self._consumer.close()

    def _joined(self) -> Consumer:
        return join_group(
            self._kafka,
            {"enable.auto.offset.store": False, "auto.offset.reset": "earliest"},
            group=self._names.sink_group(self._applier.name),
            topic=self._names.documents_topic,
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def _bury(self, letters: Sequence[DeadLetter]) -> None:
        """To the dead-letter topic; raises Retryable when Kafka does not take all of them."""
        if not letters:
            return
        safe = {"enable.idempotence": True, "acks": "all", "linger.ms": 5}
        producer = self._producer or Producer({**for_producer(self._kafka), **safe})
        self._producer = None  # after a failure with another one
        for letter in letters:
            self._produce(producer, letter)
        if producer.flush(_COMMIT_SECONDS):
            producer.purge()
            raise Retryable("Kafka does not take the dead letters")
        self._producer = producer

    def _produce(self, producer: Producer, letter: DeadLetter) -> None:
        """With the original key, value and headers, and why."""
        message = next((message for envelope, message in self._batch if envelope is letter.envelope), None)
        if message is None:  # its partition was revoked meanwhile
            return
        _log.error("dead_letter stage=%s doc_id=%s reason=%s", letter.stage, letter.envelope.doc_id, letter.reason)
        why = [
            ("dead_letter_stage", letter.stage),
            ("dead_letter_reason", letter.reason),
            ("dead_letter_origin", f"{message.topic()}/{message.partition()}/{message.offset()}"),
        ]
        headers = [*_headers(message), *why]
        producer.produce(self._dead_letters_topic, key=message.key(), value=message.value(), headers=headers)

    def _serve_for(self, seconds: float, stop: threading.Event) -> None:
        again_at = time.monotonic() + seconds
        self._serve_until(lambda: stop.is_set() or time.monotonic() >= again_at)

    def _serve_until(self, done: Callable[[], bool]) -> None:
        """Serve the group, all partitions paused, until `done`."""
        if done():
            return
        self._paused = True
        self._consumer.pause(self._consumer.assignment())
        while not done():
            message = self._consumer.poll(_SERVE_SECONDS)
            if message is not None and message.error() is None:
                raise AssertionError("a paused partition gave a message")

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_assign(partitions)
        self._owned |= {(partition.topic, partition.partition) for partition in partitions}
        if not partitions:
            return
        if self._paused:
            consumer.pause(partitions)
        else:  # librdkafka remembers that a partition was paused when it was revoked
            consumer.resume(partitions)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Let the attempt under way end, so that the next owner has nothing to do again; then let go."""
        if self._attempt is not None:
            wait([self._attempt], _DRAIN_SECONDS)
            if self._attempt.done():
                with suppress(Retryable):
                    self.finish()
        self.commit()
        self._forget(partitions)
        consumer.incremental_unassign(partitions)

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Others own them already: what is being applied is fenced by its version."""
        self._forget(partitions)

    def _forget(self, partitions: Sequence[TopicPartition]) -> None:
        self._owned -= {(partition.topic, partition.partition) for partition in partitions}
        self._batch = [one for one in self._batch if _partition(one[1]) in self._owned]


def _envelope(message: Message) -> Envelope:
    """The envelope of a message; what is missing makes the event malformed, and a dead letter."""
    headers = {name: _text(value) for name, value in _headers(message) if value is not None}
    sequence = headers.get("ce_sequence", "")
    key = message.key() or b""
    return Envelope(
        event_id=headers.get("ce_id", f"{message.topic()}/{message.partition()}/{message.offset()}"),
        event_type=headers.get("ce_type", ""),
        doc_id=key.decode(errors="replace"),
        version=int(sequence) if sequence.isdecimal() else 0,
        content_type=headers.get("content-type", ""),
        payload=message.value() or b"",
        headers=headers,
    )


def _partition(message: Message) -> tuple[str, int]:
    return message.topic() or "", message.partition() or 0


def _headers(message: Message) -> list[tuple[str, str | bytes | None]]:
    return cast(list[tuple[str, str | bytes | None]], message.headers() or [])


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")
