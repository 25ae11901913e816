"""A gap in the topic: events that were removed, by its retention, before the group read them.

librdkafka would go on at the oldest event without a word. Here a partition without a valid offset waits until the loss
is marked: a crash before that finds the gap again, because nothing after it is committed.
"""

import logging
import time
from collections.abc import Collection
from concurrent.futures import Future

from confluent_kafka import Consumer, KafkaException, TopicPartition

from consumers.subscription import OnGap, Partition
from schema.failures import Retryable
from schema.threads import start_in_thread

_log = logging.getLogger(__name__)

_CALL_SECONDS = 5.0
_AGAIN_SECONDS = 1.0


class TopicGaps:
    """The partitions of one member whose next offset the topic does not have. `on_gap`: see `Subscription`."""

    def __init__(self, on_gap: OnGap) -> None:
        self._on_gap = on_gap
        self._wanted: dict[Partition, int] = {}  # the offset that the topic does not have; 0: the group has none yet
        self._starts: dict[Partition, int] = {}  # where reading goes on once `_marking` has ended
        self._marking: Future[None] | None = None
        self._next_at = 0.0

    def note(self, partition: Partition, offset: int | None) -> None:
        """A partition has no valid offset; `offset` is the one that was asked for, negative or None without one."""
        self._wanted[partition] = max(offset or 0, 0)

    def forget(self, partitions: Collection[Partition]) -> None:
        """Partitions that belong to another member now."""
        for partition in partitions:
            self._wanted.pop(partition, None)
            self._starts.pop(partition, None)

    def close(self, consumer: Consumer) -> None:
        """Let the partitions go on whose loss is marked; start to mark others. Call it often; it returns soon."""
        if self._marking is not None:
            self._finish(consumer)
        elif self._wanted and time.monotonic() >= self._next_at:
            try:
                self._begin(consumer)
            except KafkaException as error:
                self._postpone(f"Kafka: {error.args[0].str()}")

    def _begin(self, consumer: Consumer) -> None:
        """Raises KafkaException."""
        lost = []
        for partition, wanted in self._wanted.items():
            low, high = consumer.get_watermark_offsets(TopicPartition(*partition), timeout=_CALL_SECONDS)
            self._starts[partition] = low
            if wanted < low or wanted > high:  # after the end: the partition was truncated, or made again
                lost.append(partition)
                name, number = partition
                _log.error("topic_gap topic=%s partition=%d from=%d to=%d", name, number, wanted, low)
        if not lost:  # a group that has committed nothing yet
            self._go_on(consumer)
            return
        numbers = sorted(number for _, number in lost)
        self._marking = start_in_thread(lambda: self._on_gap(numbers), "topic-gap")

    def _finish(self, consumer: Consumer) -> None:
        if self._marking is None or not self._marking.done():
            return
        ended, self._marking = self._marking, None
        try:
            ended.result()
        except Retryable as error:
            self._starts.clear()
            self._postpone(str(error))
        else:
            self._go_on(consumer)

    def _go_on(self, consumer: Consumer) -> None:
        starts = [TopicPartition(*partition, offset) for partition, offset in self._starts.items()]
        if starts:  # after such an error librdkafka does not seek
            consumer.incremental_unassign([TopicPartition(one.topic, one.partition) for one in starts])
            consumer.incremental_assign(starts)
        for partition in self._starts:
            self._wanted.pop(partition, None)
        self._starts.clear()

    def _postpone(self, reason: str) -> None:
        _log.warning("topic_gap_not_marked reason=%s", reason)
        self._next_at = time.monotonic() + _AGAIN_SECONDS
