"""`rag-outbox show`: all that the metadata database knows of one document, from one snapshot."""

from collections.abc import Sequence
from typing import Any
from zlib import crc32

from sqlalchemy import Connection, Row, Select, select

from operations.documents.listing import STATE, utc_text
from operations.errors import OperationError
from operations.wiring import System
from schema.database.connection import snapshot
from schema.database.tables import (
    LETTER_STATES,
    chunks,
    document_files,
    documents,
    operation_logs,
    outbox,
    outbox_dead_letters,
    processing_tasks,
    sink_states,
)

_OPERATIONS, _EVENTS, _LETTERS, _TASKS = 10, 100, 20, 100  # rows shown at most
_DOCUMENT = (
    *("doc_id", "title", "version", "history_id", "source_type", "source_url", "business_tag", "domain", "language"),
    *("page_count", "file_size", "content_sha256", "chunk_count", "created_at", "updated_at", "deleted_at"),
)
_SINK = ("state", "desired_version", "applied_version", "attempts", "last_error", "requested_at", "applied_at")
_CHUNK = ("chunk_index", "chunk_id", "vector_level", "modal_type", "embedding_status", "milvus_synced", "content")
_FILE = ("kind", "object_key", "content_type", "size_bytes", "sha256", "version", "removed_in_version")
_EVENT = ("id", "event_id", "event_type", "aggregate_version", "payload_bytes", "created_at")
_LETTER = ("stage", "event_id", "aggregate_version", "error", "attempts", "dead_at")
_OPERATION = ("log_id", "operation_type", "target_table", "operator", "created_at", "payload")
_TASK = ("task_id", "task_type", "status", "attempt", "retry_count", "error_message", "created_at", "completed_at")


class NoSuchDocument(OperationError):
    """Raised for an id that no document has; the message names it."""


def describe(system: System, doc_id: str, *, chunk_count: int) -> dict[str, Any]:
    """The document with its first `chunk_count` chunks. Raises NoSuchDocument."""
    lanes = system.identity.lanes
    with snapshot(system.engine) as connection:
        row = connection.execute(_columns(documents, _DOCUMENT, STATE.label("state"), doc_id=doc_id)).one_or_none()
        if row is None:
            raise NoSuchDocument(f"no such document: {doc_id!r}")
        states = connection.execute(_columns(sink_states, ("sink", *_SINK), doc_id=doc_id)).all()
        some_chunks = _columns(chunks, _CHUNK, doc_id=doc_id).order_by(chunks.c.chunk_index).limit(chunk_count)
        files = _rows(connection, _columns(document_files, _FILE, doc_id=doc_id))
        in_any_state = outbox_dead_letters.c.state.in_(LETTER_STATES)  # the index begins with it
        letters = _columns(outbox_dead_letters, _LETTER, aggregate_id=doc_id).where(in_any_state).limit(_LETTERS)
        newest = operation_logs.c.log_id.desc()
        operations = _columns(operation_logs, _OPERATION, target_id=doc_id).order_by(newest).limit(_OPERATIONS)
        tasks = _columns(processing_tasks, _TASK, doc_id=doc_id).order_by(processing_tasks.c.created_at.desc())
        return {
            **_facts(row),
            "sinks": {state.sink: {name: _value(state, name) for name in _SINK} for state in states},
            "chunks": _rows(connection, some_chunks),
            "files": [{**file, "location": system.store.location(file["object_key"])} for file in files],
            "events": _rows(connection, _select_waiting(connection, doc_id, lanes)),
            "dead_letters": _rows(connection, letters),
            "operations": [_shorten_operation(one) for one in _rows(connection, operations)],
            "tasks": _rows(connection, tasks.limit(_TASKS)),
        }


def _select_waiting(connection: Connection, doc_id: str, lanes: int) -> Select[Any]:
    """The events of the document in the outbox, without their payloads."""
    waiting = _columns(outbox, _EVENT, aggregate_id=doc_id).order_by(outbox.c.id).limit(_EVENTS)
    if connection.dialect.name == "mysql":  # its index leads to one lane of the backlog; SQLite has no CRC32
        waiting = waiting.where(outbox.c.lane == crc32(doc_id.encode()) % lanes)
    return waiting


def _columns(table: Any, names: Sequence[str], *more: Any, **key: str) -> Select[Any]:
    [(name, value)] = key.items()
    return select(*(table.c[column] for column in names), *more).where(table.c[name] == value)


def _rows(connection: Connection, statement: Select[Any]) -> list[dict[str, Any]]:
    return [_facts(row) for row in connection.execute(statement)]


def _shorten_operation(operation: dict[str, Any]) -> dict[str, Any]:
    """Of the state before the operation only the version; None for the first one."""
    before = operation.pop("payload")
    return {**operation, "version_before": before.get("version") if isinstance(before, dict) else None}


def _facts(row: Row[Any]) -> dict[str, Any]:
    return {name: _value(row, name) for name in row._fields}


def _value(row: Row[Any], name: str) -> Any:
    value = getattr(row, name)
    return utc_text(value) if name.endswith("_at") else value
