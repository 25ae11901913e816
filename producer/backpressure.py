"""Refuses writes while too many events wait in the outbox, a table of the business database."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Connection, Engine, RootTransaction, func, select

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
    span more than a limit, and then as many as the limit at most. That may take a second, so it is done before the
    transaction locks its first document.
    """

    rows: int | None
    size_bytes: int | None
    clock: Callable[[], float] = time.monotonic
    _seen: "WeakKeyDictionary[Engine, _Seen]" = field(default_factory=WeakKeyDictionary)
    _with_locks: "WeakSet[RootTransaction]" = field(default_factory=WeakSet)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, connection: Connection) -> None:
        """Look at the outbox if that is due and the transaction holds no lock of an earlier write yet.

        Other threads go by what was seen last, while one looks.
        """
        if self.rows is None and self.size_bytes is None:
            return
        now, transaction = self.clock(), connection.get_transaction()
        with self._lock:
            if transaction in self._with_locks:
                return
            if transaction is not None:
                self._with_locks.add(transaction)
            seen = self._seen.setdefault(connection.engine, _Seen())
            if now < seen.next_look:
                return
            seen.next_look = now + _SECONDS
        seen.rows, seen.size_bytes = self._count(connection)
        took = self.clock() - now
        seen.next_look = max(seen.next_look, now + took / _SHARE)

    def check(self, connection: Connection) -> None:
        """Raise Backpressure if more waited at the last look."""
        with self._lock:
            seen = self._seen.get(connection.engine, _Seen())
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
