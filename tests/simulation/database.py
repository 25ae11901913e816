"""The metadata database of a simulation: SQLite in memory behind the shipped statements, with a replica that may lag.

Every transaction is atomic between two steps: a task stops before one begins and after it was committed. On MySQL a
claim and late commits need more; `RelayOutbox` and `reserve_ids` model them.
"""

import sqlite3
from collections.abc import Collection
from functools import cache
from typing import Any
from zlib import crc32

import msgspec
from sqlalchemy import Engine, ExceptionContext, bindparam, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import StaticPool

from relays.outbox import SqlOutbox, _read, _require
from relays.ports import Named, OutboxRow
from schema.batches import bounded
from schema.database import connection as shipped
from schema.database.connection import reading
from schema.database.tables import metadata
from schema.retry import translate_transient
from tests.simulation.scheduler import Scheduler
from tests.support.pipeline import set_model

_TIMEOUT_SECONDS = 0.3
_OLDEST = text(
    """
    SELECT id, payload_bytes, (SELECT history_id FROM system_identity) AS history_id
    FROM (
        SELECT id, payload_bytes, row_number() OVER (PARTITION BY lane ORDER BY id) AS place
        FROM outbox WHERE lane IN :lanes AND id NOT IN :skipped
    ) WHERE place <= :rows ORDER BY id
    """
).bindparams(bindparam("lanes", expanding=True), bindparam("skipped", expanding=True))


def _locked() -> Exception:
    return sqlite3.OperationalError("database is locked")


class _Silence(sqlite3.OperationalError):
    """The database does not answer this process."""


class _Cursor(sqlite3.Cursor):
    def execute(self, sql: str, parameters: Any = ()) -> "_Cursor":
        connection: Any = self.connection
        if connection.scheduler is not None and not connection.in_transaction and not sql.startswith("PRAGMA"):
            connection.scheduler.point("sql", _locked)
            _answer(connection.scheduler)
        super().execute(sql, parameters)
        return self


class _Connection(sqlite3.Connection):
    scheduler: Scheduler | None = None

    def cursor(self, factory: Any = _Cursor) -> Any:
        return super().cursor(factory)

    def close(self) -> None:
        """SQLAlchemy closes the connection of a task that is killed; the database stays."""

    def commit(self) -> None:
        was_open = self.in_transaction
        super().commit()
        if was_open and self.scheduler is not None:
            self.scheduler.point("sql committed", _locked)


def _answer(scheduler: Scheduler) -> None:
    """Raises when the database is silent for the process of this task; it notices that after a while."""
    task = scheduler.current
    if task is not None and task.process.silent_until > scheduler.now:
        scheduler.sleep(_TIMEOUT_SECONDS)
        raise _Silence("no answer")


def _lose_connection(context: ExceptionContext) -> None:
    """As a lost connection; the one connection of all processes stays."""
    if isinstance(context.original_exception, _Silence):
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False


@cache
def _engine() -> tuple[Engine, _Connection, sqlite3.Connection]:
    """One engine per process, since its compiled statements are worth keeping; its connection, and an empty system."""
    raw = sqlite3.connect(":memory:", factory=_Connection)
    raw.create_function("unicode", 1, lambda text: crc32(text.encode()), deterministic=True)  # lanes as on MySQL
    made = create_engine("sqlite://", hide_parameters=True, poolclass=StaticPool, creator=lambda: raw)
    event.listen(made, "connect", shipped._prepare_sqlite)
    event.listen(made, "begin", shipped._begin_immediate)
    event.listen(made, "handle_error", _lose_connection)
    metadata.create_all(made)
    with made.begin() as connection:
        set_model(connection)
    return made, raw, _copy(raw)


def _copy(source: sqlite3.Connection) -> sqlite3.Connection:
    target = sqlite3.connect(":memory:")
    source.backup(target)
    return target


class Database:
    """`epoch` counts the failovers."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.engine, self.raw, empty = _engine()
        self.epoch = 0
        self._scheduler = scheduler
        self.raw.scheduler = None
        self.raw.rollback()
        empty.backup(self.raw)
        self.raw.create_function("strftime", -1, self._strftime)
        self.raw.scheduler = scheduler
        self._replica: sqlite3.Connection | None = None

    def _strftime(self, _format: str, *_: str) -> str:
        """The time of the database is virtual too."""
        minutes, seconds = divmod(self._scheduler.now, 60)
        hours, minutes = divmod(int(minutes), 60)
        return f"2026-01-{1 + hours // 24:02d} {hours % 24:02d}:{minutes:02d}:{seconds:06.3f}000"

    def probe(self) -> None:
        with translate_transient(), reading(self.engine) as connection:
            connection.execute(text("SELECT 1"))

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows without a stop: for checks."""
        scheduler, self.raw.scheduler = self.raw.scheduler, None
        try:
            return self.raw.execute(statement, parameters).fetchall()
        finally:
            self.raw.scheduler = scheduler

    def stop_replica(self) -> None:
        """The replica gets no further commits."""
        self._replica = _copy(self.raw)

    @property
    def lags(self) -> bool:
        return self._replica is not None

    def fail_over(self) -> None:
        """The replica becomes the primary: another server, without the commits that it lacks."""
        assert self._replica is not None
        self.epoch += 1
        self._replica.execute("UPDATE system_identity SET server_uuid = ?", (f"server-{self.epoch}",))
        self._replica.commit()
        self._replica.backup(self.raw)
        self._replica.close()
        self._replica = None

    def last_id(self) -> int:
        """The highest outbox id that was given to a transaction."""
        found = self.rows("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'")
        return int(found[0][0]) if found else 0

    def reserve_ids(self, count: int) -> int:
        """Returns the first of `count` outbox ids, given to a transaction that has not used them yet."""
        last = self.last_id()
        self.rows("DELETE FROM sqlite_sequence WHERE name = 'outbox'")
        self.rows("INSERT INTO sqlite_sequence (name, seq) VALUES ('outbox', ?)", last + count)
        sqlite3.Connection.commit(self.raw)
        return last + 1


class RelayOutbox(SqlOutbox):
    """The shipped outbox; on SQLite it lacks `claim_lanes`.

    The year in `created_at` is the epoch in which the row was claimed: the event carries it in the header ce_time.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database.engine)
        self._database = database
        self.recovered = 0  # rows settled in takeovers

    def open(self) -> None:
        """There is no binlog."""

    def probe(self) -> None:
        self._database.probe()

    def settle_named(self, named: Collection[Named]) -> int:
        settled = super().settle_named(named)
        self.recovered += settled
        return settled

    def claim_lanes(
        self, lanes: Collection[int], in_flight: Collection[OutboxRow], rows_per_lane: int, size_bytes: int
    ) -> list[OutboxRow]:
        if not lanes:
            return []
        skipped, epoch = [row.id for row in in_flight], self._database.epoch
        with reading(self._engine) as connection:
            given = {"lanes": list(lanes), "skipped": skipped, "rows": rows_per_lane}
            found = connection.execute(_OLDEST, given).all()
            if not found:
                return []
            batch = next(bounded(found, len(found), size_bytes, lambda row: int(row.payload_bytes)), [])
            rows = _read(connection, [row.id for row in batch], _require(found[0].history_id))
        if self._database.epoch != epoch:  # a connection does not outlive its server
            raise OperationalError("SELECT", {}, _locked())
        return [
            msgspec.structs.replace(row, created_at=f"{self._database.epoch:04d}-01-01T00:00:00+00:00") for row in rows
        ]
