"""Scratch databases: a dump is loaded into a database of its own, next to the target, which nobody else looks at.

A process that dies leaves its scratch database; the next one drops it. A lock of the server, named like the database,
tells whether its process lives.
"""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL, Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from operations.backup.errors import BackupFailed
from schema.database.connection import connect

_MOST_CHARACTERS = 64  # of a name in MySQL
_DENIED = {1044, 1045, 1142, 1227}
_KEEP_SECONDS = 7 * 24 * 3600  # the session that holds the lock is idle meanwhile


@contextmanager
def scratch_database(url: URL, purpose: str) -> Iterator[Engine]:
    """A new, empty database named after that of `url`, dropped at the end. Raises BackupFailed without the right."""
    administrator = connect(url.set(database=""), timeout_seconds=None)
    prefix = f"{(url.database or '')[: _MOST_CHARACTERS - len(purpose) - 14]}_{purpose}_"
    try:
        with administrator.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.exec_driver_sql(f"SET SESSION wait_timeout = {_KEEP_SECONDS}")
            _drop_left_over(connection, prefix)
            name = f"{prefix}{uuid.uuid4().hex[:12]}"
            connection.execute(text("SELECT GET_LOCK(:name, 0)"), {"name": name})
            _create(connection, name, prefix)
            engine = connect(url.set(database=name), timeout_seconds=None)
            try:
                yield engine
            finally:
                engine.dispose()
                _drop(administrator, name)
    finally:
        administrator.dispose()


def _create(connection: Connection, name: str, prefix: str) -> None:
    try:
        connection.exec_driver_sql(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
    except DBAPIError as error:
        if error.orig is None or error.orig.args[0] not in _DENIED:
            raise
        pattern = prefix.replace("_", r"\_")
        raise BackupFailed(
            f"the dump is loaded into a database of its own first, and the user may not create {name}: "
            f"GRANT ALL ON `{pattern}%`.* TO this user, or use an administrator"
        ) from None


def _drop_left_over(connection: Connection, prefix: str) -> None:
    names = connection.execute(text("SELECT schema_name FROM information_schema.schemata")).scalars().all()
    for name in names:
        if (
            re.fullmatch(re.escape(prefix) + "[0-9a-f]{12}", name)
            and connection.execute(text("SELECT IS_FREE_LOCK(:name)"), {"name": name}).scalar()
        ):
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS `{name}`")


def _drop(administrator: Engine, name: str) -> None:
    """By a connection of its own: that of the lock may have been lost."""
    with administrator.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS `{name}`")
