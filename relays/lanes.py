"""The lanes that a relay owns: partitions of an empty topic, assigned by Kafka's own consumer group protocol.

Invariant 5: every transaction carries the membership under which its lanes were owned, so the broker refuses one of a
relay that lost them.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schema.failures import Retryable
from schema.kafka.clients import Membership, join_group
from schema.kafka.names import Names

_log = logging.getLogger(__name__)

_ASK_SECONDS = 1.0  # for committed offsets, where a time-out says that a transaction on them is open; for lost lanes


class Lanes:
    """Membership in the group of relays. Call `poll` at least every few minutes, from one thread."""

    def __init__(self, names: Names, kafka: Mapping[str, Any]) -> None:
        self._topic = names.lanes_topic
        self._group = names.relays_group
        self._kafka = kafka
        self.owned: set[int] = set()  # taken over: rows that an earlier owner published are settled
        self.arriving: set[int] = set()  # assigned, and not yet taken over
        self._offsets: dict[int, int] = {}
        self._member = Membership()
        self._consumer = self._joined()

    def poll(self, seconds: float) -> None:
        """Serve the group for at most so long. Raises Retryable when the broker cannot be reached."""
        message = self._consumer.poll(seconds)
        if message is not None and (error := message.error()) is not None and error.fatal():
            raise KafkaException(error)
        if self._member.given_up(self._consumer):
            _log.warning("kafka_client_given_up group=%s", self._group)
            self._consumer.close()
            self.owned.clear()
            self.arriving.clear()
            self._consumer = self._joined()

    def membership(self) -> Any | None:
        """What a transaction must carry; None while there is no valid one."""
        metadata = self._consumer.consumer_group_metadata()
        # A member that was thrown out has an empty id, and the broker would not fence it; asked after, so that it
        # cannot have happened in between.
        return metadata if self._consumer.memberid() else None

    def committed(self) -> dict[int, str]:
        """Of each arriving lane, what its last committed offset says. Raises Retryable while one is being committed."""
        asked = [TopicPartition(self._topic, lane) for lane in sorted(self.arriving)]
        try:
            answers = self._consumer.committed(asked, timeout=_ASK_SECONDS)
        except KafkaException as error:
            raise Retryable(f"committed offsets of the lanes: {error}") from error
        said = {}
        for answer in answers:
            if answer.error is not None:
                raise Retryable(f"committed offset of lane {answer.partition}: {answer.error}")
            self._offsets[answer.partition] = max(answer.offset, 0)
            said[answer.partition] = answer.metadata or ""
        return said

    def take_over(self, lanes: Iterable[int]) -> None:
        """These lanes' published rows are settled; their new rows may be claimed."""
        taken = set(lanes) & self.arriving
        self.arriving -= taken
        self.owned |= taken

    def taken(self, lanes: set[int]) -> bool:
        """Whether the group has given any of these lanes to others; after a stand-still that takes a moment to hear."""
        self.poll(_ASK_SECONDS)
        return not lanes <= self.owned | self.arriving

    def doubt(self) -> None:
        """It is not known whether the last transaction committed: ask, as after a takeover."""
        self.arriving |= self.owned
        self.owned.clear()

    def next_offsets(self, metadata: Mapping[int, str]) -> list[TopicPartition]:
        """The offsets to commit with a transaction: each lane's counter, moved on, and what it says."""
        return [TopicPartition(self._topic, lane, self._offsets[lane] + 1, text) for lane, text in metadata.items()]

    def advance(self, lanes: Iterable[int]) -> None:
        """The offsets of these lanes are committed."""
        for lane in lanes:
            self._offsets[lane] += 1

    def close(self) -> None:
        """Leave the group: the others take the lanes over at once."""
        self._consumer.close()

    def _joined(self) -> Consumer:
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
        self.arriving |= {partition.partition for partition in partitions}
        _log.info("lanes_assigned lanes=%s", sorted(self.arriving))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        gone = {partition.partition for partition in partitions}
        self.owned -= gone
        self.arriving -= gone
        try:
            consumer.incremental_unassign(partitions)
        except KafkaException as error:  # lost: nothing is assigned any more
            if error.args[0].code() != KafkaError._STATE:
                raise
        _log.info("lanes_revoked lanes=%s", sorted(gone))
