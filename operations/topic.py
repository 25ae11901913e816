"""Read the topic of documents from its start to its end, next to the consumers: no group, no commits."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import confluent_kafka
import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from schema.events.events import JSON, MSGPACK
from schema.events.identity import doc_id_error
from schema.failures import Retryable
from schema.kafka.clients import for_consumer
from schema.kafka.names import Names
from schema.kafka.source import find_foreign_source
from schema.limits import LAST_VERSION
from schema.object_store import layout

_CALL_SECONDS = 30.0
_SILENT_SECONDS = 60.0  # without a message or an end
_POLL_SECONDS = 0.5
_ROWS = 50  # per call: a message may have 1 MiB
_BATCH_EVENTS = 1_000
_QUEUE_KILOBYTES = 16_384  # that librdkafka fetches ahead


@dataclass(frozen=True, slots=True)
class ReadEvent:
    """An event without its content; version 0 when it cannot be read. `files` are keys of the document."""

    doc_id: str
    partition: int
    offset: int
    version: int = 0
    part: int = 1
    history_id: str = ""
    files: tuple[str, ...] = ()


class _File(msgspec.Struct):
    object_key: str


class _Fields(msgspec.Struct):
    doc_id: str
    version: int
    history_id: str
    part: int = 1
    files: list[_File] = msgspec.field(default_factory=list)


_Decoder = msgspec.msgpack.Decoder[_Fields] | msgspec.json.Decoder[_Fields]
_DECODERS: Mapping[str, _Decoder] = {MSGPACK: msgspec.msgpack.Decoder(_Fields), JSON: msgspec.json.Decoder(_Fields)}


class TopicReader:
    """Reads the topic of documents once; `kafka` are librdkafka properties."""

    def __init__(self, names: Names, kafka: Mapping[str, Any]) -> None:
        self._names = names
        self._topic = names.documents_topic
        self._settings = {
            **for_consumer(kafka),
            "group.id": f"{names.namespace}-history-check",  # required by librdkafka; it is never joined
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",  # the oldest events are removed while they are read
            "queued.max.messages.kbytes": _QUEUE_KILOBYTES,
        }
        self._ends: dict[int, int] = {}  # partition → the offset to stop at; those that are read are gone

    @property
    def is_at_end(self) -> bool:
        return not self._ends

    def read_committed(self, sink: str) -> dict[int, int]:
        """The offset up to which the sink's group has consumed, per partition. Raises Retryable."""
        consumer = Consumer({**self._settings, "group.id": self._names.sink_group(sink)})  # it does not join
        try:
            partitions = [TopicPartition(self._topic, number) for number in self._describe(consumer)]
            committed = consumer.committed(partitions, timeout=_CALL_SECONDS)
        except KafkaException as error:
            raise Retryable(f"Kafka: {error.args[0]}") from error
        finally:
            consumer.close()
        return {one.partition: one.offset for one in committed if one.offset >= 0}

    def read_bounds(self) -> dict[int, tuple[int, int]]:
        """Per partition: the first offset that it still has, and the next one to be written. Raises Retryable."""
        consumer = Consumer(self._settings)
        try:
            partitions = [TopicPartition(self._topic, number) for number in self._describe(consumer)]
            return {one.partition: consumer.get_watermark_offsets(one, timeout=_CALL_SECONDS) for one in partitions}
        except KafkaException as error:
            raise Retryable(f"Kafka: {error.args[0]}") from error
        finally:
            consumer.close()

    def read(
        self, since: datetime | None, is_stopped: Callable[[], bool], starts: Mapping[int, int] | None = None
    ) -> Iterator[list[ReadEvent]]:
        """The events up to the end as of now, in bounded batches, until `is_stopped`.

        They begin at `since`, or at `starts` (partition → offset; one that is not given, at its start). Raises
        Retryable.
        """
        consumer = Consumer(self._settings)
        try:
            self._assign(consumer, since, starts or {})
            heard, events = time.monotonic(), []
            while self._ends and not is_stopped():
                records = consumer.consume(_ROWS, _POLL_SECONDS)
                events += [_decode(record) for record in records if self._take(record)]
                if events and (len(events) >= _BATCH_EVENTS or not self._ends or not records):
                    yield events
                    events = []
                if records:
                    heard = time.monotonic()
                elif time.monotonic() - heard > _SILENT_SECONDS:
                    raise Retryable(f"Kafka: nothing came from {self._topic} for {_SILENT_SECONDS:.0f} s")
        except KafkaException as error:
            raise Retryable(f"Kafka: {error.args[0]}") from error
        finally:
            consumer.close()

    def _assign(self, consumer: Consumer, since: datetime | None, offsets: Mapping[int, int]) -> None:
        partitions = self._describe(consumer)
        starts = [TopicPartition(self._topic, number, offsets.get(number, OFFSET_BEGINNING)) for number in partitions]
        if since is not None:
            at = int(since.timestamp() * 1_000)
            asked = [TopicPartition(self._topic, number, at) for number in partitions]
            starts = consumer.offsets_for_times(asked, timeout=_CALL_SECONDS)
        for start in starts:
            low, high = consumer.get_watermark_offsets(start, timeout=_CALL_SECONDS)
            if max(low, offsets.get(start.partition, low)) < high:
                self._ends[start.partition] = high
        consumer.assign([start for start in starts if start.partition in self._ends])

    def _describe(self, consumer: Consumer) -> list[int]:
        """The partitions of the topic."""
        described = consumer.list_topics(self._topic, timeout=_CALL_SECONDS).topics[self._topic]
        if described.error is not None:
            raise KafkaException(described.error)
        return list(described.partitions)

    def _take(self, record: confluent_kafka.Message) -> bool:
        """Whether this is an event before the end. Notes the ends of partitions."""
        number = record.partition() or 0
        if (error := record.error()) is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._ends.pop(number, None)
            elif error.fatal() or error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise KafkaException(error)
            return False  # librdkafka retries any other error by itself
        offset, end = record.offset() or 0, self._ends.get(number, 0)
        if offset + 1 >= end:
            self._ends.pop(number, None)
        headers = cast(list[tuple[str, str | bytes | None]], record.headers() or [])
        return offset < end and find_foreign_source(headers, self._names.source) is None


def _decode(record: confluent_kafka.Message) -> ReadEvent:
    key, value = record.key() or b"", record.value() or b""
    doc_id = key.decode(errors="replace") if isinstance(key, bytes) else key
    place = record.partition() or 0, record.offset() or 0
    headers = dict(record.headers() or [])
    content_type = headers.get("content-type", b"")
    decoder = _DECODERS.get(content_type.decode(errors="replace") if isinstance(content_type, bytes) else "")
    if decoder is None or doc_id_error(doc_id) is not None:
        return ReadEvent(doc_id, *place)
    try:
        fields = decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ReadEvent(doc_id, *place)
    if fields.doc_id != doc_id or not 1 <= fields.version <= LAST_VERSION:
        return ReadEvent(doc_id, *place)
    files = tuple(file.object_key for file in fields.files if layout.is_key_of(doc_id, file.object_key))
    return ReadEvent(doc_id, *place, fields.version, fields.part, fields.history_id, files)
