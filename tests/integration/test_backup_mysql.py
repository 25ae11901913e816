"""Backups of MySQL: the dump, its manifest and its verification, with MySQL's own programs."""

import hashlib
import io
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, insert, text

from operations.backup import catalogue, keys, manifest
from operations.backup.create import create
from operations.backup.database.exclusive import hold_backup_lock
from operations.backup.database.loading import load_dump
from operations.backup.database.scratch import scratch_database
from operations.backup.errors import BackupFailed
from operations.backup.objects import object_list
from operations.backup.verify import verify
from operations.monitoring.metrics import BacklogMetrics
from operations.monitoring.monitor import Monitor
from operations.wiring import System
from producer import Writer, run
from schema.database.connection import connect
from schema.database.tables import embedding_cache
from schema.failures import Retryable
from schema.object_store import layout
from schema.object_store.directory import DirectoryStore
from schema.object_store.layout import SYSTEM_ID_KEY
from schema.object_store.port import ObjectStore
from tests.contracts.object_store import put
from tests.support.backups import (
    change_manifest,
    make_backup,
    scripted_client,
    settings_as_text,
    settings_of,
    system_of,
)
from tests.support.commands import Folder
from tests.support.pipeline import MODEL, document
from tests.support.servers import gone
from tests.support.waiting import wait_for
from tests.support.written import rows

pytestmark = pytest.mark.integration

PASSWORD = "p\"a'ss # w;o\\rd\\\\n\n\t %"


def write(engine: Engine, *doc_ids: str) -> None:
    """As a service does: the lock of a backup may end the transaction as a deadlock, and `run` repeats it."""
    documents = [document(doc_id, "one", f"二 {doc_id} \\ ' \n", file=b"\0\n'\\\xff") for doc_id in doc_ids]
    run(engine, lambda connection: Writer(MODEL).upsert_many(connection, documents))


@pytest.fixture
def system(mysql: Engine, tmp_path: Path, mysql_client: Path) -> Iterator[System]:
    write(mysql, *(f"d{n}" for n in range(20)))
    write(mysql, "d0", "d1")  # of operation_logs, with JSON and without
    with system_of(settings_of(mysql, tmp_path / "data", mysql_client), mysql) as made:
        yield made


def databases(engine: Engine) -> set[str]:
    name = engine.url.database or ""
    found = rows(engine, "SELECT schema_name FROM information_schema.schemata")
    return {database for (database,) in found if database.startswith(f"{name}_")}


def replace_in_dump(store: ObjectStore, timestamp: str, old: bytes, new: bytes) -> None:
    """Change the dump, and let its manifest have the digest of the changed one."""
    key = keys.dump_key(timestamp, "sql")
    assert store.read(key).count(old) > 0
    content = store.read(key).replace(old, new)
    store.put(key, io.BytesIO(content), size_bytes=len(content), content_type="application/sql", sha256=None)
    digest = hashlib.sha256(content).hexdigest()
    dump = {"key": key, "dialect": "mysql", "size_bytes": len(content), "sha256": digest}
    change_manifest(store, timestamp, dump=dump)


def test_dump_made_during_writes_agrees_with_its_manifest(system: System) -> None:
    """Counts and checksums come from the snapshot of the dump, whatever is written at the same time."""
    stop, written = threading.Event(), 0

    def keep_writing() -> None:
        nonlocal written
        while not stop.is_set():
            write(system.engine, f"during-{written}")
            written += 1

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        wait_for(lambda: written > 5, "the writer to write")
        before = written
        made = make_backup(system)
        wait_for(lambda: written > before + 5, "the writer to go on")
    finally:
        stop.set()
        writer.join()
    assert made.tables is not None
    assert made.tables["documents"].rows >= 20 + before
    assert made.server.gtid_executed
    assert made.server.binlog_position > 0
    found = verify(system.settings, system.store, made)
    assert (found.differences, found.notes) == ([], [])
    assert databases(system.engine) == set(), "the scratch database is dropped"


def test_dump_leaves_out_the_embedding_cache(system: System) -> None:
    """It is the largest table, and has vectors of text that a later erase removes."""
    with system.engine.begin() as connection:
        connection.execute(insert(embedding_cache).values(cache_key="k", model="m", vector=b"cached" * 1000))
    made = make_backup(system)
    assert b"636163686564" not in system.store.read(made.dump.key), "the hex digits of what is cached"
    with load_dump(system.settings, system.store, made, "restore") as engine:
        assert rows(engine, "SELECT COUNT(*) FROM embedding_cache") == [(0,)], "and a restore has the table"
    assert verify(system.settings, system.store, made).differences == []


