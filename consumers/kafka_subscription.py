"""The subscription port on Kafka: one librdkafka consumer, cooperative-sticky, offsets committed by hand.

Events of other systems, which may share the topic, are skipped here.
"""

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, cast

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from consumers.foreign_events import ForeignEvents
from consumers.subscription import Message, OnGap, OnPartitions, Partition
from consumers.topic_gap import TopicGaps
from schema.kafka.clients import Membership, join_group
from schema.kafka.names import Names

_log = logging.getLogger(__name__)


class KafkaSubscription:
    """A member of the group of one sink on the documents' topic."""

    _revoke: OnPartitions
    _lose: OnPartitions
    _consumer: Consumer

    def __init__(
        self, kafka: Mapping[str, Any], names: Names, sink: str, *, on_gap: OnGap = lambda _numbers: None
    ) -> None:
        self._kafka = kafka
        self._membership = Membership()
        self._topic = names.documents_topic
        self._group = names.sink_group(sink)
        self.foreign = ForeignEvents(names.source)
        self._gaps = TopicGaps(on_gap)
        self._owned: set[Partition] = set()
        self._ends: dict[Partition, int] = {}  # the offset after everything that was fetched, where nothing is left
        self._paused = False

    def join(self, *, on_revoke: OnPartitions, on_lost: OnPartitions) -> None:
        self._revoke, self._lose = on_revoke, on_lost
        self._consumer = self._new_consumer()

    def poll(self, rows: int, seconds: float) -> Sequence[Message]:
        self._gaps.close(self._consumer)
        deadline = time.monotonic() + seconds
        while True:
            skipped = self.foreign.count
            messages = self._own_messages(self._consumer.consume(rows, max(0.0, deadline - time.monotonic())))
            if messages or self.foreign.count == skipped or time.monotonic() >= deadline:
                return messages  # events of other systems alone are no silence

    def _own_messages(self, records: Sequence[confluent_kafka.Message]) -> list[Message]:
        """The messages of this system from partitions that this member owns. Raises KafkaException."""
        messages = []
        for record in records:
            if (error := record.error()) is None:
                message = _message(record)
                self._ends.pop(message.partition, None)
                is_owned = message.partition in self._owned  # it may have been revoked since it was fetched
                if is_owned and not self.foreign.skip(message):
                    messages.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._note_end(record)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                self._note_gap(record)
            elif error.fatal():
                raise KafkaException(error)
            else:  # librdkafka retries by itself
                _log.warning("kafka_error reason=%s", error)
        return messages

    @property
    def owned(self) -> AbstractSet[Partition]:
        return frozenset(self._owned)

    @property
    def is_member(self) -> bool:
        """Whether the group knew this member when `ensure_member` was called last."""
        return self._membership.is_member

    def pause(self) -> None:
        self._paused = True
        self._consumer.pause(self._consumer.assignment())

    def resume(self) -> None:
        if self._paused:
            self._consumer.resume(self._consumer.assignment())
            self._paused = False

    def serve(self, seconds: float) -> None:
        record = self._consumer.poll(seconds)
        if record is None:
            return
        if (error := record.error()) is None:
            raise AssertionError("a paused partition gave a message")
        if error.code() == KafkaError._PARTITION_EOF:
            self._note_end(record)
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            self._note_gap(record)

    def store_offsets(self, messages: Sequence[Message]) -> None:
        for (topic, number), last in {message.partition: message for message in messages}.items():
            following = TopicPartition(topic, number, last.offset + 1, leader_epoch=last.leader_epoch)
            self._consumer.store_offsets(offsets=[following])

    def store_positions(self) -> None:
        ends = [TopicPartition(topic, number, offset) for (topic, number), offset in self._ends.items()]
        self._ends.clear()
        if ends:
            self._consumer.store_offsets(offsets=ends)

    def commit(self) -> None:
        try:
            self._consumer.commit(asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() != KafkaError._NO_OFFSET:
                _log.warning("offsets_not_committed reason=%s", error)

    def ensure_member(self) -> None:
        if self._membership.must_recreate(self._consumer):
            _log.warning("kafka_client_given_up group=%s", self._group)
            self._consumer.close()
            self._disown(set(self._owned))
            self._consumer = self._new_consumer()

    def leave(self) -> None:
        self.foreign.report()
        self._consumer.close()
        self._membership = Membership()
        self._paused = False
        self._disown(set(self._owned))

    def _new_consumer(self) -> Consumer:
        return join_group(
            self._kafka,
            {
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",  # a gap in the topic must be noticed: see TopicGaps
                "enable.partition.eof": True,  # the only way to learn a position after the end of a transaction
            },
            group=self._group,
            topic=self._topic,
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_assign(partitions)
        self._owned |= _keys_of(partitions)
        if not partitions:
            return
        if self._paused:
            consumer.pause(partitions)
        else:  # librdkafka remembers that a partition was paused when it was revoked
            consumer.resume(partitions)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._revoke(_keys_of(partitions))
        self._disown(_keys_of(partitions))
        consumer.incremental_unassign(partitions)

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._disown(_keys_of(partitions))
        self._lose(_keys_of(partitions))

    def _disown(self, partitions: set[Partition]) -> None:
        self._owned -= partitions
        self._gaps.forget(partitions)
        self._ends = {partition: offset for partition, offset in self._ends.items() if partition in self._owned}

    def _note_gap(self, record: confluent_kafka.Message) -> None:
        if (partition := _partition_of(record)) in self._owned:
            self._gaps.note(partition, record.offset())

    def _note_end(self, record: confluent_kafka.Message) -> None:
        partition, offset = _partition_of(record), record.offset()
        if partition in self._owned and offset is not None:
            self._ends[partition] = offset


def _partition_of(record: confluent_kafka.Message) -> Partition:
    return record.topic() or "", record.partition() or 0


def _keys_of(partitions: Collection[TopicPartition]) -> set[Partition]:
    return {(partition.topic, partition.partition) for partition in partitions}


def _message(record: confluent_kafka.Message) -> Message:
    headers = cast(list[tuple[str, str | bytes | None]], record.headers() or [])
    epoch = record.leader_epoch()
    return Message(
        _partition_of(record),
        record.offset() or 0,
        record.key(),
        record.value(),
        headers,
        -1 if epoch is None else epoch,
    )
