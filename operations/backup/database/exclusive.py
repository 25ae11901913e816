"""One backup of a database at a time: two would choose the same timestamp."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import Engine, text

from operations.backup.errors import BackupFailed

_BUSY = "another backup of this database is being made"


@contextmanager
def hold_backup_lock(engine: Engine) -> Iterator[None]:
    """Raises BackupFailed if another process holds the lock; it is released when that process dies."""
    if engine.dialect.name == "sqlite":
        lock = FileLock(Path(f"{engine.url.database}.backup-lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise BackupFailed(_BUSY) from None
        try:
            yield
        finally:
            lock.release()
        return
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("SET SESSION wait_timeout = 604800")  # it is idle meanwhile
        name = "CONCAT('rag-outbox backup ', LEFT(SHA2(DATABASE(), 256), 32))"  # locks are global to the server
        if connection.execute(text(f"SELECT GET_LOCK({name}, 0)")).scalar() != 1:
            raise BackupFailed(_BUSY)
        try:
            yield
        finally:
            connection.invalidate()
