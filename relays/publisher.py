"""Publish a batch: one Kafka transaction that holds its events and the offsets that name them.

Invariant 5: a reader with `read_committed` sees each event once; what a transaction did not commit, nobody sees.
"""

import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from relays import offset_metadata
from relays.lanes import Lanes
from relays.outbox_row import OutboxRow
from schema.kafka.clients import for_producer
from schema.kafka.names import Names
from schema.retry import Backoff, call_with_retry

_TRANSACTION_MILLISECONDS = 10_000  # how long one left open by a dead relay holds its lanes up
_CALL_SECONDS = 20.0  # longer than a transaction may take, and a relay that stood still is thrown out of its group
_ANSWER_SECONDS = 25.0  # a call that should have ended after _CALL_SECONDS is waited for
_SOURCE = "rag-outbox"
_REFUSED = {  # what Kafka says of an event that it will never take
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.POLICY_VIOLATION,
}
_FENCED = {  # what it says to a relay that stood still for too long
    KafkaError._FENCED,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.PRODUCER_FENCED,
    KafkaError.UNKNOWN_MEMBER_ID,
}


@dataclass(frozen=True)
class Published:
    """The transaction is committed."""


@dataclass(frozen=True)
class Undone:
    """The batch has to be claimed again: Kafka did not take it for now."""

    reason: str


@dataclass(frozen=True)
class Fenced:
    """Its lanes, or its transaction, were taken from this relay; whoever owns them knows what of it is committed."""

    reason: str


@dataclass(frozen=True)
class Refused:
    """Kafka rejects one of the events for good; nothing of the batch is visible."""

    reason: str


Outcome = Published | Undone | Fenced | Refused


class Publisher:
    """A transactional producer; it takes another one when its own is broken."""

    def __init__(self, names: Names, kafka: Mapping[str, Any]) -> None:
        self._names = names
        self._settings = {
            "linger.ms": 5,
            "batch.size": 1_000_000,
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
            "transaction.timeout.ms": _TRANSACTION_MILLISECONDS,
            "queue.buffering.max.messages": 1_000_000,
            "delivery.report.only.error": True,
            "retry.backoff.ms": 5,  # the broker may still be ending the transaction before
            **for_producer(kafka),
            "enable.idempotence": True,
            "acks": "all",
        }
        self._producer: Producer | None = None

    def publish(
        self, rows: Sequence[OutboxRow], lanes: Lanes, membership: Any, before_offsets: Callable[[], None]
    ) -> Outcome:
        """Publish rows of owned lanes, in order, all or none of them; `before_offsets` is called when they are sent."""
        try:
            producer = self._ready()
        except KafkaException as error:
            if not error.args[0].retriable():
                raise
            return Undone(error.args[0].str())
        refused: list[str] = []

        def failed(error: KafkaError | None, _message: Any) -> None:
            if error is not None and error.code() in _REFUSED:
                refused.append(error.str())

        try:
            producer.begin_transaction()
            for row in rows:
                self._produce(producer, row, failed)
            producer.poll(0)
            before_offsets()
            offsets = lanes.next_offsets(_metadata(rows))
            answered(lambda: producer.send_offsets_to_transaction(offsets, membership, _CALL_SECONDS))
            answered(lambda: producer.commit_transaction(_CALL_SECONDS))
        except KafkaException as error:
            return self._aborted(producer, lanes, rows, error, refused)
        lanes.advance({row.lane for row in rows})
        return Published()

    def close(self) -> None:
        """Abort what is open; what is committed stays."""
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(_CALL_SECONDS)
            self._producer = None

    def _ready(self) -> Producer:
        if self._producer is None:
            # A name of its own for each producer: fencing is by the group's membership, not by the name.
            name = f"{self._names.relays_group}-{uuid.uuid4().hex}"
            producer = Producer({**self._settings, "transactional.id": name})
            _patiently(lambda: answered(lambda: producer.init_transactions(_CALL_SECONDS)))
            self._producer = producer
        return self._producer

    def _produce(self, producer: Producer, row: OutboxRow, failed: Callable[[KafkaError | None, Any], None]) -> None:
        envelope = row.envelope
        while True:
            try:
                producer.produce(
                    self._names.documents_topic,
                    key=envelope.doc_id.encode(),
                    value=envelope.payload,
                    headers=_headers(row),
                    on_delivery=failed,
                )
                return
            except BufferError:  # the local queue is full
                producer.poll(0.1)

    def _aborted(
        self,
        producer: Producer,
        lanes: Lanes,
        rows: Sequence[OutboxRow],
        error: KafkaException,
        refused: Sequence[str],
    ) -> Undone | Fenced | Refused:
        """Abort the transaction, and tell what was wrong with it.

        No call is made again, even where its error says that it may be: see `answered`. The next producer asks Kafka
        what is committed.
        """
        reason: KafkaError = error.args[0]
        aborted = False
        if not reason.fatal():
            try:
                answered(lambda: producer.abort_transaction(_CALL_SECONDS))
                aborted = True
            except KafkaException as worse:  # the broker ends the transaction, one way or the other, in its time
                reason = worse.args[0]
        unusable = bool(refused) or reason.code() in _REFUSED
        if not (aborted and unusable):
            self._producer = None
            lanes.doubt()
        if unusable:
            return Refused(refused[0] if refused else reason.str())
        # A relay that stood still may hear of its own time-outs first, and of the group afterwards.
        fenced = reason.code() in _FENCED or lanes.taken({row.lane for row in rows})
        return Fenced(reason.str()) if fenced else Undone(reason.str())


