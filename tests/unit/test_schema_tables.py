"""The database itself refuses invalid rows, from any writer.

Every case is plain SQL, and names the error of SQLite and of MySQL: tests/integration runs the cases on MySQL.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.exc import DBAPIError

from schema.database.connection import connect
from schema.database.tables import documents, metadata

pytestmark = pytest.mark.unit

HASH = "8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8"

VALID: dict[str, dict[str, Any]] = {  # a valid row per table, with the required columns only
    "documents": {
        "doc_id": "doc-1",
        "version": 1,
        "history_id": "h",
        "title": "A",
        "source_type": "pdf",
        "chunk_count": 1,
    },
    "chunks": {
        "chunk_id": "chunk-1",
        "doc_id": "doc-1",
        "chunk_index": 0,
        "vector_level": "text",
        "modal_type": "text",
        "content": "alpha",
        "content_hash": HASH,
        "char_count": 5,
        "vector_version": 1,
        "row_version": 1,
    },
    "chunk_tombstones": {"chunk_id": "chunk-1", "doc_id": "doc-1", "removed_in_version": 2},
    "document_files": {
        "object_key": "raw-files/pdf/2025/01/31/doc-1.pdf",
        "doc_id": "doc-1",
        "kind": "raw",
        "sha256": HASH,
        "size_bytes": 0,
        "content_type": "application/pdf",
        "version": 1,
    },
    "sink_states": {"doc_id": "doc-1", "sink": "milvus", "desired_version": 2},
    "outbox": {
        "event_id": "019a0000-0000-7000-8000-000000000001",
        "aggregate_id": "doc-1",
        "aggregate_version": 1,
        "event_type": "rag.document.upserted.v1",
        "content_type": "application/json",
        "payload": b"{}",
    },
    "outbox_dead_letters": {
        "stage": "relay",
        "outbox_id": 1,
        "event_id": "019a0000-0000-7000-8000-000000000001",
        "aggregate_type": "document",
        "aggregate_id": "doc-1",
        "aggregate_version": 1,
        "event_type": "rag.document.upserted.v1",
        "content_type": "application/json",
        "payload": b"{}",
        "error": "too large",
        "attempts": 1,
    },
    "operation_logs": {
        "operation_type": "INSERT",
        "target_table": "documents",
        "target_id": "doc-1",
        "operator": "tests",
    },
    "processing_tasks": {"task_id": "task-1", "task_type": "embed", "doc_id": "doc-1"},
    "system_identity": {
        "id": 1,
        "system_id": "019a0000-0000-7000-8000-00000000000a",
        "namespace": "rag",
        "history_id": "019a0000-0000-7000-8000-00000000000b",
        "server_uuid": "",
        "embedding_model": "wordllama",
        "first_embedding_model": "wordllama",
        "dimension": 256,
        "lanes": 16,
    },
    "histories": {"history_id": "019a0000-0000-7000-8000-00000000000b", "server_uuid": "", "reason": "init"},
    "reconcile_reports": {"report": None},
    "retention_runs": {"policy": "operation_logs", "due_at": datetime(2026, 1, 1)},
    "backups": {"place": "bucket"},
    "tidied_documents": {"doc_id": "doc-1", "version": 2},
    "embedding_cache": {"cache_key": "k", "model": "bge-m3", "vector": b"1234"},
    "sinks": {"name": "milvus", "required": True, "takes_vectors": True, "takes_files": False},
}


@dataclass(frozen=True)
class Refused:
    """A row like the valid one but for `changes`, and what each database names as it refuses it."""

    why: str
    table: str
    changes: dict[str, Any]
    sqlite: str
    mysql: str
    existing: dict[str, Any] | None = field(default=None)  # a row that exists before


def _check(why: str, table: str, constraint: str, **changes: Any) -> Refused:
    return Refused(why, table, changes, f"CHECK constraint failed: {constraint}", f"'{constraint}' is violated")


def _enum(why: str, table: str, column: str, value: str, check: str = "") -> Refused:
    constraint = f"ck_{table}_{check or column}"
    return Refused(why, table, {column: value}, f"failed: {constraint}", f"Data truncated for column '{column}'")


def _null(table: str, column: str) -> Refused:
    why = f"{table} without {column}"
    return Refused(why, table, {column: None}, f"{table}.{column}", f"Column '{column}' cannot be null")


def _twin(why: str, table: str, columns: str, key: str, **changes: Any) -> Refused:
    names = ", ".join(f"{table}.{column}" for column in columns.split())
    return Refused(why, table, changes, f"UNIQUE constraint failed: {names}", f"'{table}.{key}'", VALID[table])


REFUSED = [
    _check("document without an id", "documents", "ck_documents_doc_id_filled", doc_id=""),
    _check("document of version 0", "documents", "ck_documents_version_above_history_base", version=0),
    _check("document of version -1", "documents", "ck_documents_version_above_history_base", version=-1),
    _check("document of -1 chunks", "documents", "ck_documents_chunk_count_natural", chunk_count=-1),
    _check(
        "completed without chunks",
        "documents",
        "ck_documents_completed_is_chunked",
        status="completed",
        chunk_count=None,
    ),
    _check("deleting without a date", "documents", "ck_documents_deleting_dated", status="deleting"),
    _enum("unknown source type", "documents", "source_type", "video"),
    _enum("source type in capitals", "documents", "source_type", "PDF"),
    _enum("empty source type", "documents", "source_type", ""),
    _enum("unknown document status", "documents", "status", "done"),
    _null("documents", "doc_id"),
    _null("documents", "version"),
    _null("documents", "title"),
    _null("documents", "source_type"),
    _null("documents", "status"),
    _twin("document twice", "documents", "doc_id", "PRIMARY", title="B"),
    _check("chunk at -1", "chunks", "ck_chunks_chunk_index_natural", chunk_index=-1),
    _check("vector of version 0", "chunks", "ck_chunks_versions_ordered", vector_version=0),
    _check("row older than its vector", "chunks", "ck_chunks_versions_ordered", vector_version=3, row_version=2),
    _enum("unknown vector level", "chunks", "vector_level", "page"),
    _enum("unknown embedding status", "chunks", "embedding_status", "done"),
    _null("chunks", "chunk_id"),
    _null("chunks", "content"),
    _null("chunks", "milvus_synced"),
    _twin("two chunks in one place", "chunks", "doc_id chunk_index", "uq_chunks_doc_id_chunk_index", chunk_id="2"),
    _twin("chunk twice", "chunks", "chunk_id", "PRIMARY", chunk_index=1),
    Refused("orphan", "chunks", {"doc_id": "doc-9"}, "FOREIGN KEY constraint failed", "fk_chunks_doc_id"),
    _twin("tombstone twice", "chunk_tombstones", "chunk_id", "PRIMARY", removed_in_version=3),
    _check("file of -1 bytes", "document_files", "ck_document_files_size_natural", size_bytes=-1),
    _enum("unknown kind of file", "document_files", "kind", "preview"),
    _twin("object twice", "document_files", "object_key", "PRIMARY", doc_id="doc-2"),
    _check("applied ahead of desired", "sink_states", "ck_sink_states_applied_was_desired", applied_version=3),
    _check("applied while behind", "sink_states", "ck_sink_states_applied_is_desired", state="applied"),
    _check(
        "applied one behind", "sink_states", "ck_sink_states_applied_is_desired", state="applied", applied_version=1
    ),
    _enum("unknown sink state", "sink_states", "state", "done"),
    _twin("sink state twice", "sink_states", "doc_id sink", "PRIMARY", desired_version=3),
    _check("event of version 0", "outbox", "ck_outbox_version_positive", aggregate_version=0),
    _null("outbox", "event_id"),
    _null("outbox", "payload"),
    _twin(
        "dead letter twice at one stage",
        "outbox_dead_letters",
        "stage event_id",
        "uq_outbox_dead_letters_stage_event_id",
        error="again",
    ),
    Refused(
        "unknown state of a dead letter",
        "outbox_dead_letters",
        {"state": "lost", "closed_at": "2026-05-01"},
        "failed: ck_outbox_dead_letters_state",
        "Data truncated for column 'state'",
    ),
    _check("dead letter without a payload", "outbox_dead_letters", "ck_outbox_dead_letters_payload_kept", payload=None),
    _check(
        "open letter with an end", "outbox_dead_letters", "ck_outbox_dead_letters_closed_dated", closed_at="2026-05-01"
    ),
    _check(
        "closed letter without an end", "outbox_dead_letters", "ck_outbox_dead_letters_closed_dated", state="replayed"
    ),
    _enum("unknown operation", "operation_logs", "operation_type", "SELECT"),
    _enum("unknown task type", "processing_tasks", "task_type", "upload"),
    _enum("unknown task status", "processing_tasks", "status", "pending", check="task_status"),
    _check("second identity", "system_identity", "ck_system_identity_single_row", id=2),
    _twin("identity twice", "system_identity", "id", "PRIMARY", embedding_model="other"),
    _check("dimension 0", "system_identity", "ck_system_identity_dimension_in_range", dimension=0),
    _check("dimension 32769", "system_identity", "ck_system_identity_dimension_in_range", dimension=32_769),
    _check("0 lanes", "system_identity", "ck_system_identity_lanes_in_range", lanes=0),
    _check("257 lanes", "system_identity", "ck_system_identity_lanes_in_range", lanes=257),
    _twin("history twice", "histories", "history_id", "uq_histories_history_id", reason="again"),
    _check("base at the version", "documents", "ck_documents_version_above_history_base", history_base=1),
    _check("base below 0", "documents", "ck_documents_version_above_history_base", history_base=-1),
    _enum("unknown role of a sink", "sinks", "state", "gone"),
]


def insert(connection: Connection, table: str, **changes: Any) -> None:
    """Insert the valid row of a table with `changes`; for a chunk, also its document."""
    if table == "chunks" and not connection.scalar(text("SELECT count(*) FROM documents")):
        insert(connection, "documents")
    row = VALID[table] | changes
    values = ", ".join(f":{column}" for column in row)
    connection.execute(text(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})"), row)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path / 'tables.db'}")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


def test_every_table_has_a_valid_row_here() -> None:
    assert set(VALID) == set(metadata.tables)


@pytest.mark.parametrize("table", VALID)
def test_valid_row_is_accepted(engine: Engine, table: str) -> None:
    with engine.begin() as connection:
        insert(connection, table)
    with engine.begin() as connection:
        assert connection.scalar(text(f"SELECT count(*) FROM {table}")) == 1


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.why)
def test_invalid_row_is_refused(engine: Engine, case: Refused) -> None:
    with engine.begin() as connection:
        if case.existing is not None:
            insert(connection, case.table, **case.existing)
        with pytest.raises(DBAPIError) as refusal:
            insert(connection, case.table, **case.changes)
    assert case.sqlite in str(refusal.value.orig)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE sink_states SET state = 'applied'",
        "UPDATE sink_states SET state = 'applied', applied_version = 1",
        "UPDATE sink_states SET applied_version = 3",
        "UPDATE sink_states SET desired_version = -1",
        "UPDATE documents SET status = 'deleting'",
        "UPDATE documents SET version = 0",
        "UPDATE system_identity SET id = 2",
    ],
)
def test_update_to_an_invalid_row_is_refused(engine: Engine, change: str) -> None:
    with engine.begin() as connection:
        for table in ("documents", "sink_states", "system_identity"):
            insert(connection, table)
        with pytest.raises(DBAPIError, match="CHECK constraint failed"):
            connection.execute(text(change))


def test_sink_state_is_applied_at_the_desired_version(engine: Engine) -> None:
    with engine.begin() as connection:
        insert(connection, "sink_states")
        connection.execute(text("UPDATE sink_states SET state = 'applied', applied_version = 2"))
        assert connection.execute(text("SELECT state, applied_version FROM sink_states")).one() == ("applied", 2)


def test_missing_columns_get_their_defaults(engine: Engine) -> None:
    with engine.begin() as connection:
        insert(connection, "chunks")
        insert(connection, "sink_states")
        insert(connection, "processing_tasks")
        assert connection.scalar(text("SELECT status FROM documents")) == "pending"
        assert connection.execute(text("SELECT embedding_status, milvus_synced FROM chunks")).one() == ("embedded", 0)
        states = connection.execute(text("SELECT state, applied_version, attempts, applied_at FROM sink_states"))
        assert states.one() == ("pending", 0, 0, None)
        tasks = connection.execute(text("SELECT status, priority, retry_count FROM processing_tasks"))
        assert tasks.one() == ("queued", 0, 0)


def test_database_sets_times_in_utc(engine: Engine) -> None:
    with engine.begin() as connection:
        insert(connection, "documents")
    with engine.begin() as connection:
        created_at = connection.execute(select(documents.c.created_at)).scalar_one()
        written = connection.scalar(text("SELECT created_at FROM documents"))
    assert abs(created_at.replace(tzinfo=UTC) - datetime.now(UTC)) < timedelta(minutes=1)
    assert len(written) == len("2025-01-31 12:34:56.123000")  # as SQLAlchemy writes times, so that both sort together


@pytest.mark.parametrize(("doc_id", "lane"), [("a", 1), ("doc-1", 4), ("手册", 11)])  # U+0061, U+0064, U+624B mod 16
def test_outbox_computes_lane_and_payload_size(engine: Engine, doc_id: str, lane: int) -> None:
    with engine.begin() as connection:
        insert(connection, "outbox", aggregate_id=doc_id, payload=b"\x00\xff\xc3")
        row = connection.execute(text("SELECT id, lane, payload_bytes, aggregate_type FROM outbox")).one()
    assert row == (1, lane, 3, "document")


def test_outbox_id_is_never_reused(engine: Engine) -> None:
    with engine.begin() as connection:
        insert(connection, "outbox")
        connection.execute(text("DELETE FROM outbox"))
        insert(connection, "outbox")
        assert connection.scalar(text("SELECT id FROM outbox")) == 2


def test_chunks_are_deleted_with_their_document(engine: Engine) -> None:
    with engine.begin() as connection:
        insert(connection, "chunks")
        connection.execute(text("DELETE FROM documents"))
        assert connection.scalar(text("SELECT count(*) FROM chunks")) == 0


def test_ids_that_differ_in_case_or_accent_are_different_keys(engine: Engine) -> None:
    doc_ids = ["resume", "Resume", "résumé", "resume ", "😀", "😁"]
    with engine.begin() as connection:
        for doc_id in doc_ids:
            insert(connection, "documents", doc_id=doc_id)
        found = connection.scalars(text("SELECT doc_id FROM documents WHERE doc_id = 'resume'")).all()
        assert found == ["resume"]
        assert set(connection.scalars(text("SELECT doc_id FROM documents"))) == set(doc_ids)
