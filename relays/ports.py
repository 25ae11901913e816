"""What a relay needs of its outbox, of the group that shares the lanes, and of Kafka's transactions.

Each implementation passes the contract suite of its port in `tests/contracts/`.
"""

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

import msgspec

from schema.events.events import Envelope
from schema.failures import DeadLetter


class OutboxRow(msgspec.Struct, frozen=True, gc=False):  # thousands at a time, none in a cycle
    id: int
    lane: int
    created_at: str  # RFC 3339, UTC
    envelope: Envelope
    history_id: str  # the history of the database when the row was claimed


Named = tuple[int, int]  # a published row: outbox id, checksum of the event id


@dataclass(frozen=True)
class LaneOffset:
    """What a transaction commits for a lane: a counter, and metadata that names the rows published."""

    lane: int
    offset: int
    metadata: str


@dataclass(frozen=True)
class Published:
    """The transaction is committed."""


@dataclass(frozen=True)
class Undone:
    """Kafka rejected the batch temporarily; claim it again.

    `in_doubt`: the outcome of the transaction is unknown until the committed offsets are read again.
    """

    reason: str
    in_doubt: bool


@dataclass(frozen=True)
class Fenced:
    """This relay lost its lanes or its transaction; the owner of the lanes knows what is committed."""

    reason: str
    in_doubt: bool


@dataclass(frozen=True)
class Refused:
    """Kafka rejects one of the events permanently; nothing of the batch is visible."""

    reason: str
    in_doubt: bool


Outcome = Published | Undone | Fenced | Refused


class Outbox(Protocol):
    """Claims always start at the oldest row (invariant 4). Each method is one transaction."""

    def open(self) -> None:
        """Prepare the connections of a relay to Kafka."""

    def probe(self) -> None:
        """Close the connections, and raise unless the database answers on a new one."""

    def start_history(self) -> None:
        """Start a new history if this database is an older copy or on another server: before anything is claimed."""

    def note_relayed(self, outbox_id: int) -> None:
        """Note durably that rows up to this id are about to reach the sinks."""

    def claim_oldest(self, rows: int, size_bytes: int) -> list[OutboxRow]:
        """Read the oldest rows of all lanes in id order, bounded in rows and bytes."""

    def claim_lanes(
        self, lanes: Collection[int], in_flight: Collection[OutboxRow], rows_per_lane: int, size_bytes: int
    ) -> list[OutboxRow]:
        """Read the oldest rows of each lane that are not in flight, in id order, bounded per lane and in bytes."""

    def settle(self, rows: Sequence[OutboxRow], dead: Sequence[DeadLetter] = ()) -> None:
        """Remove claimed rows, and store dead letters of some of them. Idempotent.

        In another history than that of the claim, an id may belong to another row: that row stays.
        """

    def count_dead_letters(self, stages: Collection[str]) -> int:
        """How many events became dead letters of these stages in the last hour, in all processes."""

    def settle_named(self, named: Collection[Named]) -> int:
        """Remove those of the named rows that are still the ones that were published; return how many."""


class Lanes(Protocol):
    """Membership in the group of relays, which assigns every lane to one member. Used by one thread.

    An assigned lane is `arriving` until the rows that an earlier owner published are settled; then it is `owned`.
    """

    @property
    def owned(self) -> AbstractSet[int]: ...

    @property
    def arriving(self) -> AbstractSet[int]: ...

    @property
    def arrivals(self) -> int:
        """How often lanes have arrived. Rows claimed before an arrival may be published already."""

    def join(self) -> None:
        """Connect and join the group."""

    def poll(self, seconds: float) -> None:
        """Serve the group for at most `seconds`; `owned` and `arriving` change only here. Call it every few minutes."""

    @property
    def is_member(self) -> bool:
        """Whether this relay was a member at the last `poll`; another thread may ask."""

    def membership(self) -> object | None:
        """Return what a transaction must carry; None while this relay is not a member."""

    def read_committed(self) -> dict[int, str]:
        """Return the metadata of the committed offset of each arriving lane that can be read now.

        A lane whose offset is in an open transaction is missing; all are when the group does not answer.
        """

    def take_over(self, lanes: Collection[int]) -> None:
        """Own these lanes: the rows that their committed offsets name are settled.

        A lane that arrived again after `read_committed` stays arriving.
        """

    def doubt(self) -> None:
        """The outcome of the last transaction is unknown: all owned lanes arrive again, to re-read their offsets."""

    def has_lost(self, lanes: AbstractSet[int]) -> bool:
        """Serve the group for a moment; return whether it took any of these lanes away."""

    def next_offsets(self, metadata: Mapping[int, str]) -> list[LaneOffset]:
        """Return the next offset of each lane, with the metadata to commit."""

    def advance(self, offsets: Collection[LaneOffset]) -> None:
        """These offsets are committed."""

    def close(self) -> None:
        """Leave the group, so that other members get the lanes at once. `join` may follow."""


class Publisher(Protocol):
    """One Kafka transaction per batch: its events, and the offsets that name them, all or nothing (invariant 5).

    An event goes to the partition with the number of its lane, so that an open transaction holds up its own lanes only.
    """

    @property
    def batch_bytes(self) -> int:
        """At most how many bytes the next batch should have: fewer while Kafka is slow."""

    @property
    def wait_seconds(self) -> float:
        """How long the caller may leave a transaction open between `send` and `commit`."""

    def send(self, rows: Sequence[OutboxRow]) -> Undone | Fenced | Refused | None:
        """Begin a transaction and send the rows in order. None: it is open; `commit` or `abort` must follow."""

    def abort(self, reason: str) -> Undone:
        """Abort the open transaction, before any offset is sent: so it is never in doubt."""

    def commit(self, offsets: Sequence[LaneOffset], membership: object) -> Outcome:
        """Commit the open transaction with these offsets. Kafka fences it when `membership` is no longer valid."""

    def close(self) -> None:
        """Give up an open transaction; a committed one stays. `send` may follow."""