def test_verify_finds_a_flipped_byte_and_a_changed_row(system: System) -> None:
    first, second = make_backup(system), make_backup(system)
    assert second.timestamp > first.timestamp
    key = keys.dump_key(first.timestamp, "sql")
    content = bytearray(system.store.read(key))
    content[len(content) // 2] ^= 1
    system.store.put(key, io.BytesIO(content), size_bytes=len(content), content_type="application/sql", sha256=None)
    [line] = verify(system.settings, system.store, first).differences
    assert "is damaged: its SHA-256 is" in line
    replace_in_dump(system.store, second.timestamp, b"'Title of d7'", b"'Title of d8'")
    [line] = verify(system.settings, system.store, manifest.read(system.store, second.timestamp)).differences
    assert line.startswith("table documents has other content")


class ChangingStore(DirectoryStore):
    """Changes once, when the first object that `begins` so is copied: those after it are listed by then."""

    begins = ""
    change: Callable[[], None] | None = None

    def sha256(self, key: str) -> str | None:
        if key.startswith(self.begins):
            change, self.change = self.change, None
            if change is not None:
                change()
        return super().sha256(key)


@pytest.mark.parametrize("begins", ["temp/", "processed-data/"])
def test_objects_that_move_while_they_are_copied_are_in_the_copy(system: System, tmp_path: Path, begins: str) -> None:
    source, target = ChangingStore(system.store.root), DirectoryStore(tmp_path / "copies")  # type: ignore[attr-defined]
    system.__dict__["store"] = source
    staged, final = layout.staging_key("0" * 32), "raw-files/pdf/2026/01/31/large.pdf"
    old = layout.embeddings_key("d", 1, 1)
    new = layout.rewritten_key(old, "0" * 8)
    for key in (staged, old, "processed-data/extracted-text/a.txt"):
        put(source, key, key.encode())

    def move() -> None:
        """A consumer brings the staged file to its place, and retention rewrites the archive."""
        for before, after in ((staged, final), (old, new)):
            put(source, after, before.encode())
            source.remove([before])

    source.begins, source.change = begins, move
    made = make_backup(system, target)
    listed = dict(object_list.read_list(target, made.objects))
    assert new in listed
    assert listed.keys() & {staged, final}, "the dump names the staged file"
    assert verify(system.settings, target, made).differences == []
    assert made.copied is not None
    assert (made.copied.copied, made.copied.skipped) == (len(listed), 0)


def test_password_is_in_no_argument_and_no_environment(system: System, tmp_path: Path, mysql_client: Path) -> None:
    user = f"b-{(system.engine.url.database or '')[-12:]}"
    statement = f"CREATE USER `{user}` IDENTIFIED BY %s"
    with system.engine.begin() as connection:
        connection.exec_driver_sql(statement, (PASSWORD,))
        connection.exec_driver_sql(f"GRANT ALL ON *.* TO `{user}`")
    seen = tmp_path / "seen"
    spy = f"tr '\\0' '\\n' < /proc/$$/cmdline >> {seen}; tr '\\0' '\\n' < /proc/$$/environ >> {seen}"
    client = scripted_client(tmp_path / "spies", mysql_client, mysqldump=spy, mysql=spy)
    engine = connect(system.engine.url.set(username=user, password=PASSWORD))
    try:
        given = settings_of(engine, system.settings.data_dir, client)
        with system_of(given, engine) as other:
            assert verify(given, other.store, make_backup(other)).differences == []
    finally:
        engine.dispose()
        with system.engine.begin() as connection:
            connection.exec_driver_sql(f"DROP USER `{user}`")
    said = seen.read_text()
    assert said.count("--defaults-file=/dev/fd/") == 2
    for secret in (PASSWORD, PASSWORD[:5], "MYSQL_PWD"):
        assert secret not in said


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo some; echo 'it is full' >&2; exit 3", "mysqldump ended with status 3: it is full"),
        ("echo some; kill -9 $$", "mysqldump was killed by signal 9: it wrote no error"),
        ("echo some; exit 0", "mysqldump ended before the end of the dump"),
    ],
)
def test_failed_dump_leaves_nothing_and_says_why(
    system: System, tmp_path: Path, mysql_client: Path, script: str, reason: str
) -> None:
    client = scripted_client(tmp_path / "failing", mysql_client, mysqldump=script)
    other = System(settings_of(system.engine, system.settings.data_dir, client), system.engine)
    with pytest.raises(BackupFailed) as raised:
        create(other, note=print)
    assert str(raised.value) == reason
    assert list(other.store.keys(keys.FOLDER)) == []
    write(system.engine, "goes-on")  # no lock is held


def test_sigterm_ends_the_child_and_leaves_nothing(system: System, tmp_path: Path, mysql_client: Path) -> None:
    child = tmp_path / "child"
    hangs = scripted_client(tmp_path / "hanging", mysql_client, mysqldump=f"echo $$ > {child}; exec sleep 1000")
    given = settings_of(system.engine, system.settings.data_dir, hangs)
    folder = Folder(given.data_dir, **settings_as_text(given))
    with folder.start("backup", "create") as running:
        wait_for(lambda: child.exists() and child.read_text().strip(), "the child to start")
        running.terminate()
        outcome = running.ended()
    assert (outcome.status, outcome.err) == (130, "rag-outbox: interrupted\n")
    wait_for(lambda: gone(int(child.read_text())), "the child to end")
    assert list(system.store.keys(keys.FOLDER)) == []
    write(system.engine, "goes-on")  # no lock is held


