"""Where the topic is when a backup begins, and whether a restore can still rely on that."""

from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from operations.backup.manifest import TopicPosition
from operations.topic import TopicReader
from schema.failures import Retryable
from schema.kafka.clients import for_producer
from schema.kafka.names import Names

_CALL_SECONDS = 30.0

Bounds = Mapping[int, tuple[int, int]]


def read_position(names: Names, kafka: Mapping[str, Any], sinks: Sequence[str]) -> TopicPosition | None:
    """The position, to be read before the snapshot of the dump; None without a topic. Raises Retryable.

    A sink marks before it commits an offset: what is committed now is marked in the snapshot. What it commits later is
    not, so a restore begins where the slowest sink is now.
    """
    topic_id = read_topic_id(kafka, names.documents_topic)
    if topic_id is None:
        return None
    reader = TopicReader(names, kafka)
    committed = [reader.read_committed(sink) for sink in sinks]
    starts = {
        partition: min([high, *(offsets.get(partition, low) for offsets in committed)])
        for partition, (low, high) in reader.read_bounds().items()
    }
    return TopicPosition(names.documents_topic, topic_id, starts)


def read_topic_id(kafka: Mapping[str, Any], topic: str) -> str | None:
    """Kafka's own id of the topic: one that was made again has another. None if there is none. Raises Retryable."""
    admin = AdminClient({"log_level": 4, **for_producer(kafka)})
    [future] = admin.describe_topics(TopicCollection([topic]), request_timeout=_CALL_SECONDS).values()
    try:
        return str(future.result().topic_id)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise Retryable(f"Kafka: {error.args[0]}") from error


def find_loss(position: TopicPosition | None, topic_id: str | None, bounds: Bounds) -> str:
    """Why the topic cannot tell what happened since the backup; empty if it can."""
    if topic_id is None:
        return "there is no topic"
    if position is None:
        return "the backup does not know where the topic was"
    if position.topic_id != topic_id:
        return f"the topic {position.topic} was made again since the backup"
    for partition, start in sorted(position.starts.items()):
        low, high = bounds.get(partition, (0, 0))
        if start > high:
            return f"partition {partition} of {position.topic} ends at {high}, before {start}, where it was"
        if start < low:
            return f"partition {partition} of {position.topic} begins at {low}: events since {start} were removed"
    return ""
