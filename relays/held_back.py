"""Documents on which only a sink fails: the embedded relay goes on with the rows behind them, and tries them again."""

import time
from collections.abc import Callable, Sequence

from relays.ports import OutboxRow
from schema.failures import Retryable, SomeFail
from schema.retry import Backoff


class HeldBack:
    """`clock` returns seconds. `rows` and `size_bytes` are what was left out last."""

    def __init__(self, backoff: Backoff, clock: Callable[[], float] = time.monotonic) -> None:
        self.error: Retryable | None = None  # the last one, while documents are held back
        self.rows = 0
        self.size_bytes = 0
        self._backoff = backoff
        self._clock = clock
        self._doc_ids: set[str] = set()
        self._is_unproven = False  # they failed alone: try them with the next others
        self._failures = 0
        self._since = 0.0
        self._until = 0.0

    @property
    def seconds(self) -> float:
        """Since when documents are held back."""
        return self._clock() - self._since

    @property
    def seconds_left(self) -> float:
        """Until they are tried again."""
        return max(0.0, self._until - self._clock())

    def select(self, rows: Sequence[OutboxRow]) -> list[OutboxRow]:
        """The rows to apply now: without those of the documents held back, until these are due."""
        if not self.seconds_left or (self._is_unproven and not self.holds(rows)):
            return list(rows)
        left_out = [row for row in rows if row.envelope.doc_id in self._doc_ids]
        self.rows, self.size_bytes = len(left_out), sum(len(row.envelope.payload) for row in left_out)
        return [row for row in rows if row.envelope.doc_id not in self._doc_ids]

    def holds(self, rows: Sequence[OutboxRow]) -> bool:
        """Whether all of these rows belong to documents held back."""
        return all(row.envelope.doc_id in self._doc_ids for row in rows)

    def note_success(self, rows: Sequence[OutboxRow]) -> None:
        self._doc_ids -= {row.envelope.doc_id for row in rows}
        if not self._doc_ids:
            self.error, self._failures, self.rows, self.size_bytes = None, 0, 0, 0

    def note_failure(self, rows: Sequence[OutboxRow], error: Retryable, began: float) -> None:
        """Hold back what fails: at most half of the time is spent on it."""
        failing = error.doc_ids if isinstance(error, SomeFail) else {row.envelope.doc_id for row in rows}
        if not self._doc_ids:
            self._since = began
        self._is_unproven = not isinstance(error, SomeFail)
        self._doc_ids = (self._doc_ids - {row.envelope.doc_id for row in rows}) | failing
        self.error = error
        self._failures += 1
        now = self._clock()
        self._until = now + max(self._backoff.seconds(self._failures), now - began)
