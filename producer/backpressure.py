"""Refuses writes while too many events wait in the outbox, which lies in the business database."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, func, select

from producer.errors import Backpressure
from schema import limits
from schema.database.tables import outbox

MAX_PENDING_EVENTS = 1_000_000
MAX_PENDING_BYTES = 4 * 1024**3

_SECONDS = 1.0  # between two looks at the outbox
_SHARE = 0.05  # at most this share of the time is spent on looking


@dataclass(slots=True)
class _Seen:
    rows: int = 0
    size_bytes: int = 0
    next_look: float = 0.0


@dataclass(slots=True)
class OutboxLimit:
    """At most `rows` rows and `size_bytes` bytes may wait; None is no limit. Thread-safe.

    The outbox is looked at once per second, by one statement of two keys; rows are counted only if the ids that wait
    span more than a limit, and then as many as the limit at most.
    """

    rows: int | None
    size_bytes: int | None
    clock: Callable[[], float] = time.monotonic
    _seen: "WeakKeyDictionary[Engine, _Seen]" = field(default_factory=WeakKeyDictionary)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, connection: Connection) -> None:
        """Raise Backpressure while more waits. Other threads go by what was seen last, while one looks."""
        if self.rows is None and self.size_bytes is None:
            return
        now = self.clock()
        with self._lock:
            seen = self._seen.setdefault(connection.engine, _Seen())
            is_due = now >= seen.next_look
            if is_due:
                seen.next_look = now + _SECONDS
        if is_due:
            seen.rows, seen.size_bytes = self._count(connection)
            took = self.clock() - now
            seen.next_look = max(seen.next_look, now + took / _SHARE)
        _refuse("events", seen.rows, self.rows)
        _refuse("bytes", seen.size_bytes, self.size_bytes)

    def _count(self, connection: Connection) -> tuple[int, int]:
        """The rows and bytes that wait, or 0 and 0 if both are surely below the limits."""
        oldest, newest = (select(end(outbox.c.id)).scalar_subquery() for end in (func.min, func.max))
        span = connection.scalar(select(newest - oldest + 1)) or 0
        most_bytes = span * limits.EVENT_BYTES
        if (self.rows is None or span <= self.rows) and (self.size_bytes is None or most_bytes <= self.size_bytes):
            return 0, 0
        some = select(outbox.c.payload_bytes).order_by(outbox.c.lane, outbox.c.id)  # the index covers it
        if self.rows is not None:
            some = some.limit(self.rows + 1)
        waiting = some.subquery()
        counted = select(func.count(), func.coalesce(func.sum(waiting.c.payload_bytes), 0)).select_from(waiting)
        rows, size_bytes = connection.execute(counted).one()
        return int(rows), int(size_bytes)


def _refuse(what: str, waiting: int, limit: int | None) -> None:
    if limit is not None and waiting > limit:
        raise Backpressure(
            f"more than {limit} {what} wait in the outbox: relays are away or too slow; write again later"
        )
