"""Create the topics with the settings that the pipeline needs; compare those that exist already."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic  # type: ignore[attr-defined]  # no __all__

from schema import limits
from schema.kafka.clients import for_producer
from schema.kafka.names import Names
from schema.retry import Backoff, call_with_retry
from schema.sinks import SINKS

_CALL_SECONDS = 30.0
_READ_SECONDS = 5.0  # by a relay, which serves its group afterwards
_BACKOFF = Backoff(0.2, 0.4)
_DAY = 24 * 3600 * 1000  # milliseconds
_MESSAGE_BYTES = 2 * limits.EVENT_BYTES  # an event, its headers, and a reserve for writers in other languages
_LEAST_MESSAGE_BYTES = limits.EVENT_BYTES + 64 * 1024  # the largest event of our writer with its headers


class TopicDiffers(Exception):
    """Raised by `init` when an existing topic cannot be used; the message names topic, setting and both values."""


@dataclass(frozen=True)
class Topic:
    """`partitions` is required exactly if `fixed`, else only used at creation. `settings` are topic configurations."""

    name: str
    partitions: int
    fixed: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)


def expected_topics(names: Names, lanes: int, sinks: Collection[str] = SINKS) -> list[Topic]:
    """A lane is a partition, in the topic of documents as well as in that of the relays."""
    message = {"max.message.bytes": str(_MESSAGE_BYTES)}
    events = {"cleanup.policy": "delete", "retention.ms": str(7 * _DAY), "compression.type": "producer", **message}
    return [
        Topic(names.documents_topic, lanes, fixed=True, settings=events),
        Topic(names.lanes_topic, lanes, fixed=True),
        *(
            Topic(names.dead_letters_topic(sink), 1, settings={**events, "retention.ms": str(30 * _DAY)})
            for sink in sinks
        ),
    ]


def ensure(kafka: Mapping[str, Any], names: Names, lanes: int, sinks: Collection[str] = SINKS) -> list[str]:
    """Create missing topics; return harmless differences of existing ones. Raises TopicDiffers on a harmful one."""
    admin = AdminClient(for_producer(kafka))
    brokers = len(admin.list_topics(timeout=_CALL_SECONDS).brokers)
    topics = expected_topics(names, lanes, sinks)
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


def read_message_limit(kafka: Mapping[str, Any], topic: str, lanes: int) -> int:
    """The topic's max.message.bytes. Raises TopicDiffers unless it has a partition per lane, KafkaException."""
    admin = AdminClient(for_producer(kafka))
    _require_partitions(admin, topic, lanes, _READ_SECONDS)
    return int(_read_configs(admin, topic, _READ_SECONDS)["max.message.bytes"].value)


def _unknown_topic(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART


def _compare(admin: AdminClient, topic: Topic) -> list[str]:
    if topic.fixed:
        _require_partitions(admin, topic.name, topic.partitions)
    found = _read_configs(admin, topic.name)
    differences = []
    for name, value in topic.settings.items():
        actual = found[name].value
        if name == "max.message.bytes" and int(actual) < _LEAST_MESSAGE_BYTES:
            raise TopicDiffers(f"topic {topic.name} has {name}={actual}, and must have at least {_LEAST_MESSAGE_BYTES}")
        if name == "cleanup.policy" and "compact" in actual:
            raise TopicDiffers(f"topic {topic.name} has {name}={actual}: compaction drops events that others need")
        if actual != value:
            differences.append(f"topic {topic.name} has {name}={actual}; init would have set {value}")
    return differences


def _require_partitions(admin: AdminClient, topic: str, partitions: int, seconds: float = _CALL_SECONDS) -> None:
    described = admin.list_topics(topic, timeout=seconds).topics[topic]
    if described.error is not None:
        raise KafkaException(described.error)
    if len(described.partitions) != partitions:
        raise TopicDiffers(f"topic {topic} has {len(described.partitions)} partitions, and must have {partitions}")


def _read_configs(admin: AdminClient, topic: str, seconds: float = _CALL_SECONDS) -> Any:
    """The topic's configuration, by name."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    return admin.describe_configs([resource], request_timeout=seconds)[resource].result()
