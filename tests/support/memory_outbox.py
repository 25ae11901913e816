"""The outbox of a relay in memory."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from zlib import crc32

from relays import offset_metadata
from relays.ports import Named, OutboxRow
from schema.batches import bounded
from schema.database.tables import LANES
from schema.events.events import Envelope
from schema.failures import DeadLetter


class MemoryOutbox:
    """Every change is committed at once."""

    def __init__(self) -> None:
        self.rows: dict[int, OutboxRow] = {}
        self.dead: dict[str, DeadLetter] = {}  # by event id: the relay is the only stage here
        self.relayed = 0  # the highest id that an embedded relay noted
        self._histories = 1
        self._ids = itertools.count(1)

    @property
    def history_id(self) -> str:
        return f"history-{self._histories}"

    def fail_over(self) -> None:
        """The server is replaced by one that has none of these rows, and uses their ids again in a new history."""
        self.rows.clear()
        self._histories += 1
        self._ids = itertools.count(1)

    def append(self, doc_id: str, version: int = 1, payload: bytes = b"x") -> OutboxRow:
        """What a writer does."""
        envelope = Envelope(f"{doc_id}-{version}", "type", doc_id, version, "content/type", payload, {})
        lane = crc32(doc_id.encode()) % LANES
        row = OutboxRow(next(self._ids), lane, "2026-11-21T00:00:00+00:00", envelope, self.history_id)
        self.rows[row.id] = row
        return row

    def open(self) -> None:
        pass

    def probe(self) -> None:
        pass

    def start_history(self) -> None:
        pass

    def note_relayed(self, outbox_id: int) -> None:
        self.relayed = max(self.relayed, outbox_id)

    def claim_oldest(self, rows: int, size_bytes: int) -> list[OutboxRow]:
        return next(bounded([self.rows[one] for one in sorted(self.rows)], rows, size_bytes, _size_of), [])

    def claim_lanes(
        self, lanes: Collection[int], in_flight: Collection[OutboxRow], rows_per_lane: int, size_bytes: int
    ) -> list[OutboxRow]:
        skipped = {row.id for row in in_flight}
        found: list[OutboxRow] = []
        count: Counter[int] = Counter()
        for outbox_id in sorted(self.rows.keys() - skipped):
            row = self.rows[outbox_id]
            if row.lane in lanes and count[row.lane] < rows_per_lane:
                count[row.lane] += 1
                found.append(row)
        return next(bounded(found, len(found) or 1, size_bytes, _size_of), [])

    def settle(self, rows: Sequence[OutboxRow], dead: Sequence[DeadLetter] = ()) -> None:
        self.dead |= {letter.envelope.event_id: letter for letter in dead}
        if all(row.history_id == self.history_id for row in rows):
            for row in rows:
                self.rows.pop(row.id, None)
        else:
            self._delete_exactly((row.id, row.envelope.event_id) for row in rows)

    def count_dead_letters(self, stages: Collection[str]) -> int:
        return len({letter.envelope.event_id for letter in self.dead.values() if letter.stage in stages})

    def settle_named(self, named: Collection[Named]) -> int:
        found = ((one, self.rows[one].envelope.event_id) for one, _ in named if one in self.rows)
        return self._delete_exactly(offset_metadata.match(named, found))

    def _delete_exactly(self, rows: Iterable[tuple[int, str]]) -> int:
        found = [one for one, event_id in rows if one in self.rows and self.rows[one].envelope.event_id == event_id]
        for outbox_id in found:
            del self.rows[outbox_id]
        return len(found)


def _size_of(row: OutboxRow) -> int:
    return len(row.envelope.payload)
