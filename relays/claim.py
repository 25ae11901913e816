"""Claim rows of the owned lanes, the next batch concurrently with the publishing of the last one.

Invariant 3: rows leave in id order. Rows read before the last batch was published are used only if it was published
whole, and if no lane arrived since.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from relays import offset_metadata
from relays.batch_size import MOST_BYTES
from relays.database_calls import DatabaseCalls
from relays.ports import Lanes, Outbox, OutboxRow

_ROWS_PER_LANE = 500
_BACKLOG_ROWS = 500  # from this size on the next batch is claimed ahead; below it, a later claim finds more rows


class Claimer:
    """Hands out one batch after another; each is published, split or dropped before the next."""

    def __init__(
        self,
        outbox: Outbox,
        lanes: Lanes,
        calls: DatabaseCalls,
        batch_bytes: Callable[[], int] = lambda: MOST_BYTES,
    ) -> None:
        self._outbox = outbox
        self._lanes = lanes
        self._calls = calls
        self._batch_bytes = batch_bytes
        self._ahead: Future[list[OutboxRow]] | None = None
        self._halves: list[list[OutboxRow]] = []  # of refused batches; the last is the next
        self._arrivals = 0  # when the last batch was handed out

    def claim(self, settling: Sequence[OutboxRow]) -> list[OutboxRow]:
        """Return the next rows of owned lanes in id order; `settling` are published, and may still be in the outbox."""
        if self._arrivals != self._lanes.arrivals:
            self.drop()
        if self._halves:
            rows = self._halves.pop()
        else:
            reading = self._ahead or self._read(settling)
            self._ahead = None
            rows = self._calls.wait(reading)
        owned = [row for row in rows if row.lane in self._lanes.owned]
        self._arrivals = self._lanes.arrivals
        if len(owned) >= _BACKLOG_ROWS and not self._halves:
            self._ahead = self._read([*settling, *owned])
        return owned

    def split(self, rows: Sequence[OutboxRow]) -> None:
        """Hand out the refused rows again, in halves."""
        self._drop_ahead()
        middle = len(rows) // 2
        self._halves += [list(rows[middle:]), list(rows[:middle])]

    def drop(self) -> None:
        """Forget all rows that were read and not handed out: a later version must not overtake an earlier one."""
        self._halves.clear()
        self._drop_ahead()

    def forget(self) -> None:
        """As `drop`, without a wait for the claim that runs."""
        self._halves.clear()
        self._ahead = None

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            reading, self._ahead = self._ahead, None
            self._calls.wait(reading)

    def _read(self, in_flight: Sequence[OutboxRow]) -> "Future[list[OutboxRow]]":
        lanes = frozenset(self._lanes.owned)

        def read() -> list[OutboxRow]:
            rows = self._outbox.claim_lanes(lanes, in_flight, _ROWS_PER_LANE, self._batch_bytes())
            if rows and any(row.history_id != rows[0].history_id for row in in_flight):
                return []  # a row of the new history may have an id in flight, and was left out: wait for the settle
            return offset_metadata.limit_rows(rows)

        return self._calls.start(read)
