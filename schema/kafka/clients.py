"""Settings of every Kafka client, and which of an operator's librdkafka properties each kind of client gets.

librdkafka warns about a property that the kind of client does not use.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from schema.kafka import logs

_EVERY_CLIENT = {
    "reconnect.backoff.max.ms": 1_000,  # so a broker is found again within a second
    "socket.nagle.disable": True,
}
_SESSION_MILLISECONDS = 10_000  # how long a dead process keeps its lanes or partitions
_GIVE_UP_SECONDS = 30.0  # without a member id: longer than a rebalance takes
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


def session_seconds(properties: Mapping[str, Any]) -> float:
    """How long a member of a group may be silent before others get its partitions; later it commits no offset."""
    return float(properties.get("session.timeout.ms", _SESSION_MILLISECONDS)) / 1_000


class Membership:
    """Watches whether a consumer is a member of its group.

    A client that started before the broker was ready may never find a broker (librdkafka 2.10 and later, issue 5301).
    So a client that is not a member for 30 seconds is recreated, whatever the reason.
    """

    def __init__(self) -> None:
        self._seen = time.monotonic()
        self.is_member = False  # when `must_recreate` was called last

    def must_recreate(self, consumer: Consumer) -> bool:
        """Whether to recreate the consumer; call it often."""
        now = time.monotonic()
        self.is_member = bool(consumer.memberid())
        if self.is_member:
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
    """Create a consumer and join `group` on `topic`: cooperative-sticky, read_committed, manual offset commits.

    An operator's `properties` override the defaults of the session; `settings` override both.
    """
    consumer = Consumer(
        {
            "session.timeout.ms": _SESSION_MILLISECONDS,
            "socket.timeout.ms": 30_000,  # then a silent broker is disconnected
            "heartbeat.interval.ms": 1_000,  # how soon a member learns that another one joined or left
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
    """For a client that is not polled all the time: a producer, an administrator."""
    return (
        _EVERY_CLIENT
        | logs.for_rarely_polled()
        | {name: value for name, value in properties.items() if name not in _CONSUMER_ONLY}
    )


def for_consumer(properties: Mapping[str, Any]) -> dict[str, Any]:
    """For a client that reads: it is polled all the time."""
    return (
        _EVERY_CLIENT
        | logs.for_polled()
        | {name: value for name, value in properties.items() if name not in _PRODUCER_ONLY}
    )
