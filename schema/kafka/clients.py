"""What every client of Kafka is told, and which of an operator's librdkafka properties concern which kind of client.

librdkafka warns of a property that its kind of client does not read.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Consumer, TopicPartition

_EVERY_CLIENT = {
    "reconnect.backoff.max.ms": 1_000,  # a broker that was away is found again so soon
    "socket.nagle.disable": True,
}
_SESSION_MILLISECONDS = 10_000  # how long the lanes or partitions of a process that died wait for others
_GIVE_UP_SECONDS = 30.0  # without a member id: longer than a group takes to change
_CONSUMER_ONLY = {
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "max.poll.interval.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.wait.max.ms",
    "max.partition.fetch.bytes",
    "queued.max.messages.kbytes",
    "queued.min.messages",
}
_PRODUCER_ONLY = {
    "batch.num.messages",
    "batch.size",
    "compression.codec",
    "compression.level",
    "compression.type",
    "delivery.timeout.ms",
    "linger.ms",
    "message.timeout.ms",
    "partitioner",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "request.timeout.ms",
    "sticky.partitioning.linger.ms",
    "transaction.timeout.ms",
}


OnPartitions = Callable[[Consumer, list[TopicPartition]], None]


class Membership:
    """Watches whether a consumer is a member of its group.

    A client that a broker told of no brokers while it started never finds one again: librdkafka 2.10 and later, its
    issue 5301. So one that has not been a member for a while has to be made anew, whatever the reason.
    """

    def __init__(self) -> None:
        self._seen = time.monotonic()

    def given_up(self, consumer: Consumer) -> bool:
        """Whether to make the consumer anew; ask often."""
        now = time.monotonic()
        if consumer.memberid():
            self._seen = now
        if now - self._seen < _GIVE_UP_SECONDS:
            return False
        self._seen = now
        return True


def join_group(
    properties: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    group: str,
    topic: str,
    on_assign: OnPartitions,
    on_revoke: OnPartitions,
    on_lost: OnPartitions,
) -> Consumer:
    """A consumer that is joining `group` on `topic`: cooperative-sticky, read_committed, offsets committed by hand.

    An operator's `properties` win over the session's defaults; `settings` win over both.
    """
    consumer = Consumer(
        {
            "session.timeout.ms": _SESSION_MILLISECONDS,
            "heartbeat.interval.ms": 1_000,  # how soon a member hears that another one came or left
            **for_consumer(properties),
            "group.id": group,
            "partition.assignment.strategy": "cooperative-sticky",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            **settings,
        }
    )
    consumer.subscribe([topic], on_assign=on_assign, on_revoke=on_revoke, on_lost=on_lost)
    return consumer


def for_producer(properties: Mapping[str, Any]) -> dict[str, Any]:
    return _EVERY_CLIENT | {name: value for name, value in properties.items() if name not in _CONSUMER_ONLY}


def for_consumer(properties: Mapping[str, Any]) -> dict[str, Any]:
    return _EVERY_CLIENT | {name: value for name, value in properties.items() if name not in _PRODUCER_ONLY}
