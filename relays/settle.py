"""Settle published rows, concurrently with the publishing of the next batch.

Invariant 5: at a takeover, rows are settled by event id as the committed offsets name them, so that none is published
a second time.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

from relays import offset_metadata
from relays.background import Background
from relays.ports import Outbox, OutboxRow
from schema.failures import DeadLetter


class Settler:
    """`in_flight` are published rows that may still be in the outbox."""

    def __init__(self, outbox: Outbox, background: Background) -> None:
        self._outbox = outbox
        self._background = background
        self._settling: Future[None] | None = None
        self.in_flight: Sequence[OutboxRow] = ()

    def start(self, rows: Sequence[OutboxRow]) -> None:
        """Start to remove published rows."""
        self.in_flight = rows
        self._settling = self._background.start(partial(self._outbox.settle, [row.id for row in rows]))

    def finish(self) -> None:
        """Wait until the rows of the last batch are removed."""
        if self._settling is not None:
            self._background.wait(self._settling)
        self._settling, self.in_flight = None, ()

    def settle_named(self, named: Sequence[offset_metadata.Named]) -> int:
        """Remove those of the named rows that are still the ones that were published; return how many."""

        def settle() -> int:
            found = self._outbox.read_event_ids([outbox_id for outbox_id, _ in named])
            ids = offset_metadata.matching_ids(named, found)
            self._outbox.settle(ids)
            return len(ids)

        return self._background.wait(self._background.start(settle))

    def store_dead_letter(self, row: OutboxRow, letter: DeadLetter) -> None:
        """Move a row that Kafka refuses to the dead letters."""
        self._background.wait(self._background.start(partial(self._outbox.settle, [row.id], [(row.id, letter)])))
