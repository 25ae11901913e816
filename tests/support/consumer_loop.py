"""The consumer loop in a test: ports in memory, no threads, virtual time."""

from collections.abc import Callable, Sequence
from typing import Any

from consumers.kafka import KafkaConsumer
from consumers.subscription import Message
from schema.events.events import Envelope
from schema.failures import DeadLetter, Retryable
from schema.retry import Backoff
from tests.support.inline_executor import InlineExecutor
from tests.support.memory_dead_letters import MemoryDeadLetters
from tests.support.memory_subscription import MemorySubscription, MemoryTopic


class Clock:
    def __init__(self) -> None:
        self.milliseconds = 0

    def __call__(self) -> float:
        return self.milliseconds / 1000

    def pass_time(self, seconds: float) -> None:
        self.milliseconds += round(1000 * seconds)


class ScriptedApplier:
    """Refuses events whose value is `refused`; before that, it calls and drops the next step of `script`."""

    name = "milvus"

    def __init__(self, *script: Callable[[], object]) -> None:
        self.script = list(script)
        self.batches: list[list[str]] = []

    def apply(self, envelopes: Sequence[Envelope], /) -> list[DeadLetter]:
        self.batches.append([envelope.doc_id for envelope in envelopes])
        if self.script:
            self.script.pop(0)()
        return [DeadLetter(self.name, one, "bad") for one in envelopes if one.payload == b"refused"]


def fail() -> None:
    raise Retryable("the sink is down")


class Loop(KafkaConsumer):
    """A consumer of `group` that has joined it."""

    def __init__(self, group: MemoryTopic, applier: Any, dead_letters: Any = None, **given: Any) -> None:
        self.clock = Clock()
        self.subscription = MemorySubscription(group, self.clock.pass_time)
        self.dead_letters = dead_letters or MemoryDeadLetters()
        mine: dict[str, Any] = {
            "executor": InlineExecutor(),
            "clock": self.clock,
            "backoff": Backoff(uniform=lambda _low, high: high),
        }
        super().__init__(applier, self.subscription, self.dead_letters, **(mine | given))
        self.join()

    def turn(self) -> None:
        """Once through the loop."""
        self.poll_batch()
        self.apply()
        self.commit()


def committed(group: MemoryTopic) -> int:
    """The number of committed messages."""
    return sum(group.committed.values())


def append(group: MemoryTopic, count: int) -> list[Message]:
    return [group.append(f"d{number}") for number in range(count)]
