"""Dead letters of a consumer in memory."""

from collections.abc import Sequence
from dataclasses import replace

from consumers.dead_letters import headers_of
from consumers.subscription import Message
from schema.failures import DeadLetter


class MemoryDeadLetters:
    def __init__(self) -> None:
        self.stored: list[Message] = []

    def send(self, letters: Sequence[tuple[Message, DeadLetter]]) -> None:
        self.stored += [replace(message, headers=headers_of(message, letter)) for message, letter in letters]

    def count_stored(self) -> int:
        return len({message.envelope.event_id for message in self.stored})
