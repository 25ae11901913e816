"""The statements of a write: rows of many documents in multi-row statements, inside the caller's transaction.

Invariant 1: document, chunks, operation log, sink states and outbox rows commit together or not at all.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, false, insert, null, update
from sqlalchemy.exc import IntegrityError

from producer.errors import WriteConflict
from producer.plan import Plan, Shift, WantedChunk
from producer.stored import StoredRow
from schema import limits
from schema.batches import bounded
from schema.database.clock import utc_now
from schema.database.statements import execute_for_ids
from schema.database.tables import (
    chunk_tombstones,
    chunks,
    document_files,
    documents,
    operation_logs,
    outbox,
    sink_states,
)
from schema.events import identity
from schema.sinks import SINKS

_ROWS_A_STATEMENT = 5_000
_INSERT_DOCUMENTS, _INSERT_STATES, _INSERT_CHUNKS = insert(documents), insert(sink_states), insert(chunks)
_INSERT_LOGS, _INSERT_EVENTS = insert(operation_logs), insert(outbox)  # made once: SQLAlchemy finds them faster
_SHIFT = 1_000_000_000  # moves chunk indexes out of the way of UNIQUE(doc_id, chunk_index)


def insert_documents(connection: Connection, plans: Sequence[Plan]) -> None:
    if not plans:
        return
    rows = [{"doc_id": plan.doc_id, "version": plan.version, "status": "pending", **plan.metadata} for plan in plans]
    try:
        connection.execute(_INSERT_DOCUMENTS, rows)
    except IntegrityError as error:
        raise WriteConflict("another transaction wrote the same new document; run this transaction again") from error
    states = [
        {"doc_id": plan.doc_id, "sink": sink, "desired_version": plan.version} for plan in plans for sink in SINKS
    ]
    connection.execute(_INSERT_STATES, states)


def update_document(connection: Connection, plan: Plan, *, deleting: bool) -> None:
    """Move a stored document to the plan's version; its sinks have to follow."""
    values: dict[str, Any] = {"version": plan.version, "updated_at": utc_now(), **plan.metadata}
    if deleting:
        values |= {"status": "deleting", "deleted_at": utc_now(), "chunk_count": 0}
    else:
        values |= {"status": "pending", "deleted_at": null()}
    connection.execute(update(documents).where(documents.c.doc_id == plan.doc_id).values(values))
    connection.execute(
        update(sink_states)
        .where(sink_states.c.doc_id == plan.doc_id)
        .values(desired_version=plan.version, state="pending", requested_at=utc_now(), attempts=0, last_error=null())
    )


def insert_chunks(connection: Connection, plans: Sequence[Plan]) -> None:
    rows = (_chunk_row(plan, chunk) for plan in plans for chunk in plan.new_chunks)
    for some in bounded(rows, _ROWS_A_STATEMENT):
        connection.execute(_INSERT_CHUNKS, some)


def change_chunks(connection: Connection, plan: Plan) -> None:
    """Remove, move and mark the stored chunks of one document; run before its new chunks are inserted."""
    execute_for_ids(connection, delete(chunks), chunks.c.chunk_id, plan.removed_chunks)
    execute_for_ids(connection, delete(chunk_tombstones), chunk_tombstones.c.chunk_id, plan.revived)
    tombstones = [
        {"chunk_id": chunk_id, "doc_id": plan.doc_id, "removed_in_version": plan.version}
        for chunk_id in plan.removed_chunks
    ]
    if tombstones:
        connection.execute(insert(chunk_tombstones), tombstones)
    unsynced = {"milvus_synced": false(), "updated_at": utc_now(), "row_version": plan.version}
    execute_for_ids(
        connection, update(chunks).values(**unsynced, vector_version=plan.version), chunks.c.chunk_id, plan.resent
    )
    execute_for_ids(connection, update(chunks).values(**unsynced), chunks.c.chunk_id, plan.relabelled)
    _update_columns(connection, plan)


