"""Relays over one outbox and one broker in memory, in one thread."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from relays.kafka import KafkaRelay
from schema.retry import Backoff
from tests.support.inline_executor import InlineExecutor
from tests.support.memory_kafka import MemoryBroker
from tests.support.memory_outbox import MemoryOutbox

MOST_ROUNDS = 1_000


class StopWhen(threading.Event):
    """Set as soon as a condition holds; waiting takes no time."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        super().__init__()
        self.waits: list[float | None] = []
        self._condition = condition
        self._rounds = 0

    def is_set(self) -> bool:
        self._rounds += 1
        assert self._rounds < MOST_ROUNDS
        return super().is_set() or self._condition()

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return self.is_set()


@dataclass
class System:
    """Start with `append`, then relay."""

    outbox: MemoryOutbox = field(default_factory=MemoryOutbox)
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    batches: list[int] = field(default_factory=list)  # rows per committed transaction

    def relay(self) -> KafkaRelay:
        return KafkaRelay(
            self.outbox,
            self.broker.lanes(),
            self.broker.publisher(),
            new_executor=lambda _name: InlineExecutor(),
            backoff=Backoff(uniform=lambda _low, high: high),
            report=lambda rows: self.batches.append(len(rows)),
        )

    def relay_until_empty(self, relay: KafkaRelay | None = None) -> None:
        (relay or self.relay()).run(StopWhen(lambda: not self.outbox.rows))

    def append(self, documents: int, versions: int = 1) -> list[tuple[str, int]]:
        written = [(f"d{number}", version) for version in range(1, versions + 1) for number in range(documents)]
        for doc_id, version in written:
            self.outbox.append(doc_id, version)
        return written

    def assert_published_once_and_in_order(self, written: Sequence[tuple[str, int]]) -> None:
        seen = [(envelope.doc_id, envelope.version) for envelope in self.broker.read()]
        assert sorted(seen) == sorted(written)
        for doc_id in {doc_id for doc_id, _ in written}:
            versions = [version for one, version in seen if one == doc_id]
            assert versions == sorted(versions), doc_id
