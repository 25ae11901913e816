"""Histories: the first write on another server, or on an older copy of the file, starts a new one."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Connection, Engine, text

from producer import Document, WriteConflict, Writer, statements
from schema.database import history, sqlite_progress
from schema.database.connection import connect, reading
from schema.database.history import Standing
from tests.support import written
from tests.support.pipeline import MODEL, document

pytestmark = pytest.mark.integration


def write(engine: Engine, doc_id: str, content: str) -> None:
    with engine.begin() as connection:
        Writer(MODEL).upsert(connection, document(doc_id, content))


def read_versions(engine: Engine) -> list[tuple[object, ...]]:
    return written.rows(
        engine,
        "SELECT doc_id, version, history_base, history_id = (SELECT history_id FROM system_identity)"
        " FROM documents ORDER BY doc_id",
    )


def test_writes_on_one_server_stay_in_one_history(mysql: Engine) -> None:
    for content in ("one", "two"):
        write(mysql, "d", content)
    assert read_versions(mysql) == [("d", 2, 0, 1)]
    assert written.rows(mysql, "SELECT COUNT(*) FROM histories") == [(1,)]


def test_first_write_on_another_server_starts_a_new_history(mysql: Engine) -> None:
    write(mysql, "kept", "one")
    write(mysql, "changed", "one")
    with mysql.begin() as connection:  # as if this server were a replica that was promoted
        connection.execute(text("UPDATE system_identity SET server_uuid = 'the old primary'"))
    write(mysql, "changed", "two")
    write(mysql, "new", "one")

    assert read_versions(mysql) == [("changed", 2, 1, 1), ("kept", 1, 0, 0), ("new", 1, 0, 1)]
    reasons = written.rows(mysql, "SELECT reason FROM histories ORDER BY number")
    assert reasons == [("init",), ("another server",)]
    assert written.rows(mysql, "SELECT server_uuid = @@server_uuid FROM system_identity") == [(1,)]


def test_two_first_writes_start_one_history(mysql: Engine) -> None:
    with mysql.begin() as connection:
        before = history.lock_identity(connection).history_id
        assert history.start_history(connection, "test", instead_of=before)
        assert not history.start_history(connection, "test", instead_of=before)
    assert written.rows(mysql, "SELECT COUNT(*) FROM histories") == [(2,)]


def lose_last_write(engine: Engine, tmp_path: Path) -> Engine:
    """The database as it was before one more document was written and relayed."""
    backup = tmp_path / "backup.db"
    with reading(engine) as connection:
        connection.execute(text("VACUUM INTO :backup"), {"backup": str(backup)})
    write(engine, "lost", "one")
    sqlite_progress.note_relayed(engine, 2)
    engine.dispose()
    database = Path(str(engine.url.database))
    for path in tmp_path.glob(f"{database.name}-*"):  # the write-ahead log of the file that is replaced
        path.unlink()
    shutil.copy(backup, database)
    return connect(f"sqlite:///{database}")


def test_older_copy_of_the_file_starts_a_new_history(engine: Engine, tmp_path: Path) -> None:
    write(engine, "kept", "one")
    restored = lose_last_write(engine, tmp_path)
    write(restored, "kept", "two")
    write(restored, "kept", "three")
    assert read_versions(restored) == [("kept", 3, 1, 1)]
    reasons = written.rows(restored, "SELECT reason FROM histories ORDER BY number")
    assert reasons == [("init",), ("an older copy of the file",)]
    assert written.rows(restored, "SELECT id FROM outbox") == [(1,), (3,), (4,)], "id 2 is not used again"
    restored.dispose()


def test_older_copy_keeps_a_document_failed_whose_file_failed(engine: Engine, tmp_path: Path) -> None:
    """Nobody works on it until its task is tried again."""
    with engine.begin() as connection:
        Writer(MODEL).upsert(connection, Document(doc_id="d", title="t", source_type="text", chunks=None))
        connection.execute(text("UPDATE documents SET status = 'failed'"))
        task = (
            "INSERT INTO processing_tasks (task_id, task_type, doc_id, status) VALUES ('t', 'extract', 'd', 'failed')"
        )
        connection.execute(text(task))
    restored = lose_last_write(engine, tmp_path)
    write(restored, "other", "one")
    assert written.rows(restored, "SELECT status FROM documents WHERE doc_id = 'd'") == [("failed",)]
    assert written.rows(restored, "SELECT count(*) FROM histories") == [(2,)]
    restored.dispose()


def test_copy_with_every_relayed_row_starts_no_new_history(engine: Engine) -> None:
    write(engine, "d", "one")
    sqlite_progress.note_relayed(engine, 1)
    write(engine, "d", "two")
    assert read_versions(engine) == [("d", 2, 0, 1)]


def test_document_at_another_version_is_a_conflict(engine: Engine) -> None:
    """Should a row lock be lost, one version is still never written twice."""
    write(engine, "d", "one")
    real = statements.update_document

    def update_after_another(connection: Connection, *arguments: Any) -> None:
        connection.execute(text("UPDATE documents SET version = version + 1"))
        real(connection, *arguments)

    conflict = pytest.raises(WriteConflict, match="another transaction wrote document 'd'")
    with patch.object(statements, "update_document", update_after_another), conflict, engine.begin() as connection:
        Writer(MODEL).upsert(connection, document("d", "ours"))
    assert written.rows(engine, "SELECT aggregate_version FROM outbox ORDER BY id") == [(1,)]


@pytest.mark.parametrize(
    ("event", "standing"),
    [
        (("now", 5), Standing.VALID),  # base < version
        (("now", 7), Standing.VALID),
        (("now", 8), Standing.LOST),  # ahead of the document: written, published and lost
        (("now", 4), Standing.LOST),  # this history never wrote it
        (("before", 4), Standing.SUPERSEDED),  # inherited, or lost before the version that is inherited
        (("before", 5), Standing.LOST),
    ],
)
def test_event_is_valid_only_in_the_history_of_its_document(event: tuple[str, int], standing: Standing) -> None:
    assert history.judge(*event, history_id="now", history_base=4, version=7) is standing


def test_first_writers_after_a_failover_do_not_deadlock(mysql: Engine) -> None:
    for round_ in range(10):
        with mysql.begin() as connection:
            connection.execute(text("UPDATE system_identity SET server_uuid = 'the old primary'"))
        mysql.dispose()  # clients make new connections, to the new primary
        before = threading.Barrier(2)

        def lock(before: threading.Barrier = before) -> str:
            with mysql.connect() as connection:
                before.wait(timeout=30)
                with connection.begin():
                    return history.lock_identity(connection).history_id

        with ThreadPoolExecutor(2) as pool:
            first, second = (pool.submit(lock) for _ in range(2))
            assert first.result() == second.result()
        assert written.rows(mysql, "SELECT COUNT(*) FROM histories") == [(2 + round_,)]


def test_server_is_compared_without_a_lock_once_per_connection(mysql: Engine) -> None:
    counts = []
    with mysql.connect() as connection:
        connection.info.clear()
        for _ in range(2):
            with connection.begin(), written.statements(mysql) as sent:
                history.lock_identity(connection)
            counts.append(len(sent))
    assert counts == [2, 1]