def write_files(connection: Connection, plans: Iterable[Plan]) -> None:
    for plan in plans:
        execute_for_ids(
            connection,
            update(document_files).values(removed_in_version=plan.version),
            document_files.c.object_key,
            plan.removed_files,
        )
    rows = [(plan, kind, record) for plan in plans for kind, record in plan.files]
    execute_for_ids(
        connection, delete(document_files), document_files.c.object_key, [record.object_key for _, _, record in rows]
    )
    if rows:
        connection.execute(
            insert(document_files),
            [
                {
                    "object_key": record.object_key,
                    "doc_id": plan.doc_id,
                    "kind": kind,
                    "sha256": record.sha256,
                    "size_bytes": record.size_bytes,
                    "content_type": record.content_type,
                    "staged_key": record.staged_key,
                    "version": plan.version,
                }
                for plan, kind, record in rows
            ],
        )


def log_operations(
    connection: Connection, operations: Sequence[tuple[str, str, StoredRow | None]], operator: str
) -> None:
    """One row an (operation, doc_id, document row before it or None)."""
    connection.execute(
        _INSERT_LOGS,
        [
            {
                "operation_type": operation,
                "target_table": "documents",
                "target_id": doc_id,
                "payload": None if before is None else _as_json(before._mapping),
                "operator": operator,
            }
            for operation, doc_id, before in operations
        ],
    )


def append_events(
    connection: Connection,
    events: Iterable[tuple[Plan, str, bytes]],
    content_type: str,
    headers: Mapping[str, str] | None,
) -> None:
    """Outbox rows for (plan, event type, payload), in order."""
    connection.execute(
        _INSERT_EVENTS,
        [
            {
                "event_id": identity.event_id(),
                "aggregate_type": "document",
                "aggregate_id": plan.doc_id,
                "aggregate_version": plan.version,
                "event_type": event_type,
                "content_type": content_type,
                "headers": dict(headers) if headers else null(),
                "payload": payload,
            }
            for plan, event_type, payload in events
        ],
    )


def _chunk_row(plan: Plan, chunk: WantedChunk) -> dict[str, Any]:
    content = chunk.content or ""
    return {
        "chunk_id": chunk.chunk_id,
        "doc_id": plan.doc_id,
        "chunk_index": chunk.chunk_index,
        "chunk_strategy": chunk.chunk_strategy,
        "vector_level": chunk.vector_level,
        "modal_type": chunk.modal_type,
        "content": content[: limits.PREVIEW_CHARACTERS],
        "content_hash": chunk.content_hash,
        "char_count": len(content),
        "start_char": chunk.start_char,
        "parent_chunk_id": chunk.parent_chunk_id,
        "associate_id": chunk.associate_id,
        "vector_version": plan.version,
        "row_version": plan.version,
    }


def _update_columns(connection: Connection, plan: Plan) -> None:
    """Columns that differ, a statement for all rows that change alike.

    Indexes move in two steps, since each row must stay unique.
    """
    moved = [chunk_id for chunk_id, columns in plan.updated.items() if "chunk_index" in columns]
    execute_for_ids(
        connection, update(chunks).values(chunk_index=chunks.c.chunk_index + _SHIFT), chunks.c.chunk_id, moved
    )
    grouped: dict[tuple[tuple[str, Any], ...], list[str]] = defaultdict(list)
    for chunk_id, columns in plan.updated.items():
        grouped[tuple(columns.items())].append(chunk_id)
    for changes, ids in grouped.items():
        values = {name: chunks.c[name] + new.by if isinstance(new, Shift) else new for name, new in changes}
        if "chunk_index" in values:
            values["chunk_index"] -= _SHIFT
        execute_for_ids(connection, update(chunks).values(values), chunks.c.chunk_id, ids)


def _as_json(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(k): v.isoformat() if isinstance(v, datetime) else v for k, v in row.items()}
