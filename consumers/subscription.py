"""The subscription port: membership of a consumer group on the topic of the documents' events.

Invariant 8 rests on it: the group continues after the committed offsets, wherever a member died.
"""

from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from schema.events.events import Envelope

_VERSION_DIGITS = 19  # of a BIGINT; Python reads no number of more than 4,300

Partition = tuple[str, int]  # topic and number
OnPartitions = Callable[[Collection[Partition]], None]
OnGap = Callable[[Collection[int]], object]  # with the numbers of partitions
Headers = Sequence[tuple[str, str | bytes | None]]


@dataclass(frozen=True)
class Message:
    """An event with its place in the topic."""

    partition: Partition
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    leader_epoch: int = -1  # of the partition's leader, committed with the offset; -1: unknown

    @property
    def origin(self) -> str:
        """Topic, partition and offset."""
        topic, number = self.partition
        return f"{topic}/{number}/{self.offset}"

    @cached_property
    def envelope(self) -> Envelope:
        """A missing header makes the event malformed, so that it becomes a dead letter."""
        headers = {name: _text(value) for name, value in self.headers if value is not None}
        sequence = headers.get("ce_sequence", "")
        return Envelope(
            event_id=headers.get("ce_id", self.origin),
            event_type=headers.get("ce_type", ""),
            doc_id=(self.key or b"").decode(errors="replace"),
            version=int(sequence) if sequence.isdecimal() and len(sequence) <= _VERSION_DIGITS else 0,
            content_type=headers.get("content-type", ""),
            payload=self.value or b"",
            headers=headers,
        )


class Subscription(Protocol):
    """One member of a group, used by one thread.

    The topic may no longer have what follows a committed offset: it was removed before the group read it. Then the
    member calls its `on_gap` with the partitions, perhaps in another thread, and gives messages of them only after it
    returned; it calls it again after a Retryable. Other callbacks run inside `poll`, `serve`, `ensure_member` and
    `leave`.
    """

    def join(self, *, on_revoke: OnPartitions, on_lost: OnPartitions) -> None:
        """Join the group; partitions are assigned during later calls of `poll` and `serve`.

        `on_revoke` is called with partitions before this member gives them up: it may still commit their offsets.
        `on_lost` is called with partitions that another member may own already.
        """

    def poll(self, rows: int, seconds: float) -> Sequence[Message]:
        """At most `rows` messages of partitions that this member owns, in order per partition.

        Returns an empty list when none arrived within `seconds`.
        """

    @property
    def owned(self) -> AbstractSet[Partition]:
        """The partitions that this member owns now."""

    def pause(self) -> None:
        """Stop all partitions, and those assigned later, from giving messages."""

    def resume(self) -> None:
        """Undo `pause`; harmless when nothing is paused."""

    def serve(self, seconds: float) -> None:
        """Take part in the group for at most `seconds` while everything is paused."""

    def store_offsets(self, messages: Sequence[Message]) -> None:
        """Note that these messages, and those before them in their partitions, are applied; `commit` commits that."""

    def store_positions(self) -> None:
        """Like `store_offsets`, for what carries no message, e.g. the end of a transaction: then no lag is left.

        Call it only while every message that `poll` returned is stored or belongs to another member.
        """

    def commit(self) -> None:
        """Commit the stored offsets. What Kafka rejects while the group changes stays stored for the next call."""

    def ensure_member(self) -> None:
        """Replace a client that has not been a member for a long time; then this member owns no partitions."""

    def leave(self) -> None:
        """Leave the group, so that the other members take over at once. `join` may follow."""


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")
