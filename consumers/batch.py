"""The messages in flight of a consumer: which ones are applied next, and up to where each partition is done.

Invariant 8: a position never passes a message that is not applied. Documents on which the sink fails are held back: the
messages behind them are applied first, except those of the same document.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from consumers.subscription import Message, Partition
from schema.failures import DeadLetter

BATCH_ROWS = 500
_BATCH_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class _Open:
    """A message that is not done; `before` is the place of the message before it, unless that one is stored."""

    message: Message
    before: Message | None


class Batch:
    """Messages of partitions that this consumer owns, in the order in which they were polled."""

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._held: set[str] = set()  # doc_ids
        self._last: dict[Partition, Message] = {}  # the place of the last message of each partition, done or not

    def __len__(self) -> int:
        return len(self._open)

    @property
    def room(self) -> int:
        """How many more messages it takes."""
        return BATCH_ROWS - len(self._open)

    @property
    def is_full(self) -> bool:
        return self.room <= 0 or sum(len(one.message.value or b"") for one in self._open) >= _BATCH_BYTES

    @property
    def partitions(self) -> set[Partition]:
        return {one.message.partition for one in self._open}

    @property
    def has_held(self) -> bool:
        return bool(self._held)

    def add(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._open.append(_Open(message, self._last.get(message.partition)))
            self._last[message.partition] = replace(message, key=None, value=None, headers=())

    def select(self, *, also_held: bool) -> list[Message]:
        """The messages to apply next."""
        return [one.message for one in self._open if also_held or one.message.envelope.doc_id not in self._held]

    def is_held(self, messages: Sequence[Message]) -> bool:
        """Whether all of these belong to documents that are held back."""
        return all(message.envelope.doc_id in self._held for message in messages)

    def find(self, messages: Sequence[Message]) -> list[Message]:
        """Those of the messages that are still in flight here."""
        ids = {id(one.message) for one in self._open}
        return [message for message in messages if id(message) in ids]

    def finish(self, done: Sequence[Message]) -> list[Message]:
        """Remove messages that are done. Returns the place up to which each of their partitions is done now."""
        ids = {id(message) for message in done}
        self._open = [one for one in self._open if id(one.message) not in ids]
        places = {message.partition: self._last[message.partition] for message in done}
        for one in reversed(self._open):
            partition = one.message.partition
            if partition not in places:
                continue
            if one.before is None:
                del places[partition]
            else:
                places[partition] = one.before
        unfinished = self.partitions
        self._last = {partition: last for partition, last in self._last.items() if partition in unfinished}
        return list(places.values())

    def hold(self, tried: Sequence[Message], failing: Collection[str]) -> None:
        """Hold back the failing documents, and no other one of those that were tried."""
        held = (self._held - {message.envelope.doc_id for message in tried}) | set(failing)
        self._held = held & {one.message.envelope.doc_id for one in self._open}

    def drop(self, partitions: Collection[Partition]) -> None:
        """Forget messages that belong to another consumer now."""
        self._open = [one for one in self._open if one.message.partition not in partitions]
        self._held &= {one.message.envelope.doc_id for one in self._open}
        self._last = {partition: last for partition, last in self._last.items() if partition not in partitions}


def keep_to_limit(
    messages: Sequence[Message], dead: Sequence[DeadLetter], room: int
) -> tuple[list[Message], list[tuple[Message, DeadLetter]]]:
    """Those of the messages that may be committed, and the dead letters among them, at most `room`.

    A letter too many holds up its partition from there on. Letters of other messages are left out: the next owner of
    their partitions sends them.
    """
    by_envelope = {id(letter.envelope): letter for letter in dead}
    held_up: set[Partition] = set()
    done: list[Message] = []
    letters: list[tuple[Message, DeadLetter]] = []
    for message in messages:
        letter = by_envelope.get(id(message.envelope))
        if letter is not None and len(letters) >= room:
            held_up.add(message.partition)
        if message.partition in held_up:
            continue
        done.append(message)
        if letter is not None:
            letters.append((message, letter))
    return done, letters
