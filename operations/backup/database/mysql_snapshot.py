"""One snapshot for two readers: mysqldump, and the counts and checksums of the manifest.

A read lock on our tables, and on no others of the server, holds the writers for as long as both need to begin. It needs
the privilege LOCK TABLES; without it a backup is made, and its manifest says that nothing was counted.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from operations.backup.database.table_states import DUMPED, read_states
from operations.backup.manifest import Server, TableState
from schema.retry import Backoff, call_with_retry

_LOCK_SECONDS = 1  # a long transaction of another client delays the lock, and the waiting lock delays the writers
_ATTEMPTS = 10
_BACKOFF = Backoff(1.0, 5.0)
_HOLDER_SECONDS = 60  # the server ends the session that holds the lock, and so the lock, if this process is silent
_SNAPSHOT_SECONDS = 7 * 24 * 3600
_DENIED = {1044, 1142, 1227}  # of MySQL: a privilege is missing
_LOCK_TIMEOUT = 1205


@dataclass
class Snapshot:
    """`unverified` says why there is no snapshot; empty if there is one."""

    server: Server
    unverified: str = ""
    locked_seconds: float = 0.0
    _connection: Connection | None = None
    _holder: Connection | None = None
    _since: float = 0.0

    def release(self) -> None:
        """Let the writers go on: the dump has its snapshot. Harmless when repeated."""
        if self._holder is not None:
            self._holder.invalidate()  # ends the session, and with it the lock, without waiting for an answer
            self._holder.close()
            self._holder = None
            self.locked_seconds = round(time.monotonic() - self._since, 3)

    def read_states(self) -> dict[str, TableState] | None:
        """Rows and checksums of the tables in the snapshot."""
        return None if self._connection is None else read_states(self._connection)


@contextmanager
def take_snapshot(engine: Engine) -> Iterator[Snapshot]:
    """A snapshot, and a lock on all writes until `release`. Raises DBAPIError."""
    with engine.connect() as holder:
        holder.exec_driver_sql(f"SET SESSION wait_timeout = {_HOLDER_SECONDS}, lock_wait_timeout = {_LOCK_SECONDS}")
        holder.rollback()
        unverified = _lock(holder)
        if unverified:
            with engine.connect() as connection:
                yield Snapshot(_describe_server(connection), unverified)
            return
        since = time.monotonic()
        with engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")  # no BEGIN of SQLAlchemy's own
            connection.exec_driver_sql(f"SET SESSION wait_timeout = {_SNAPSHOT_SECONDS}")
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            snapshot = Snapshot(_describe_server(connection), "", 0.0, connection, holder, since)
            try:
                yield snapshot
            finally:
                snapshot.release()
                connection.invalidate()  # nothing of this session goes back to the pool


def _lock(holder: Connection) -> str:
    """Lock the tables of the dump. Returns why that is impossible; empty when they are locked.

    The lock waits for the transactions that wrote to them, so what is committed afterwards is in neither snapshot.
    """

    def take() -> None:
        holder.exec_driver_sql(f"LOCK TABLES {', '.join(f'`{table}` READ' for table in DUMPED)}")

    try:
        call_with_retry(
            take, retry_on=lambda error: _code(error) == _LOCK_TIMEOUT, backoff=_BACKOFF, attempts=_ATTEMPTS
        )
    except DBAPIError as error:
        if _code(error) in _DENIED:
            return "the user has not the privilege LOCK TABLES"
        if _code(error) == _LOCK_TIMEOUT:
            return f"a transaction of another client held a table for longer than {_LOCK_SECONDS} s, {_ATTEMPTS} times"
        raise
    return ""


def _describe_server(connection: Connection) -> Server:
    version = str(connection.execute(text("SELECT VERSION()")).scalar_one())
    gtid_executed = str(connection.execute(text("SELECT @@GLOBAL.gtid_executed")).scalar_one()).replace("\n", "")
    for statement in ("SHOW BINARY LOG STATUS", "SHOW MASTER STATUS"):  # since 8.2, and before
        with suppress(DBAPIError):  # without REPLICATION CLIENT the position is not shown
            status = connection.execute(text(statement)).first()
            if status is not None:
                return Server(version, gtid_executed, str(status[0]), int(status[1]))
    return Server(version, gtid_executed)


def _code(error: BaseException) -> object:
    return error.orig.args[0] if isinstance(error, DBAPIError) and error.orig is not None and error.orig.args else None
