"""Create the topics with the settings that the pipeline needs; compare those that exist already."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic  # type: ignore[attr-defined]  # no __all__

from schema import limits
from schema.database.tables import LANES
from schema.kafka.names import Names
from schema.retry import Backoff, call_with_retry
from schema.sinks import SINKS

_CALL_SECONDS = 30.0
_BACKOFF = Backoff(0.2, 0.4)
_DOCUMENT_PARTITIONS = 12  # the most consumers per sink that have work
_DAY = 24 * 3600 * 1000  # milliseconds
_MESSAGE_BYTES = 2 * limits.EVENT_BYTES  # an event, its headers, and a reserve for writers in other languages


class TopicDiffers(Exception):
    """Raised by `init` when an existing topic cannot be used; the message names topic, setting and both values."""


@dataclass(frozen=True)
class Topic:
    """`partitions` is required exactly if `fixed`, else only used at creation. `settings` are topic configurations."""

    name: str
    partitions: int
    fixed: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)


def expected_topics(names: Names) -> list[Topic]:
    message = {"max.message.bytes": str(_MESSAGE_BYTES)}
    events = {"cleanup.policy": "delete", "retention.ms": str(7 * _DAY), "compression.type": "producer", **message}
    return [
        Topic(names.documents_topic, _DOCUMENT_PARTITIONS, settings=events),
        Topic(names.lanes_topic, LANES, fixed=True),
        *(
            Topic(names.dead_letters_topic(sink), 1, settings={**events, "retention.ms": str(30 * _DAY)})
            for sink in SINKS
        ),
    ]


def ensure(kafka: Mapping[str, Any], names: Names) -> list[str]:
    """Create missing topics; return harmless differences of existing ones. Raises TopicDiffers on a harmful one."""
    admin = AdminClient(dict(kafka))
    brokers = len(admin.list_topics(timeout=_CALL_SECONDS).brokers)
    topics = expected_topics(names)
    created = admin.create_topics(
        [
            NewTopic(
                topic.name,
                num_partitions=topic.partitions,
                replication_factor=min(3, brokers),
                config=dict(topic.settings),
            )
            for topic in topics
        ],
        operation_timeout=_CALL_SECONDS,
    )
    existing = []
    for topic in topics:
        try:
            created[topic.name].result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
            existing.append(topic)
    differences: list[str] = []
    for topic in existing:  # a broker may not know a topic yet that another process has just created
        compare = partial(_compare, admin, topic)
        differences += call_with_retry(compare, retry_on=_unknown_topic, backoff=_BACKOFF, seconds=_CALL_SECONDS)
    return differences


def _unknown_topic(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART


def _compare(admin: AdminClient, topic: Topic) -> list[str]:
    described = admin.list_topics(topic.name, timeout=_CALL_SECONDS).topics[topic.name]
    if described.error is not None:
        raise KafkaException(described.error)
    partitions = len(described.partitions)
    if topic.fixed and partitions != topic.partitions:
        raise TopicDiffers(f"topic {topic.name} has {partitions} partitions, and must have {topic.partitions}")
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic.name)
    found = admin.describe_configs([resource])[resource].result()
    differences = []
    for name, value in topic.settings.items():
        actual = found[name].value
        if name == "max.message.bytes" and int(actual) < limits.EVENT_BYTES:
            raise TopicDiffers(f"topic {topic.name} has {name}={actual}, and must have at least {limits.EVENT_BYTES}")
        if name == "cleanup.policy" and "compact" in actual:
            raise TopicDiffers(f"topic {topic.name} has {name}={actual}: compaction drops events that others need")
        if actual != value:
            differences.append(f"topic {topic.name} has {name}={actual}; init would have set {value}")
    return differences
