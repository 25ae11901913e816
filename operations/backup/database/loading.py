"""Loads a dump into a database of its own, in which nobody else looks, and compares it with its manifest."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine

from operations.backup.database import sqlite_dump
from operations.backup.database.mysql_client import MySQLClient
from operations.backup.database.scratch import scratch_database
from operations.backup.database.table_states import describe_differences, read_states
from operations.backup.errors import BackupUnusable, OtherBackup
from operations.backup.manifest import Manifest
from operations.backup.objects.streams import VerifyingReader
from operations.settings import PREFIX, Settings
from schema.database.connection import connect, snapshot
from schema.database.tables import embedding_cache
from schema.object_store.port import ObjectMissing, ObjectStore

_PIECE_BYTES = 1024 * 1024
_SCRATCH_FILE = "metadata.db"


@contextmanager
def load_dump(settings: Settings, store: ObjectStore, manifest: Manifest, purpose: str) -> Iterator[Engine]:
    """An engine for a scratch database with the dump's content, removed at the end. Raises BackupUnusable.

    The embedding cache, which no dump has, is empty.

    On MySQL it is on the server of the settings; on SQLite a file in the folder of the database.
    """
    url = settings.database
    if url.get_backend_name() == "sqlite":
        folder = Path(url.database or "").absolute().parent
        with sqlite_dump.scratch_folder(folder, purpose) as scratch:
            path = scratch / _SCRATCH_FILE
            with _open_dump(store, manifest) as stream:
                sqlite_dump.load(stream, path)
            engine = connect(f"sqlite:///{path}")
            try:
                embedding_cache.create(engine, checkfirst=True)
                yield engine
            finally:
                engine.dispose()
        return
    client = MySQLClient(url, settings.mysql_client_dir)
    client.require()
    with scratch_database(url, purpose) as engine:
        with _open_dump(store, manifest) as stream:
            client.load(stream, engine.url.database or "")
        embedding_cache.create(engine, checkfirst=True)
        yield engine


def require_dialect(settings: Settings, manifest: Manifest) -> None:
    """Raises OtherBackup if the settings name another kind of database than that of the dump."""
    dialect = settings.database.get_backend_name()
    if dialect != manifest.dump.dialect:
        raise OtherBackup(f"the backup is a dump of {manifest.dump.dialect}, and {PREFIX}DATABASE_URL names {dialect}")


def require_whole(store: ObjectStore, manifest: Manifest) -> None:
    """Read the dump once. Raises BackupUnusable unless it has its size and SHA-256."""
    with _open_dump(store, manifest) as stream:
        while stream.read(_PIECE_BYTES):
            pass


def compare_tables(engine: Engine, manifest: Manifest) -> list[str]:
    """A line per table whose rows or checksum are not those of the manifest."""
    if manifest.tables is None:
        return []
    with snapshot(engine) as connection:
        return describe_differences(manifest.tables, read_states(connection))


@contextmanager
def _open_dump(store: ObjectStore, manifest: Manifest) -> Iterator[VerifyingReader]:
    dump = manifest.dump
    place = store.location(dump.key)
    try:
        with store.open(dump.key) as stream:
            yield VerifyingReader(stream, place, size_bytes=dump.size_bytes, sha256=dump.sha256)
    except ObjectMissing:
        raise BackupUnusable(f"{place} is missing: the dump of the backup") from None
