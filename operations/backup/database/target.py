"""The database to restore into: it must have none of our tables, and gets all of them at one moment.

So nobody sees a database that is half restored: until that moment every process finds no tables, and says so.
"""

import os
from pathlib import Path

from sqlalchemy import URL, Engine, text
from sqlalchemy.exc import DBAPIError

from operations.backup.database.table_states import TABLES
from operations.backup.errors import NotEmpty
from schema.database.connection import connect, reading

_EXISTS = 1050  # of MySQL: a table of this name
_BESIDE_SQLITE = ("", "-wal", "-shm", "-journal")


def require_empty(url: URL) -> None:
    """Raises NotEmpty. Creates a MySQL database that is missing."""
    if url.get_backend_name() == "sqlite":
        present = [name for name in _sqlite_files(url) if name.exists()]
        if present:
            raise NotEmpty(
                f"not empty: there is {present[0]}; move it away, with every {Path(url.database or '').name}-* next to "
                "it except …db.relayed, and restore again"
            )
        return
    server = connect(url.set(database=""), timeout_seconds=None)
    try:
        with server.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            statement = "SELECT table_name FROM information_schema.tables WHERE table_schema = :name"
            tables = set(connection.execute(text(statement), {"name": url.database}).scalars()) & set(TABLES)
            if tables:
                documents = (
                    connection.exec_driver_sql(f"SELECT COUNT(*) FROM `{url.database}`.documents").scalar_one()
                    if "documents" in tables
                    else 0
                )
                raise NotEmpty(
                    f"not empty: the database {url.database} has {len(tables)} tables of rag-outbox, with {documents} "
                    "documents. Drop them, or name another database. If an earlier restore put them there, do not: go "
                    "on with rag-outbox init"
                )
            connection.exec_driver_sql(f"CREATE DATABASE IF NOT EXISTS `{url.database}` CHARACTER SET utf8mb4")
    finally:
        server.dispose()


def move_tables(scratch: Engine, url: URL) -> None:
    """Move the tables of the scratch database to their place, all or none. Raises NotEmpty if others are there now."""
    if url.get_backend_name() == "sqlite":
        _move_file(scratch, Path(url.database or ""))
        return
    source, target = scratch.url.database, url.database
    moved = ", ".join(f"`{source}`.`{table}` TO `{target}`.`{table}`" for table in TABLES)
    try:
        with scratch.begin() as connection:
            connection.exec_driver_sql(f"RENAME TABLE {moved}")
    except DBAPIError as error:
        if error.orig is not None and error.orig.args[0] == _EXISTS:
            raise NotEmpty(
                f"not empty: another process made tables in {target} since the restore began: {error.orig.args[1]}"
            ) from None
        raise


def _sqlite_files(url: URL) -> list[Path]:
    return [Path(f"{url.database}{suffix}") for suffix in _BESIDE_SQLITE]


def _move_file(scratch: Engine, target: Path) -> None:
    source = Path(scratch.url.database or "")
    with reading(scratch) as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("PRAGMA journal_mode=DELETE")  # one file, whole
    scratch.dispose()
    with source.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(source, target)  # unlike a rename, never over another file
    except FileExistsError:
        raise NotEmpty(f"not empty: another process made {target} since the restore began") from None
    handle = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
