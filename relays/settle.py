"""Settle published rows, concurrently with the publishing of the next batch.

Invariants 4 and 5: at a takeover, and in another history than that of the claim, rows are settled by id and event id.
So a row that uses an id again stays.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

from relays.database_calls import DatabaseCalls
from relays.ports import Named, Outbox, OutboxRow
from schema.failures import DeadLetter


class Settler:
    def __init__(self, outbox: Outbox, calls: DatabaseCalls) -> None:
        self._outbox = outbox
        self._calls = calls
        self._settling: Future[None] | None = None
        self._rows: Sequence[OutboxRow] = ()

    @property
    def in_flight(self) -> Sequence[OutboxRow]:
        """Published rows that may still be in the outbox. Later, other rows may have their ids."""
        if self._settling is not None and self._settling.done():
            self.finish()
        return self._rows

    def start(self, rows: Sequence[OutboxRow]) -> None:
        """Start to remove published rows."""
        self._rows = rows
        self._settling = self._calls.start(partial(self._outbox.settle, rows))

    def finish(self, seconds: float | None = None) -> bool:
        """Wait until the rows of the last batch are removed, for at most `seconds`. Returns whether they are."""
        if self._settling is not None:
            if not self._calls.await_end(self._settling, seconds):
                return False
            self._calls.wait(self._settling)
        self._settling, self._rows = None, ()
        return True

    def forget(self) -> None:
        """Leave the rows of the last batch to the next owners of their lanes: the committed offsets name them."""
        self._settling, self._rows = None, ()

    def settle_named(self, named: Sequence[Named]) -> int:
        """Remove those of the named rows that are still the ones that were published; return how many."""
        return self._calls.wait(self._calls.start(partial(self._outbox.settle_named, named)))

    def count_dead_letters(self, stage: str) -> int:
        """How many dead letters all relays have stored in the last hour."""
        return self._calls.wait(self._calls.start(partial(self._outbox.count_dead_letters, [stage])))

    def store_dead_letter(self, row: OutboxRow, letter: DeadLetter) -> None:
        """Move a row that Kafka refuses to the dead letters."""
        self._calls.wait(self._calls.start(partial(self._outbox.settle, [row], [letter])))