def test_second_backup_at_the_same_time_is_refused(system: System) -> None:
    with (
        hold_backup_lock(system.engine),
        pytest.raises(BackupFailed, match=r"^another backup of this database is being made$"),
    ):
        make_backup(system)
    make_backup(system)


class FullStore(DirectoryStore):
    """A folder on a full disk: only the marker fits."""

    def put(self, key: str, *given: Any, **options: Any) -> None:
        if key != SYSTEM_ID_KEY:
            raise OSError("no room")
        super().put(key, *given, **options)


def test_newest_backup_of_each_place_is_in_the_metrics(system: System, tmp_path: Path) -> None:
    registry = CollectorRegistry()
    monitor = Monitor(system.engine, BacklogMetrics(registry))

    def value(name: str, place: str) -> float | None:
        monitor.look()
        return registry.get_sample_value(f"rag_outbox_backup_{name}", {"place": place})

    assert value("newest_timestamp_seconds", "bucket") is None, "nobody has begun one"
    put(system.store, "raw-files/text/2026/01/01/d.txt", b"a file")
    with pytest.raises(Retryable, match="no room"):
        make_backup(system, FullStore(tmp_path / "full"))
    [first] = [one.timestamp for one in catalogue.list_backups(system.store)]
    assert value("newest_timestamp_seconds", "bucket") == keys.parse_timestamp(first).timestamp()
    assert value("newest_timestamp_seconds", "copy") == 0, "it was begun, and has not ended"
    assert value("size_bytes", "copy") is None

    made = make_backup(system, DirectoryStore(tmp_path / "copies"))
    at = keys.parse_timestamp(made.timestamp).timestamp()
    assert {value("newest_timestamp_seconds", place) for place in ("bucket", "copy")} == {at}
    assert value("size_bytes", "bucket") == made.dump.size_bytes
    assert value("size_bytes", "copy") == made.dump.size_bytes + made.objects.size_bytes
    assert 0 < (value("seconds", "bucket") or 0) < (value("seconds", "copy") or 0)


def test_scratch_database_of_a_dead_process_is_dropped_by_the_next(mysql: Engine) -> None:
    left = f"{mysql.url.database}_verify_0123456789ab"
    with mysql.begin() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {left}")
    with scratch_database(mysql.url, "verify") as living:
        assert databases(mysql) == {living.url.database}
        with scratch_database(mysql.url, "verify") as other:
            assert databases(mysql) == {living.url.database, other.url.database}
    assert databases(mysql) == set()


def test_dump_without_a_manifest_is_interrupted_and_removed_after_a_day(system: System) -> None:
    made = make_backup(system)
    young = keys.format_timestamp(keys.parse_timestamp(made.timestamp) - timedelta(hours=1))
    for timestamp in ("20200101T000000Z", young):
        key = keys.dump_key(timestamp, "sql")
        system.store.put(key, io.BytesIO(b"half"), size_bytes=4, content_type="application/sql", sha256=None)
    listed = catalogue.list_backups(system.store)
    assert [one.problem for one in listed if one.manifest is None] == ["interrupted"] * (len(listed) - 1)
    notes: list[str] = []
    create(system, note=notes.append)
    assert [note.partition(", ")[2] for note in notes] == ["which an interrupted backup left"]
    assert [one.timestamp for one in catalogue.list_backups(system.store)][:2] == [young, made.timestamp]


def test_without_the_right_to_lock_nothing_is_counted(system: System, mysql_client: Path) -> None:
    user = f"s-{(system.engine.url.database or '')[-12:]}"
    with system.engine.begin() as connection:
        connection.execute(text(f"CREATE USER `{user}` IDENTIFIED BY 'x'"))
        connection.execute(text(f"GRANT SELECT ON * TO `{user}`"))
    engine = connect(system.engine.url.set(username=user, password="x"))
    try:
        with system_of(settings_of(engine, system.settings.data_dir, mysql_client), engine) as other:
            notes: list[str] = []
            made = create(other, note=notes.append)
            with pytest.raises(BackupFailed, match=r"the user may not create .*: GRANT ALL ON `.*\\_verify\\_%`"):
                verify(other.settings, other.store, made)
    finally:
        engine.dispose()
        with system.engine.begin() as connection:
            connection.execute(text(f"DROP USER `{user}`"))
    assert notes[1:] == ["rows were not counted: the user has not the privilege LOCK TABLES; see docs/backup.md"]
    assert re.match(r"the database did not note this backup, so metrics and status lack it: .*INSERT command", notes[0])
    assert rows(system.engine, "SELECT * FROM backups") == [], "and the backup is made in spite of that"
    assert (made.tables, made.rows) == (None, None)
    found = verify(system.settings, system.store, made)
    assert (found.differences, len(found.notes)) == ([], 1)
