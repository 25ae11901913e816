"""Create the topics with the settings that the pipeline needs; compare those that exist already."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic  # type: ignore[attr-defined]  # no __all__

from schema import limits
from schema.kafka.clients import for_producer
from schema.kafka.names import Names
from schema.retry import Backoff, call_with_retry
from schema.sinks import SINKS

_log = logging.getLogger(__name__)

_CALL_SECONDS = 30.0
_READ_SECONDS = 5.0  # by a relay, which serves its group afterwards
_APPEAR_SECONDS = 10.0  # a broker may not know a topic yet that `init` has just created
_CHECK_SECONDS = 3.0  # within the 5 seconds that a check of a process's health may take
_BACKOFF = Backoff(0.2, 0.4)
_REPLICAS = 3
_IN_SYNC = "min.insync.replicas"
_DAY = 24 * 3600 * 1000  # milliseconds
_MESSAGE_BYTES = 2 * limits.EVENT_BYTES  # an event, its headers, and a reserve for writers in other languages
_LEAST_MESSAGE_BYTES = limits.EVENT_BYTES + 64 * 1024  # the largest event of our writer with its headers


class TopicDiffers(Exception):
    """Raised when a topic is missing or cannot be used; the message names topic, setting and both values."""


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
    replicas = min(_REPLICAS, len(admin.list_topics(timeout=_CALL_SECONDS).brokers))
    topics = expected_topics(names, lanes, sinks)
    created = admin.create_topics(
        [
            NewTopic(
                topic.name,
                num_partitions=topic.partitions,
                replication_factor=replicas,
                config={**topic.settings, _IN_SYNC: str(_least_in_sync(replicas))},
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


def read_retention_ms(kafka: Mapping[str, Any], topic: str) -> int:
    """How long the topic keeps its records; -1: for ever. Raises KafkaException."""
    admin = AdminClient(for_producer(kafka))
    return int(_read_configs(admin, topic, _READ_SECONDS)["retention.ms"].value)


class RequiredTopics:
    """Checks that topics exist with a partition per lane: without them a relay or consumer waits in silence."""

    def __init__(self, kafka: Mapping[str, Any], topics: Collection[str], lanes: int) -> None:
        self._admin = AdminClient({"log_level": 4, **for_producer(kafka)})  # it warns, and does not tell of its end
        self._topics = list(topics)
        self._lanes = lanes
        self._problem: str | None = None

    def require(self) -> None:
        """For the start of a process. Raises TopicDiffers; see `check`."""
        call_with_retry(
            self._describe,
            retry_on=lambda error: isinstance(error, TopicDiffers),
            backoff=_BACKOFF,
            seconds=_APPEAR_SECONDS,
        )

    def check(self) -> None:
        """Raises TopicDiffers, and logs it once. Does nothing if no broker answers: the group's members show that."""
        try:
            self._describe()
        except TopicDiffers as error:
            if self._problem != str(error):
                _log.error("topic_unusable reason=%s", error)
            self._problem = str(error)
            raise
        self._problem = None

    def _describe(self) -> None:
        """Unlike a request for the metadata of a topic, this never creates it."""
        described = self._admin.describe_topics(TopicCollection(self._topics), request_timeout=_CHECK_SECONDS)
        for name, future in described.items():
            try:
                partitions = len(future.result().partitions)
            except KafkaException as error:
                if _unknown_topic(error):
                    raise TopicDiffers(f"there is no topic {name}: run rag-outbox init") from None
                continue
            if partitions != self._lanes:
                raise TopicDiffers(f"topic {name} has {partitions} partitions, and must have {self._lanes}")


def _least_in_sync(replicas: int) -> int:
    """How many replicas must hold a message before it is acknowledged: of three, one may be away."""
    return 2 if replicas >= _REPLICAS else 1


def judge_replicas(topic: str, replicas: int, in_sync: int) -> list[str]:
    """A line if the loss of one broker may lose events. Raises TopicDiffers if nothing can ever be published."""
    if in_sync > replicas:
        raise TopicDiffers(f"topic {topic} has {_IN_SYNC}={in_sync} and only {replicas} replicas: it takes no message")
    if in_sync < _least_in_sync(replicas):
        return [f"topic {topic} has {_IN_SYNC}={in_sync}: the loss of one broker may lose events; set it to 2"]
    return []


def _unknown_topic(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART


def _compare(admin: AdminClient, topic: Topic) -> list[str]:
    if topic.fixed:
        _require_partitions(admin, topic.name, topic.partitions)
    found = _read_configs(admin, topic.name)
    differences = judge_replicas(topic.name, _count_replicas(admin, topic.name), int(found[_IN_SYNC].value))
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


def _count_replicas(admin: AdminClient, topic: str) -> int:
    """The replicas of the partition that has the fewest."""
    partitions = admin.list_topics(topic, timeout=_CALL_SECONDS).topics[topic].partitions.values()
    return min(len(one.replicas) for one in partitions)


def _read_configs(admin: AdminClient, topic: str, seconds: float = _CALL_SECONDS) -> Any:
    """The topic's configuration, by name."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    return admin.describe_configs([resource], request_timeout=seconds)[resource].result()
