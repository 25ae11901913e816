"""The lanes that a relay owns: partitions of an empty topic, assigned by Kafka's own consumer group protocol.

Invariant 5: every transaction carries the membership under which its lanes were owned, so Kafka fences a relay that
lost them.
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from relays.ports import LaneOffset
from schema.kafka.clients import Membership, join_group
from schema.kafka.names import Names

_log = logging.getLogger(__name__)

_ANSWER_SECONDS = 1.0  # for committed offsets, and for lost lanes
_ANSWER_AGAIN_SECONDS = 0.2  # for a lane that did not answer before, because a transaction on it is open


class LaneStates:
    """Which lanes are owned, which arrive, and their committed offsets, whatever assigns the lanes.

    A lane's offset must have been read since the lane arrived; an older one may miss what others published.
    """

    def __init__(self) -> None:
        self.owned: set[int] = set()
        self.arriving: set[int] = set()
        self.arrivals = 0
        self._read: set[int] = set()  # lanes whose committed offset was read since they arrived
        self._offsets: dict[int, int] = {}

    def take_over(self, lanes: Collection[int]) -> None:
        settled = set(lanes) & self.arriving & self._read
        self.arriving -= settled
        self.owned |= settled

    def doubt(self) -> None:
        self._arrive(self.owned)
        self.owned.clear()

    def next_offsets(self, metadata: Mapping[int, str]) -> list[LaneOffset]:
        return [LaneOffset(lane, self._offsets[lane] + 1, text) for lane, text in metadata.items()]

    def advance(self, offsets: Collection[LaneOffset]) -> None:
        self._offsets |= {one.lane: one.offset for one in offsets}

    def _arrive(self, lanes: Iterable[int]) -> None:
        if arrived := set(lanes):  # a rebalance may assign nothing
            self.arriving |= arrived
            self._read -= arrived
            self.arrivals += 1

    def _leave(self, lanes: Iterable[int]) -> None:
        self.owned.difference_update(lanes)
        self.arriving.difference_update(lanes)

    def _keep_offset(self, lane: int, offset: int) -> None:
        self._offsets[lane] = offset
        self._read.add(lane)


class KafkaLanes(LaneStates):
    """Lanes as a member of the relays' consumer group."""

    def __init__(self, names: Names, kafka: Mapping[str, Any]) -> None:
        super().__init__()
        self._topic = names.lanes_topic
        self._group = names.relays_group
        self._kafka = kafka
        self._unanswered: list[int] = []  # lanes without an answer; the next to ask is the first
        self._member = Membership()
        self._consumer: Consumer  # made by `join`

    def join(self) -> None:
        self._consumer = self._join_group()

    def poll(self, seconds: float) -> None:
        message = self._consumer.poll(seconds)
        if message is not None and (error := message.error()) is not None and error.fatal():
            raise KafkaException(error)
        if self._member.must_recreate(self._consumer):
            _log.warning("kafka_client_given_up group=%s", self._group)
            self.close()
            self.join()

    @property
    def is_member(self) -> bool:
        return self._member.is_member

    def membership(self) -> object | None:
        metadata: object = self._consumer.consumer_group_metadata()
        # A member that was expelled has no id, and the broker would not fence its metadata. The id is asked for last,
        # so that the member cannot have been expelled before its metadata was read.
        return metadata if self._consumer.memberid() else None

    def read_committed(self) -> dict[int, str]:
        """Ask for new lanes together; when that fails, lane by lane, up to the first that does not answer.

        The client answers only when none of the lanes is in an open transaction.
        """
        self._unanswered = [lane for lane in self._unanswered if lane in self.arriving]
        together = sorted(self.arriving.difference(self._unanswered))
        metadata = self._ask(together, _ANSWER_SECONDS) if together else {}
        self._unanswered += [lane for lane in together if lane not in metadata]
        while self._unanswered:
            lane = self._unanswered.pop(0)
            answer = self._ask([lane], _ANSWER_AGAIN_SECONDS)
            if not answer:
                self._unanswered.append(lane)
                break
            metadata |= answer
        return metadata

    def _ask(self, lanes: Collection[int], seconds: float) -> dict[int, str]:
        """The metadata of the lanes whose committed offsets can be read."""
        try:
            answers = self._consumer.committed([TopicPartition(self._topic, lane) for lane in lanes], timeout=seconds)
        except KafkaException as error:
            _log.debug("committed_offsets_unread lanes=%s reason=%s", lanes, error)
            return {}
        metadata = {}
        for answer in answers:
            if answer.error is None:
                self._keep_offset(answer.partition, max(answer.offset, 0))
                metadata[answer.partition] = answer.metadata or ""
        return metadata

    def has_lost(self, lanes: AbstractSet[int]) -> bool:
        self.poll(_ANSWER_SECONDS)
        return not lanes <= self.owned | self.arriving

    def close(self) -> None:
        self._consumer.close()
        self._member = Membership()
        self.owned.clear()
        self.arriving.clear()

    def _join_group(self) -> Consumer:
        return join_group(
            self._kafka,
            {"auto.offset.reset": "error"},
            group=self._group,
            topic=self._topic,
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_assign(partitions)
        if partitions:
            consumer.pause(partitions)
        self._arrive(partition.partition for partition in partitions)
        _log.info("lanes_assigned lanes=%s", sorted(self.arriving))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        gone = {partition.partition for partition in partitions}
        self._leave(gone)
        try:
            consumer.incremental_unassign(partitions)
        except KafkaException as error:  # the lanes are lost: nothing is assigned
            if error.args[0].code() != KafkaError._STATE:
                raise
        _log.info("lanes_revoked lanes=%s", sorted(gone))
