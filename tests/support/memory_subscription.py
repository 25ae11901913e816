"""A topic and its consumer group in memory, for loops that run without a network and in virtual time."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from zlib import crc32

from consumers.subscription import Headers, Message, OnGap, OnPartitions, Partition
from schema.failures import Retryable


class MemoryTopic:
    """The log of each partition, the group's members, and the offset after the last committed message."""

    def __init__(self, partitions: int = 4, name: str = "rag.documents") -> None:
        self.logs: dict[Partition, list[Message]] = {(name, number): [] for number in range(partitions)}
        self.committed = dict.fromkeys(self.logs, 0)
        self.first = dict.fromkeys(self.logs, 0)  # the oldest offset that each partition still has
        self.members: list[MemorySubscription] = []
        self.owners: dict[Partition, MemorySubscription] = {}

    def subscription(self, on_gap: OnGap = lambda _numbers: None) -> "MemorySubscription":
        return MemorySubscription(self, on_gap=on_gap)

    def remove_all(self) -> None:
        """Remove all messages, as the retention does."""
        self.first = {partition: len(log) for partition, log in self.logs.items()}

    def append(self, doc_id: str, value: bytes = b"", headers: Headers = ()) -> Message:
        partition = list(self.logs)[crc32(doc_id.encode()) % len(self.logs)]
        log = self.logs[partition]
        log.append(Message(partition, len(log), doc_id.encode(), value, headers))
        return log[-1]

    def expire(self, member: "MemorySubscription") -> None:
        """End the member's session: others may take its partitions before it knows."""
        self.members.remove(member)
        self.owners = {partition: owner for partition, owner in self.owners.items() if owner is not member}

    def intended(self, member: "MemorySubscription") -> set[Partition]:
        """The member's share once everybody has taken part in the rebalance."""
        if member not in self.members:
            return set()
        return set(list(self.logs)[self.members.index(member) :: len(self.members)])


class MemorySubscription:
    """A member. Rebalances happen in `poll` and `serve`; `pass_time` is called with the seconds that a wait takes."""

    def __init__(
        self,
        topic: MemoryTopic,
        pass_time: Callable[[float], None] = lambda _seconds: None,
        on_gap: OnGap = lambda _numbers: None,
    ) -> None:
        self.topic = topic
        self._on_gap = on_gap
        self.owned: set[Partition] = set()
        self.paused = False
        self._pass_time = pass_time
        self._positions: dict[Partition, int] = {}
        self._stored: dict[Partition, int] = {}

    def join(self, *, on_revoke: OnPartitions, on_lost: OnPartitions) -> None:
        self._revoke, self._lose = on_revoke, on_lost
        self.topic.members.append(self)

    def poll(self, rows: int, seconds: float) -> Sequence[Message]:
        self._rebalance()
        found: list[Message] = []
        for partition in () if self.paused else sorted(self.owned):
            position = self._positions[partition]
            if position < self.topic.first[partition]:
                continue
            found += self.topic.logs[partition][position : position + rows - len(found)]
            self._positions |= {message.partition: message.offset + 1 for message in found}
        if not found:
            self._pass_time(seconds)
        return found

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def serve(self, seconds: float) -> None:
        assert self.paused
        self._rebalance()
        self._pass_time(seconds)

    def store_offsets(self, messages: Sequence[Message]) -> None:
        assert {message.partition for message in messages} <= self.owned
        self._stored |= {message.partition: message.offset + 1 for message in messages}

    def store_positions(self) -> None:
        self._stored |= {partition: self._positions[partition] for partition in self.owned}

    def commit(self) -> None:
        if self in self.topic.members:
            self.topic.committed |= self._stored
            self._stored = {}

    def ensure_member(self) -> None:
        """Its client needs no replacement: `_rebalance` joins again at once."""

    def leave(self) -> None:
        self._give_up(self.owned)
        self.paused = False
        if self in self.topic.members:
            self.topic.members.remove(self)

    def _rebalance(self) -> None:
        if self not in self.topic.members:
            lost, self.owned, self._stored = self.owned, set(), {}
            self._lose(lost)
            self.topic.members.append(self)
        intended = self.topic.intended(self)
        if self.owned - intended:
            self._give_up(self.owned - intended)
        for partition in self.topic.intended(self) - self.topic.owners.keys():
            self.topic.owners[partition] = self
            self.owned.add(partition)
            self._positions[partition] = self.topic.committed[partition]
        for partition in self.owned:
            if self._positions[partition] < self.topic.first[partition]:
                with suppress(Retryable):
                    self._on_gap([partition[1]])
                    self._positions[partition] = self.topic.first[partition]

    def _give_up(self, partitions: set[Partition]) -> None:
        self._revoke(partitions)
        for partition in partitions:
            if self.topic.owners.get(partition) is self:  # its session may have ended in `_revoke`
                del self.topic.owners[partition]
            self._stored.pop(partition, None)
        self.owned = self.owned - partitions
