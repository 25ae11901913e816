"""Dumps the metadata database into the object store, as one stream in bounded memory, with what its manifest says."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, select

from operations.backup import keys
from operations.backup.database.mysql_client import MySQLClient
from operations.backup.database.mysql_snapshot import take_snapshot
from operations.backup.database.sqlite_dump import dumped_file
from operations.backup.database.table_states import DUMPED, read_states
from operations.backup.errors import BackupFailed
from operations.backup.manifest import Dump, Server, TableState
from operations.backup.objects.streams import DigestReader
from operations.wiring import System
from schema.database import revision
from schema.database.connection import connect, reading, snapshot
from schema.database.tables import histories

_SQL_TYPE, _SQLITE_TYPE = "application/sql", "application/vnd.sqlite3"


@dataclass(frozen=True)
class Dumped:
    """See the fields of the same names in the manifest."""

    dump: Dump
    server: Server
    histories: list[str]
    tables: dict[str, TableState] | None
    unverified: str
    locked_seconds: float


def require_dumpable(system: System) -> None:
    """Raises BackupFailed if the tables are not those of this release, ClientUnusable without MySQL's client."""
    found = revision.current(system.engine)
    if found != revision.REVISIONS[-1]:
        raise BackupFailed(
            f"the tables are at revision {found}, and this release knows those of {revision.REVISIONS[-1]}: "
            "back up with the release that made them"
        )
    if system.engine.dialect.name == "mysql":
        _client(system).require()


def dump_database(system: System, timestamp: str) -> Dumped:
    """Write the dump to the bucket of the system; nothing is there if it fails. Raises BackupFailed."""
    return _dump_mysql(system, timestamp) if system.engine.dialect.name == "mysql" else _dump_sqlite(system, timestamp)


def _client(system: System) -> MySQLClient:
    return MySQLClient(system.engine.url, system.settings.mysql_client_dir)


def _dump_mysql(system: System, timestamp: str) -> Dumped:
    key = keys.dump_key(timestamp, "sql")
    with take_snapshot(system.engine) as taken:
        with _client(system).dump(system.engine.url.database or "", DUMPED) as output:
            output.await_snapshot()
            taken.release()
            stream = DigestReader(output)
            system.store.put(key, stream, size_bytes=None, content_type=_SQL_TYPE, sha256=None)
        tables = taken.read_states()
        with reading(system.engine) as connection:
            found = _read_histories(connection)
        dump = Dump(key, "mysql", stream.size_bytes, stream.sha256)
        return Dumped(dump, taken.server, found, tables, taken.unverified, taken.locked_seconds)


def _dump_sqlite(system: System, timestamp: str) -> Dumped:
    key = keys.dump_key(timestamp, "sqlite3")
    with dumped_file(Path(system.engine.url.database or "")) as path:
        with path.open("rb") as file:
            stream = DigestReader(file)
            system.store.put(key, stream, size_bytes=path.stat().st_size, content_type=_SQLITE_TYPE, sha256=None)
        copy = connect(f"sqlite:///{path}")
        try:
            with snapshot(copy) as connection:
                tables, found = read_states(connection), _read_histories(connection)
                version = str(connection.exec_driver_sql("SELECT sqlite_version()").scalar_one())
        finally:
            copy.dispose()
    dump = Dump(key, "sqlite", stream.size_bytes, stream.sha256)
    return Dumped(dump, Server(version), found, tables, "", 0.0)


def _read_histories(connection: Connection) -> list[str]:
    return list(connection.execute(select(histories.c.history_id).order_by(histories.c.number)).scalars())
