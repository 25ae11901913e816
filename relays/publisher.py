"""Publish a batch: one Kafka transaction that holds its events and the offsets that name them.

Invariant 5: a reader with `read_committed` sees each event once; what a transaction did not commit is never visible.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from relays.batch_size import BatchSize
from relays.ports import Fenced, LaneOffset, OutboxRow, Outcome, Published, Refused, Undone
from schema.kafka import topics
from schema.kafka.clients import for_producer, session_seconds
from schema.kafka.names import Names
from schema.retry import Backoff, call_with_retry
from schema.threads import start_in_thread

_BATCH_BYTES = 1_000_000  # per partition
_TRANSACTION_MILLISECONDS = 10_000  # how long a transaction that a dead relay left open delays the next owner
_FLUSH_SECONDS = 0.05  # between two looks for a refused event
_GIVE_UP_SECONDS = 5.0  # after the time limit of a call that ignores it
_REFUSED = {  # Kafka will never accept this event; a clock, a right, a quota or a policy is not the fault of an event
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_RECORD,
}
_FENCED = {  # this relay stood still for too long
    KafkaError._FENCED,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.PRODUCER_FENCED,
    KafkaError.UNKNOWN_MEMBER_ID,
}


class KafkaPublisher:
    """Connects a transactional producer when it needs one, and replaces it after each failure.

    After a refused event a producer may count wrong: Kafka would find a gap in its sequence numbers.
    """

    def __init__(
        self,
        names: Names,
        kafka: Mapping[str, Any],
        lanes: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._names = names
        self._clock = clock
        self._source = names.source
        self._kafka = kafka
        self._lanes = lanes
        self._settings = {
            "linger.ms": 5,
            "batch.size": _BATCH_BYTES,
            "compression.type": "lz4",
            "transaction.timeout.ms": _TRANSACTION_MILLISECONDS,
            "queue.buffering.max.messages": 1_000_000,
            "delivery.report.only.error": True,
            "retry.backoff.ms": 5,  # the broker may still be ending the previous transaction
            **for_producer(kafka),
            "enable.idempotence": True,
            "acks": "all",
        }
        self._transaction_seconds = float(self._settings["transaction.timeout.ms"]) / 1_000
        # Longer than a transaction may take, and than a session: a relay that stood still is fenced first.
        self._call_seconds = 2 * max(self._transaction_seconds, session_seconds(kafka))
        self._batch_size = BatchSize()
        self._sent_bytes = 0  # of the open transaction
        self._seconds = 0.0  # that Kafka needed for it so far; the caller's waiting does not count
        self._producer: Producer | None = None
        self._refused: list[KafkaError] = []  # why Kafka rejects events of the open transaction

    @property
    def batch_bytes(self) -> int:
        return self._batch_size.bytes

    @property
    def wait_seconds(self) -> float:
        return self._transaction_seconds / 2

    def send(self, rows: Sequence[OutboxRow]) -> Undone | Fenced | Refused | None:
        try:
            producer = self._connect()
        except KafkaException as error:
            if not error.args[0].retriable():
                raise
            return Undone(error.args[0].str(), in_doubt=False)
        self._refused = refused = []
        self._sent_bytes = sum(len(row.envelope.payload) for row in rows)
        self._seconds = 0.0

        def note_refusal(error: KafkaError | None, _message: Any) -> None:
            if error is not None and error.code() in _REFUSED:
                refused.append(error)

        try:
            with self._measure_seconds():
                producer.begin_transaction()
                for row in rows:
                    self._produce(producer, row, note_refusal)
                producer.poll(0)
        except KafkaException as error:
            return self._abort(producer, error.args[0])
        return None

    def abort(self, reason: str) -> Undone:
        if self._producer is None:
            raise RuntimeError("abort without an open transaction")
        self._abort(self._producer, KafkaError(KafkaError._TIMED_OUT, reason))
        return Undone(reason, in_doubt=False)

    def commit(self, offsets: Sequence[LaneOffset], membership: object) -> Outcome:
        producer = self._producer
        if producer is None:
            raise RuntimeError("commit without an open transaction")
        positions = [TopicPartition(self._names.lanes_topic, one.lane, one.offset, one.metadata) for one in offsets]
        try:
            with self._measure_seconds():
                self._call(lambda: producer.send_offsets_to_transaction(positions, membership, self._call_seconds))
                self._flush(producer)
            if self._refused:
                return self._abort(producer, self._refused[0])
            with self._measure_seconds():
                self._call(lambda: producer.commit_transaction(self._call_seconds))
        except KafkaException as error:
            return self._abort(producer, error.args[0])
        self._batch_size.note_published(self._sent_bytes, self._seconds, self._transaction_seconds)
        return Published()

    def close(self) -> None:
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(self._call_seconds)
            self._producer = None

    @contextmanager
    def _measure_seconds(self) -> Iterator[None]:
        began = self._clock()
        try:
            yield
        finally:
            self._seconds += self._clock() - began

    def _call(self, call: Callable[[], Any]) -> None:
        call_with_timeout(call, self._call_seconds + _GIVE_UP_SECONDS)

    def _connect(self) -> Producer:
        if self._producer is None:
            # Each producer has its own transactional id: the membership in the group fences a relay, not the id.
            transactional_id = f"{self._names.relays_group}-{uuid.uuid4().hex}"
            batch = min(int(self._settings["batch.size"]), self._read_limit() // 10 * 9)
            producer = Producer({**self._settings, "batch.size": batch, "transactional.id": transactional_id})
            call_with_retry(
                lambda: self._call(lambda: producer.init_transactions(self._call_seconds)),
                retry_on=lambda error: isinstance(error, KafkaException) and error.args[0].retriable(),
                backoff=Backoff(0.05, 1.0),
                seconds=self._call_seconds,
            )
            self._producer = producer
        return self._producer

    def _read_limit(self) -> int:
        """How many bytes the topic takes per batch, and per event. Raises TopicDiffers, KafkaException."""
        try:
            return topics.read_message_limit(self._kafka, self._names.documents_topic, self._lanes)
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            if reason.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise
            raise KafkaException(KafkaError(reason.code(), reason.str(), retriable=True)) from error

    def _produce(
        self, producer: Producer, row: OutboxRow, on_delivery: Callable[[KafkaError | None, Any], None]
    ) -> None:
        envelope = row.envelope
        while True:
            try:
                producer.produce(
                    self._names.documents_topic,
                    partition=row.lane,
                    key=envelope.doc_id.encode(),
                    value=envelope.payload,
                    headers=_headers(row, self._source),
                    on_delivery=on_delivery,
                )
                return
            except BufferError:  # the local queue is full
                producer.poll(0.1)

    def _flush(self, producer: Producer) -> None:
        """Send all events, or end when Kafka refuses one: the client keeps the others until they time out."""
        deadline = time.monotonic() + self._call_seconds
        while producer.flush(_FLUSH_SECONDS) and not self._refused and time.monotonic() < deadline:
            pass

    def _abort(self, producer: Producer, reason: KafkaError) -> Undone | Fenced | Refused:
        """Abort the transaction and classify its error.

        No transactional call is repeated, even if its error allows it: see `call_with_timeout`. The committed offsets
        say later whether the transaction was committed.
        """
        self._batch_size.note_failed(self._sent_bytes, self._seconds, self._transaction_seconds)
        aborted = False
        if not reason.fatal():
            try:
                self._call(lambda: producer.abort_transaction(self._call_seconds))
                aborted = True
            except KafkaException as abort_error:  # the broker ends the transaction when its time is over
                reason = abort_error.args[0]
        refused = self._refused[0] if self._refused else reason if reason.code() in _REFUSED else None
        in_doubt = refused is None or not aborted
        self._producer = None
        if refused is not None:
            return Refused(refused.str(), in_doubt)
        if reason.code() in _FENCED:
            return Fenced(reason.str(), in_doubt)
        return Undone(reason.str(), in_doubt)


def call_with_timeout(call: Callable[[], Any], seconds: float) -> None:
    """Run a transactional call with a timeout.

    Raises a fatal KafkaException on timeout: the producer is unusable afterwards. librdkafka 2.16 may never return from
    `send_offsets_to_transaction` after Kafka was away, whatever its own time limit. The thread that runs the call is
    left behind; the broker aborts the transaction, because nothing commits it.
    """
    try:
        start_in_thread(call, "transaction").result(seconds)
    except TimeoutError as error:
        late = KafkaError(KafkaError._TIMED_OUT, f"no answer within {seconds:g} seconds", fatal=True, retriable=True)
        raise KafkaException(late) from error


def _headers(row: OutboxRow, source: str) -> list[tuple[str, str | bytes | None]]:
    """CloudEvents 1.0 in binary mode, with the version that fences the event, then the writer's own headers."""
    envelope = row.envelope
    own: list[tuple[str, str | bytes | None]] = [
        ("ce_specversion", "1.0"),
        ("ce_id", envelope.event_id),
        ("ce_source", source),
        ("ce_type", envelope.event_type),
        ("ce_time", row.created_at),
        ("ce_subject", envelope.doc_id),
        ("ce_sequence", str(envelope.version)),
        ("content-type", envelope.content_type),
    ]
    if envelope.headers:
        reserved = {name for name, _ in own}
        own += [(name, value) for name, value in envelope.headers.items() if name not in reserved]
    return own
