"""Counts the messages of a topic by their time."""

from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # no __all__

from schema.kafka.clients import for_producer
from schema.retry import Backoff, call_with_retry

_CALL_SECONDS = 10.0
_GIVE_UP_SECONDS = 15.0  # for a call that ignores its own time limit
_BACKOFF = Backoff(0.2, 0.4)


def count_since(kafka: Mapping[str, Any], topic: str, since: float) -> int:
    """How many messages without a transaction came at `since` (seconds, Unix) or later. Raises KafkaException."""
    admin = AdminClient(for_producer(kafka))
    return call_with_retry(  # a partition may have no leader for a moment
        lambda: _count(admin, topic, since),
        retry_on=lambda error: isinstance(error, KafkaException),
        backoff=_BACKOFF,
        seconds=_CALL_SECONDS,
    )


def _count(admin: AdminClient, topic: str, since: float) -> int:
    described = admin.list_topics(topic, timeout=_CALL_SECONDS).topics[topic]
    partitions = [TopicPartition(topic, one) for one in described.partitions]
    ends = _list(admin, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
    begins = _list(admin, partitions, OffsetSpec.for_timestamp(int(since * 1000)))
    return sum(ends[one] - begin for one, begin in begins.items() if begin >= 0)  # -1: none is that new


def _list(admin: AdminClient, partitions: list[TopicPartition], spec: OffsetSpec) -> dict[int, int]:
    """Offsets by partition."""
    if not partitions:
        return {}
    found = admin.list_offsets(dict.fromkeys(partitions, spec), request_timeout=_CALL_SECONDS)
    return {one.partition: future.result(_GIVE_UP_SECONDS).offset for one, future in found.items()}
