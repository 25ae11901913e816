"""The caller's transaction: what a write takes as `connection`, and the engine that a receipt polls."""

import threading
from typing import TYPE_CHECKING, TypeAlias, Union
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Connection, Engine

from schema.database.connection import connect

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, scoped_session

Connected: TypeAlias = Union[Connection, "Session", "scoped_session[Session]"]

_SYNC_DRIVERS = {"mysql": "mysql+pymysql", "sqlite": "sqlite"}
_own_engines: "WeakKeyDictionary[Engine, Engine]" = WeakKeyDictionary()
_lock = threading.Lock()


def connection_of(given: object) -> Connection:
    """The connection of the caller's transaction. Raises TypeError for what is no Connection and no Session."""
    if isinstance(given, Connection):
        if _commits_each_statement(given):
            raise TypeError("the connection commits each statement (AUTOCOMMIT): pass one that has a transaction")
        return given
    from sqlalchemy.orm import Session, scoped_session  # slow to import

    if isinstance(given, Session | scoped_session):
        return connection_of(given.connection())
    name = type(given).__name__
    if _is_async(given) and hasattr(given, "run_sync"):
        raise TypeError(
            f"the writer is not async: instead of the {name} itself, use "
            "`await connection.run_sync(lambda connection: writer.upsert(connection, document))`; "
            "an AsyncSession has run_sync, too"
        )
    if isinstance(given, Engine) or _is_async(given):
        raise TypeError(
            f"pass the connection of your transaction, not the {name}: "
            "`with engine.begin() as connection`, or `producer.run(engine, work)`"
        )
    raise TypeError(f"connection must be a SQLAlchemy Connection or Session, is {name}")


def require_engine(given: object) -> None:
    """Raise TypeError for what is neither an Engine with a sync driver nor a sessionmaker."""
    if isinstance(given, Engine) and not given.dialect.is_async:
        return
    from sqlalchemy.orm import sessionmaker  # slow to import

    if isinstance(given, Engine) or _is_async(given):
        raise TypeError(
            "run is not async: pass an engine with a sync driver, `await asyncio.to_thread(producer.run, engine, work)`"
        )
    if not isinstance(given, sessionmaker):
        raise TypeError(f"run takes a SQLAlchemy Engine or sessionmaker, not a {type(given).__name__}")


def sync_engine(engine: Engine) -> Engine:
    """An engine that any thread may use: `engine` itself, unless its driver is async.

    Then it is one of our own with the same URL and a sync driver, as long as `engine` lives. Raises ValueError for a
    database that only `engine` can open.
    """
    if not engine.dialect.is_async:
        return engine
    with _lock:
        if engine not in _own_engines:
            _own_engines[engine] = connect(_sync_url(engine.url).render_as_string(hide_password=False))
        return _own_engines[engine]


def _is_async(given: object) -> bool:
    """Whether the class is one of sqlalchemy.ext.asyncio, which cannot be imported without greenlet."""
    return any(base.__module__.startswith("sqlalchemy.ext.asyncio") for base in type(given).__mro__)


def _sync_url(url: URL) -> URL:
    backend = url.get_backend_name()
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise ValueError("a database in memory can only be read through its own engine: pass `engine`")
    if backend not in _SYNC_DRIVERS:
        raise ValueError(f"no sync driver is known for {backend}: pass `engine`, a sync engine of the same database")
    return url.set(drivername=_SYNC_DRIVERS[backend])


def _commits_each_statement(connection: Connection) -> bool:
    """Invariant 1 needs a transaction. Asks the driver, which needs no round trip; SQLite begins without its driver."""
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return True
    if connection.dialect.driver not in ("pymysql", "mysqldb"):
        return False
    raw = connection.connection.dbapi_connection
    return bool(raw.get_autocommit())  # type: ignore[union-attr]  # of both drivers