def answered(call: Callable[[], Any], seconds: float = _ANSWER_SECONDS) -> None:
    """Make a call of a transaction; a fatal KafkaException after so many seconds, as its producer can do no more then.

    librdkafka 2.16 may never return from `send_offsets_to_transaction` when Kafka was away, whatever its time limit.
    The thread that waits for it stays behind; the broker aborts the transaction, as nothing commits it any more.
    """
    answer: Future[None] = Future()

    def work() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001  # raised where it is waited for
            answer.set_exception(error)
        else:
            answer.set_result(None)

    threading.Thread(target=work, name="transaction", daemon=True).start()
    try:
        answer.result(seconds)
    except TimeoutError as error:
        late = KafkaError(KafkaError._TIMED_OUT, f"no answer within {seconds:g} seconds", fatal=True, retriable=True)
        raise KafkaException(late) from error


def _metadata(rows: Sequence[OutboxRow]) -> dict[int, str]:
    """What the offset of each lane says: the rows of this batch. Those of the batch before are settled."""
    named: dict[int, list[offset_metadata.Named]] = defaultdict(list)
    for row in rows:
        named[row.lane].append((row.id, offset_metadata.checksum(row.envelope.event_id)))
    return {lane: offset_metadata.encode(some) for lane, some in named.items()}


def _headers(row: OutboxRow) -> list[tuple[str, str | bytes | None]]:
    """CloudEvents 1.0 in binary mode, the version that fences it, and what the writer added."""
    envelope = row.envelope
    own: list[tuple[str, str | bytes | None]] = [
        ("ce_specversion", "1.0"),
        ("ce_id", envelope.event_id),
        ("ce_source", _SOURCE),
        ("ce_type", envelope.event_type),
        ("ce_time", row.created_at),
        ("ce_subject", envelope.doc_id),
        ("ce_sequence", str(envelope.version)),
        ("content-type", envelope.content_type),
    ]
    if envelope.headers:
        taken = {name for name, _ in own}
        own += [(name, value) for name, value in envelope.headers.items() if name not in taken]
    return own


def _patiently(call: Callable[[], Any]) -> None:
    """Call again while the error says that the same call may succeed."""
    call_with_retry(
        call,
        retry_on=lambda error: isinstance(error, KafkaException) and error.args[0].retriable(),
        backoff=Backoff(0.05, 1.0),
        seconds=_CALL_SECONDS,
    )
