"""The sink port: what a store must offer to be kept in step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection

from schema.events.events import DocumentUpserted, Event


@dataclass(frozen=True)
class Change:
    """The parts of one version of one document that came in a batch, in order; the last part completes the version."""

    doc_id: str
    version: int
    events: tuple[Event, ...]

    @property
    def complete(self) -> bool:
        return any(event.part == event.parts for event in self.events)

    @property
    def chunks(self) -> int:
        """How many chunks it brings, with their vectors."""
        return sum(len(event.chunks) for event in self.events if isinstance(event, DocumentUpserted))


class Sink(Protocol):
    """A store. A batch has at most one change a document; applying one again does no harm (invariant 6)."""

    name: str

    def ensure(self) -> None:
        """Create what the store needs; harmless when it exists. Raises Permanent when what exists does not fit."""

    def apply(self, changes: Sequence[Change]) -> None:
        """Bring the store to these changes, writing before deleting (invariant 10).

        Returns when the store acknowledged all of it; raises Retryable or Permanent, having applied any part of it.
        """

    def mark(self, connection: Connection, changes: Sequence[Change]) -> None:
        """Note in the metadata database what the store acknowledged, never what a newer version changed since."""

    def harm(self, connection: Connection, change: Change) -> str | None:
        """What `change`, applied after a newer version, did to it, or None; what has to go becomes a tombstone."""

    def settle(self, events: Sequence[Event]) -> None:
        """The store is marked to hold these, or newer: remove what only they would still need. Raises Retryable."""

    def close(self) -> None:
        """Release connections."""
