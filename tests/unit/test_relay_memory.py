"""The outbox and Kafka in memory keep the contracts of the real ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from relays.ports import LaneOffset, Lanes, Publisher
from tests.contracts.outbox import Append, DeadLetters, FailOver, OutboxContract
from tests.contracts.relay_kafka import TOO_LARGE, RelayKafkaContract, row
from tests.support.memory_kafka import MemoryBroker, Transaction
from tests.support.memory_outbox import MemoryOutbox

pytestmark = pytest.mark.unit


class TestMemoryOutbox(OutboxContract):
    @pytest.fixture
    def outbox(self) -> MemoryOutbox:
        return MemoryOutbox()

    @pytest.fixture
    def append(self, outbox: MemoryOutbox) -> Append:
        def append(doc_id: str, version: int, payload: bytes) -> None:
            outbox.append(doc_id, version, payload)

        return append

    @pytest.fixture
    def fail_over(self, outbox: MemoryOutbox) -> FailOver:
        return outbox.fail_over

    @pytest.fixture
    def dead_letters(self, outbox: MemoryOutbox) -> DeadLetters:
        return lambda: [
            (letter.envelope.doc_id, letter.envelope.version, letter.envelope.payload, letter.reason)
            for letter in outbox.dead.values()
        ]


class MemoryKafka:
    def __init__(self) -> None:
        self._broker = MemoryBroker()
        self._broker.refuses = lambda row: row.envelope.payload == TOO_LARGE

    def lanes(self) -> Lanes:
        return self._broker.lanes()

    def publisher(self) -> Publisher:
        return self._broker.publisher()

    def read_event_ids(self) -> list[str]:
        return [envelope.event_id for envelope in self._broker.read()]

    @contextmanager
    def open_transaction(self, lane: int, member: Lanes) -> Iterator[None]:
        transaction = Transaction(offsets=[LaneOffset(lane, 100, "open")])
        self._broker.transactions.append(transaction)
        self._broker.partitions[lane].append((row(0, lane).envelope, transaction))
        yield
        self._broker.end(transaction, "aborted")


class TestMemoryKafka(RelayKafkaContract):
    @pytest.fixture
    def kafka(self) -> MemoryKafka:
        return MemoryKafka()
