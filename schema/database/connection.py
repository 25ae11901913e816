"""Connections to the metadata database, MySQL or SQLite, with the session settings that the contract needs."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError

_MYSQL_DEMOTED = {  # a new connection may reach the new primary
    1290,  # the server runs with --read-only or --super-read-only: it was demoted after a failover
    1792,  # the transaction is read-only, for instance because a proxy sent the session to a replica
    1836,  # the server runs in read-only mode
}
_MYSQL_TRANSIENT = _MYSQL_DEMOTED | {
    1040,  # too many connections
    1053,  # the server is shutting down
    1205,  # lock wait timeout
    1213,  # deadlock
    2003,  # cannot connect: the server is restarting
    2006,  # server has gone away
    2013,  # lost connection during query
}
_MYSQL_BUSY = {1205, 1213}  # of those: the server answers
_SQLITE_TRANSIENT = ("database is locked", "database table is locked")
_SQLITE_BUSY_TIMEOUT_SECONDS = 30.0
_CONNECT_SECONDS = 5.0
TIMEOUT_SECONDS = 30.0


def connect(
    url: str | URL, *, timeout_seconds: float | None = TIMEOUT_SECONDS, idle_seconds: float | None = None
) -> Engine:
    """An engine for `url` ("mysql+pymysql://…" or "sqlite:///…").

    MySQL: READ COMMITTED, UTC and utf8mb4. A call without an answer for `timeout_seconds` fails (None: it waits), and a
    wait for a lock of a row or a table fails sooner, with its own error. With `idle_seconds` the server ends a
    connection, and its open transaction with all locks, when the client has sent nothing for this time.

    SQLite: a transaction takes the write lock when it begins, so that two writers wait for each other instead of
    failing later; commits are durable (WAL, synchronous=FULL). `reading()` takes no such lock.
    """
    if make_url(url).get_backend_name() == "sqlite":
        engine = create_engine(url, hide_parameters=True, connect_args={"timeout": _SQLITE_BUSY_TIMEOUT_SECONDS})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_immediate)
        return engine
    engine = create_engine(
        url,
        hide_parameters=True,  # no content and no secret in an error message
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,  # the first one without an answer closes the whole pool: a silent server costs one limit
        connect_args={
            "charset": "utf8mb4",
            "init_command": _session_settings(timeout_seconds, idle_seconds),
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": timeout_seconds,
            "write_timeout": timeout_seconds,
        },
    )
    event.listen(engine, "handle_error", _leave_demoted_server)
    return engine


def reading(engine: Engine) -> Connection:
    """A connection whose statements see the newest committed rows and take no lock. Close it after use."""
    connection = engine.connect()
    if engine.dialect.name == "sqlite":  # MySQL: READ COMMITTED is enough, and saves round trips
        return connection.execution_options(isolation_level="AUTOCOMMIT")
    return connection


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A connection whose statements all see the same committed rows, and take no lock."""
    if engine.dialect.name != "sqlite":
        with engine.connect() as connection:
            yield connection.execution_options(isolation_level="REPEATABLE READ")
        return
    with reading(engine) as connection:
        connection.exec_driver_sql("BEGIN")  # deferred: the first read takes the snapshot
        try:
            yield connection
        finally:
            connection.exec_driver_sql("ROLLBACK")


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may succeed when run again: deadlock, lock wait, lost connection, demoted server."""
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    if isinstance(error.orig, sqlite3.OperationalError):
        return str(error.orig).startswith(_SQLITE_TRANSIENT)
    return isinstance(error, OperationalError) and bool(_codes(error.orig) & _MYSQL_TRANSIENT)


def is_away(error: BaseException | None) -> bool:
    """Whether the server cannot be reached or used. A deadlock and a wait for a lock show that it answers."""
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    return isinstance(error, OperationalError) and bool(_codes(error.orig) & (_MYSQL_TRANSIENT - _MYSQL_BUSY))


def probe(engine: Engine) -> None:
    """Close the pool's connections and have a new one answer. Raises DBAPIError."""
    engine.dispose()
    with reading(engine) as connection:
        connection.execute(text("SELECT 1"))


def _session_settings(timeout_seconds: float | None, idle_seconds: float | None) -> str:
    settings = ["time_zone = '+00:00'"]
    if timeout_seconds is not None:
        lock_seconds = max(1, int(timeout_seconds * 2 / 3))
        settings += [f"innodb_lock_wait_timeout = {lock_seconds}", f"lock_wait_timeout = {lock_seconds}"]
    if idle_seconds is not None:
        settings.append(f"wait_timeout = {max(1, round(idle_seconds))}")
    return f"SET {', '.join(settings)}"


def _leave_demoted_server(context: ExceptionContext) -> None:
    """Close the pool's connections to a server that no longer takes writes, so that the next attempt connects."""
    if _codes(context.original_exception) & _MYSQL_DEMOTED:
        context.is_disconnect = True


def _codes(error: BaseException | None) -> set[Any]:
    return set(error.args[:1]) if isinstance(error, Exception) else set()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # only _begin_immediate begins transactions
    cursor = connection.cursor()
    _switch_to_wal(cursor)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _switch_to_wal(cursor: Any) -> None:
    """Retry while the file is locked: for this pragma SQLite itself does not wait, and processes may start together."""
    deadline = time.monotonic() + _SQLITE_BUSY_TIMEOUT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if not str(error).startswith(_SQLITE_TRANSIENT) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_immediate(connection: Connection) -> None:
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
