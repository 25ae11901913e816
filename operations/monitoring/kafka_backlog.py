"""The backlog in Kafka: how far each group is behind its topic, and which lanes and partitions nobody works on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # it lacks __all__

from operations.monitoring.backlog import GroupBacklog, Partition
from schema.failures import Retryable
from schema.kafka.clients import for_producer
from schema.kafka.names import Names

_ANSWER_SECONDS = 10.0
_GIVE_UP_SECONDS = 15.0  # for a call that ignores its own time limit


class KafkaBacklog:
    """Reads with one client that stays connected. The documents' topic has a partition per lane.

    `find_sinks` returns the names of the sinks as they are now.
    """

    def __init__(
        self, kafka: Mapping[str, Any], names: Names, lanes: int, find_sinks: Callable[[], Sequence[str]]
    ) -> None:
        self._admin = AdminClient(for_producer(kafka))
        self._names = names
        self._lanes = lanes
        self._find_sinks = find_sinks

    def read(self) -> dict[str, GroupBacklog]:
        """By group, that of the relays first. Raises Retryable."""
        try:
            return self._read()
        except KafkaException as error:
            raise Retryable(f"Kafka: {error.args[0].str()}") from error
        except TimeoutError as error:  # of a future; the request's own limit is shorter
            raise Retryable("Kafka: no answer") from error

    def _read(self) -> dict[str, GroupBacklog]:
        relays_group, groups = self._names.relays_group, [self._names.sink_group(sink) for sink in self._find_sinks()]
        described = self._describe([relays_group, *groups])
        partitions = [TopicPartition(self._names.documents_topic, number) for number in range(self._lanes)]
        first = self._list(partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        last = self._list(partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        found = {relays_group: GroupBacklog({}, *self._count_members(described[relays_group], self._names.lanes_topic))}
        for group in groups:
            committed = self._read_committed(group, partitions)
            lag = {
                key: max(0, last[key] - max(committed.get(key, 0), first[key]))
                for key in ((one.topic, one.partition) for one in partitions)
            }
            found[group] = GroupBacklog(lag, *self._count_members(described[group], self._names.documents_topic))
        return found

    def _describe(self, groups: Sequence[str]) -> dict[str, Any]:
        asked = self._admin.describe_consumer_groups(list(groups), request_timeout=_ANSWER_SECONDS)
        return {group: answer.result(_GIVE_UP_SECONDS) for group, answer in asked.items()}

    def _count_members(self, described: Any, topic: str) -> tuple[int, int, dict[str, list[int]]]:
        """The number of members, that of partitions without one, and the partitions of each member."""
        taken = {
            f"{member.member_id}{member.host}": [
                one.partition
                for one in (member.assignment.topic_partitions if member.assignment is not None else ())
                if one.topic == topic
            ]
            for member in described.members
        }
        assigned = {partition for partitions in taken.values() for partition in partitions}
        return len(described.members), self._lanes - len(assigned), taken

    def _list(self, partitions: Sequence[TopicPartition], spec: OffsetSpec) -> dict[Partition, int]:
        asked = self._admin.list_offsets(
            dict.fromkeys(partitions, spec),
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=_ANSWER_SECONDS,
        )
        return {(one.topic, one.partition): answer.result(_GIVE_UP_SECONDS).offset for one, answer in asked.items()}

    def _read_committed(self, group: str, partitions: Sequence[TopicPartition]) -> dict[Partition, int]:
        asked = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group, list(partitions))], request_timeout=_ANSWER_SECONDS
        )
        answer = asked[group].result(_GIVE_UP_SECONDS)
        return {(one.topic, one.partition): one.offset for one in answer.topic_partitions if one.offset >= 0}
