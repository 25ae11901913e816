"""Kafka as a relay sees it, in memory: one broker with transactions, committed offsets, and the group of relays.

Time stands still: a session ends when a test calls `expire`, an open transaction when it calls `end`.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum, auto

from relays.batch_size import MOST_BYTES
from relays.lanes import LaneStates
from relays.ports import Fenced, LaneOffset, OutboxRow, Outcome, Published, Refused, Undone
from schema.database.tables import LANES
from schema.events.events import Envelope


class Fault(Enum):
    """What happens to a commit whose answer never arrives."""

    COMMITTED = auto()
    ABORTED = auto()
    OPEN = auto()  # until the test ends the transaction


@dataclass(eq=False)
class Transaction:
    messages: list[Envelope] = field(default_factory=list)
    offsets: Sequence[LaneOffset] = ()
    refused: str | None = None
    state: str = "open"


@dataclass(frozen=True)
class GroupMembership:
    member_id: str
    generation: int


class MemoryBroker:
    """Tests set `refuses`, and append to `faults` and `before_commit`, of which each commit takes one."""

    def __init__(self) -> None:
        self.silent = False
        self.refuses: Callable[[OutboxRow], bool] = lambda _row: False
        self.faults: deque[Fault] = deque()
        self.before_commit: deque[Callable[[], None]] = deque()
        self.offsets: dict[int, LaneOffset] = {}
        self.transactions: list[Transaction] = []
        self.partitions: dict[int, list[tuple[Envelope, Transaction]]] = {lane: [] for lane in range(LANES)}
        self.generation = 0
        self._members: dict[str, MemoryLanes] = {}
        self._owners: dict[int, str] = {}  # lane → member id; a lane without an owner is free
        self._revoking: set[int] = set()  # the owner must give them up first
        self._member_ids = itertools.count(1)

    def lanes(self) -> "MemoryLanes":
        return MemoryLanes(self)

    def publisher(self) -> "MemoryPublisher":
        return MemoryPublisher(self)

    def read(self) -> list[Envelope]:
        """What a `read_committed` reader sees: of each partition, what is before the first open transaction."""
        return [
            envelope
            for partition in self.partitions.values()
            for envelope, transaction in itertools.takewhile(lambda one: one[1].state != "open", partition)
            if transaction.state == "committed"
        ]

    def end(self, transaction: Transaction, state: str) -> None:
        if transaction.state == "open":
            transaction.state = state
            if state == "committed":
                self.offsets |= {one.lane: one for one in transaction.offsets}

    def is_valid(self, membership: object) -> bool:
        return (
            isinstance(membership, GroupMembership)
            and membership.member_id in self._members
            and membership.generation == self.generation
        )

    def is_member(self, member_id: str) -> bool:
        return member_id in self._members

    def join(self, member: "MemoryLanes") -> str:
        member_id = f"member-{next(self._member_ids)}"
        self._members[member_id] = member
        self._rebalance()
        return member_id

    def release(self, lanes: Iterable[int]) -> None:
        """The owner gave up revoked lanes."""
        for lane in lanes:
            self._revoking.discard(lane)
            del self._owners[lane]
        self._rebalance()

    def expire(self, member_id: str) -> None:
        """Remove a member, because it left or because its session ended; it learns of that at its next poll."""
        del self._members[member_id]
        lanes = [lane for lane, owner in self._owners.items() if owner == member_id]
        self.release(lanes)

    def _rebalance(self) -> None:
        """Cooperative: a lane that moves is free only after its owner gave it up."""
        self.generation += 1
        quota = -(-LANES // max(len(self._members), 1))
        free = sorted(set(range(LANES)) - self._owners.keys())
        for member_id, member in self._members.items():
            kept = [lane for lane, owner in self._owners.items() if owner == member_id and lane not in self._revoking]
            extra, free_for_it = set(kept[quota:]), free[: max(quota - len(kept), 0)]
            free = free[len(free_for_it) :]
            self._revoking |= extra
            self._owners |= dict.fromkeys(free_for_it, member_id)
            member.events += [("revoke", extra)] * bool(extra) + [("assign", set(free_for_it))] * bool(free_for_it)


class MemoryLanes(LaneStates):
    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__()
        self.member_id = ""
        self.events: list[tuple[str, set[int]]] = []  # of rebalances, for the next poll
        self._broker = broker
        self._generation = 0

    def join(self) -> None:
        self.member_id = self._broker.join(self)

    def poll(self, seconds: float) -> None:
        if not self.member_id:
            self.join()
        elif not self._broker.is_member(self.member_id):
            self.member_id = ""
            self.events.clear()
            self._leave(self.owned | self.arriving)
        while self.events:
            event, lanes = self.events.pop(0)
            if event == "assign":
                self._arrive(lanes)
            else:
                self._leave(lanes)
                self._broker.release(lanes)

    @property
    def is_member(self) -> bool:
        return bool(self.member_id)

    def membership(self) -> GroupMembership | None:
        if not self.member_id:
            return None
        if self._broker.is_member(self.member_id):  # the client hears of generations by itself, of its end by a poll
            self._generation = self._broker.generation
        return GroupMembership(self.member_id, self._generation)

    def read_committed(self) -> dict[int, str]:
        if self._broker.silent:
            return {}
        pending = {one.lane for each in self._broker.transactions if each.state == "open" for one in each.offsets}
        metadata = {}
        for lane in sorted(self.arriving - pending):
            committed = self._broker.offsets.get(lane, LaneOffset(lane, 0, ""))
            self._keep_offset(lane, committed.offset)
            metadata[lane] = committed.metadata
        return metadata

    def has_lost(self, lanes: AbstractSet[int]) -> bool:
        self.poll(0)
        return not lanes <= self.owned | self.arriving

    def close(self) -> None:
        if self._broker.is_member(self.member_id):
            self._broker.expire(self.member_id)
        self.member_id = ""
        self.events.clear()
        self.owned.clear()
        self.arriving.clear()


class MemoryPublisher:
    batch_bytes = MOST_BYTES
    wait_seconds = 5.0

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._transaction: Transaction | None = None

    def send(self, rows: Sequence[OutboxRow]) -> Undone | None:
        if self._broker.silent:
            return Undone("no broker", in_doubt=False)
        self._transaction = transaction = Transaction()
        self._broker.transactions.append(transaction)
        for row in rows:
            if self._broker.refuses(row):
                transaction.refused = f"event {row.envelope.event_id} is refused"
            else:
                self._broker.partitions[row.lane].append((row.envelope, transaction))
        return None

    def commit(self, offsets: Sequence[LaneOffset], membership: object) -> Outcome:
        broker, transaction = self._broker, self._transaction
        assert transaction is not None
        self._transaction = None
        if broker.before_commit:
            broker.before_commit.popleft()()
        if transaction.refused is not None:
            broker.end(transaction, "aborted")
            return Refused(transaction.refused, in_doubt=False)
        if not broker.is_valid(membership):
            broker.end(transaction, "aborted")
            return Fenced("the membership is no longer valid", in_doubt=True)
        transaction.offsets = offsets
        fault = broker.faults.popleft() if broker.faults else None
        if fault is not Fault.OPEN:
            broker.end(transaction, "aborted" if fault is Fault.ABORTED else "committed")
        return Published() if fault is None else Undone("no answer", in_doubt=True)

    def abort(self, reason: str) -> Undone:
        self.close()
        return Undone(reason, in_doubt=False)

    def close(self) -> None:
        if self._transaction is not None:
            self._broker.end(self._transaction, "aborted")
            self._transaction = None
