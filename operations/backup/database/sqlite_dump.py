"""Dumps of SQLite: a copy of the database file by SQLite's own backup, consistent during writes."""

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from operations.backup.errors import BackupUnusable
from schema.database.tables import embedding_cache
from schema.object_store.port import Readable

_COPY_BYTES = 1024 * 1024
_BUSY_SECONDS = 30.0
_PREFIX = "backup-scratch-"
_ABANDONED_SECONDS = 86_400


@contextmanager
def scratch_folder(parent: Path, purpose: str) -> Iterator[Path]:
    """A new folder, removed at the end; one that a process left when it died goes after a day."""
    for left in parent.glob(f"{_PREFIX}*"):
        if left.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{purpose}-", dir=parent) as folder:
        yield Path(folder)


@contextmanager
def dumped_file(database: Path) -> Iterator[Path]:
    """A copy of the database, without the embedding cache, in a temporary folder next to it, which has room for it."""
    with scratch_folder(database.parent, "dump") as folder:
        copy = folder / "dump.sqlite3"
        uri = f"{database.absolute().as_uri()}?mode=rw"  # an absent file is not made; WAL needs to write
        with (
            closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
            target.execute(f"DELETE FROM {embedding_cache.name}")
            target.commit()
            target.execute("VACUUM")  # else the free pages keep it
            target.execute("PRAGMA journal_mode=DELETE")  # one file, whole
        yield copy


def load(stream: Readable, path: Path) -> None:
    """Write a dump to a new file, and check it. Raises BackupUnusable."""
    with path.open("xb") as file:
        shutil.copyfileobj(stream, file, _COPY_BYTES)
    try:
        with closing(sqlite3.connect(path)) as connection:
            [(found,), *_] = connection.execute("PRAGMA integrity_check").fetchall()
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise BackupUnusable(f"the dump is no whole SQLite database: {found}")
