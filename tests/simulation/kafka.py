"""Kafka of a simulation: the broker of `tests.support.memory_kafka`, the producer below the shipped publisher, and the
topic as consumers read it.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from consumers.subscription import Headers, Message
from relays.ports import LaneOffset
from schema.database.tables import LANES
from schema.events.events import UPSERTED
from tests.simulation.scheduler import Port, Scheduler
from tests.support.memory_kafka import MemoryBroker, MemoryLanes, Transaction
from tests.support.memory_subscription import MemorySubscription, MemoryTopic

_TOPIC = "rag.documents"
_TRANSACTION_SECONDS = (0.5, 10.0)  # after which the broker aborts an open transaction
_LANES_CALLS = {"join", "read_committed", "has_lost", "close"}
_SUBSCRIPTION_CALLS = {"join", "poll", "serve", "commit", "leave"}


def _timed_out() -> Exception:
    return KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer", retriable=True))


def _fenced() -> Exception:
    return KafkaException(KafkaError(KafkaError._FENCED, "the transaction was aborted by the broker", fatal=True))


class Broker(MemoryBroker):
    """`records` are what producers sent, by partition; `log` is what a reader sees of it, and grows only.

    `on_commit` is called with each committed transaction, and `on_message` with each message that becomes visible.
    """

    def __init__(self, scheduler: Scheduler, random: Random) -> None:
        super().__init__()
        self.scheduler = scheduler
        self.random = random
        self.records: dict[int, list[tuple[Message, Transaction]]] = {lane: [] for lane in range(LANES)}
        self.log: dict[tuple[str, int], list[Message]] = {(_TOPIC, lane): [] for lane in range(LANES)}
        self.on_commit: Callable[[Transaction], None] = lambda _transaction: None
        self.on_message: Callable[[Message], None] = lambda _message: None
        self.fenced = 0
        self.refusal = 0.0  # the chance that an event is refused for good
        self.refused: set[str] = set()  # event ids
        self._judged: set[str] = set()
        self._read = dict.fromkeys(range(LANES), 0)  # records before the last stable offset

    def end(self, transaction: Transaction, state: str) -> None:
        if transaction.state != "open":
            return
        super().end(transaction, state)
        self.transactions.remove(transaction)
        if state == "committed":
            self.on_commit(transaction)
        self._move_stable_offsets()

    def _move_stable_offsets(self) -> None:
        for lane, records in self.records.items():
            read = self._read[lane]
            while read < len(records) and records[read][1].state != "open":
                message, transaction = records[read]
                read += 1
                if transaction.state == "committed":
                    log = self.log[message.partition]
                    visible = Message(message.partition, len(log), message.key, message.value, message.headers)
                    log.append(visible)
                    self.on_message(visible)
            self._read[lane] = read

    def is_refused(self, event_id: str) -> bool:
        if event_id not in self._judged:
            self._judged.add(event_id)
            if self.refusal and self.random.random() < self.refusal:
                self.refused.add(event_id)
        return event_id in self.refused


class Producer:
    """What the shipped publisher calls of a transactional producer."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._transaction = Transaction(state="aborted")

    def init_transactions(self, _seconds: float) -> None:
        """The transactional id is new."""

    def begin_transaction(self) -> None:
        self._transaction = transaction = Transaction()
        self._broker.transactions.append(transaction)
        seconds = self._broker.random.uniform(*_TRANSACTION_SECONDS)
        self._broker.scheduler.call_later(seconds, lambda: self._broker.end(transaction, "aborted"))

    def produce(
        self, _topic: str, *, partition: int, key: bytes, value: bytes, headers: Headers, on_delivery: Any
    ) -> None:
        message = Message((_TOPIC, partition), 0, key, value, headers)
        if message.envelope.event_type == UPSERTED and self._broker.is_refused(message.envelope.event_id):
            on_delivery(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "the event is too large"), None)
            return
        self._transaction.messages.append(message.envelope)
        self._broker.records[partition].append((message, self._transaction))

    def poll(self, _seconds: float) -> None:
        self._broker.scheduler.point("producer.produce done", _timed_out)

    def flush(self, _seconds: float) -> int:
        return 0

    def purge(self) -> None:
        """Nothing waits here."""

    def send_offsets_to_transaction(
        self, positions: Sequence[TopicPartition], membership: object, _seconds: float
    ) -> None:
        self._broker.scheduler.point("producer.offsets", _timed_out)
        if self._transaction.state != "open":
            raise self._fence(_fenced())
        if not self._broker.is_valid(membership):
            reason = KafkaError(KafkaError.ILLEGAL_GENERATION, "the membership is no longer valid")
            raise self._fence(KafkaException(reason))
        self._transaction.offsets = [LaneOffset(one.partition, one.offset, one.metadata or "") for one in positions]
        self._broker.scheduler.point("producer.offsets done", _timed_out)

    def commit_transaction(self, _seconds: float) -> None:
        self._broker.scheduler.point("producer.commit", _timed_out)
        if self._transaction.state != "open":
            raise self._fence(_fenced())
        self._broker.end(self._transaction, "committed")
        self._broker.scheduler.point("producer.commit done", _timed_out)

    def abort_transaction(self, _seconds: float) -> None:
        self._broker.scheduler.point("producer.abort", _timed_out)
        if self._transaction.state == "committed":
            raise KafkaException(KafkaError(KafkaError._STATE, "the transaction is committed"))
        self._broker.end(self._transaction, "aborted")
        self._broker.scheduler.point("producer.abort done", _timed_out)

    def _fence(self, error: Exception) -> Exception:
        self._broker.fenced += 1
        return error


class Lanes(Port):
    """Lanes whose calls are points, and whose `poll` takes its time."""

    def __init__(self, scheduler: Scheduler, target: MemoryLanes) -> None:
        super().__init__(scheduler, "lanes", target, _LANES_CALLS, None)

    def poll(self, seconds: float) -> None:
        self._scheduler.sleep(seconds)
        self._scheduler.point("lanes.poll")
        self._target.poll(seconds)


class Topic(MemoryTopic):
    """One sink's group on the broker's topic."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(LANES, _TOPIC)
        self.logs = broker.log

    @property
    def waiting(self) -> int:
        """The number of messages after the committed offsets."""
        return sum(len(log) - self.committed[partition] for partition, log in self.logs.items())


def open_subscription(scheduler: Scheduler, topic: Topic) -> tuple[MemorySubscription, Any]:
    """A member of the group, and its port."""
    member = MemorySubscription(topic, scheduler.sleep)
    return member, Port(scheduler, "subscription", member, _SUBSCRIPTION_CALLS, None)
