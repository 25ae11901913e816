"""The outbox of a relay in memory."""

import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from zlib import crc32

from relays.ports import OutboxRow
from schema.batches import bounded
from schema.database.tables import LANES
from schema.events.events import Envelope
from schema.failures import DeadLetter


class MemoryOutbox:
    """Every change is committed at once."""

    def __init__(self) -> None:
        self.rows: dict[int, OutboxRow] = {}
        self.dead: dict[str, DeadLetter] = {}  # by event id: the relay is the only stage here
        self._ids = itertools.count(1)

    def append(self, doc_id: str, version: int = 1, payload: bytes = b"x") -> OutboxRow:
        """What a writer does."""
        envelope = Envelope(f"{doc_id}-{version}", "type", doc_id, version, "content/type", payload, {})
        row = OutboxRow(next(self._ids), crc32(doc_id.encode()) % LANES, "2026-11-21T00:00:00+00:00", envelope)
        self.rows[row.id] = row
        return row

    def open(self) -> None:
        pass

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

    def read_event_ids(self, ids: Collection[int]) -> list[tuple[int, str]]:
        return [(one, self.rows[one].envelope.event_id) for one in ids if one in self.rows]

    def settle(self, ids: Sequence[int], dead: Sequence[tuple[int, DeadLetter]] = ()) -> None:
        self.dead |= {letter.envelope.event_id: letter for _, letter in dead}
        for outbox_id in ids:
            self.rows.pop(outbox_id, None)


def _size_of(row: OutboxRow) -> int:
    return len(row.envelope.payload)
