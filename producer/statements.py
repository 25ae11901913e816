"""The statements of a write, in the caller's transaction: one statement for the rows of many documents.

Invariant 1: document, chunks, operation log, sink states and outbox rows commit together or not at all.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, case, delete, false, insert, literal, null, select, update
from sqlalchemy.exc import IntegrityError

from producer.desired import DesiredChunk
from producer.errors import WriteConflict
from producer.plan import Operation, Plan, RelativeChange, Send
from producer.stored import StoredDocument, StoredRow
from schema import limits
from schema.batches import bounded
from schema.database.clock import utc_now
from schema.database.statements import IDS_PER_STATEMENT, execute_for_ids
from schema.database.tables import (
    chunk_tombstones,
    chunks,
    document_files,
    documents,
    operation_logs,
    outbox,
    processing_tasks,
    sink_states,
)
from schema.events import identity
from schema.events.events import DELETED, UPSERTED
from schema.sinks import RegisteredSink

_ROWS_PER_STATEMENT = 5_000
_INSERT_DOCUMENTS, _INSERT_STATES, _INSERT_CHUNKS = insert(documents), insert(sink_states), insert(chunks)
_INSERT_LOGS, _INSERT_EVENTS = insert(operation_logs), insert(outbox)  # built once: SQLAlchemy caches them faster
_DIGEST = "vector_digest"
_OFFSET = 1_000_000_000  # above every chunk index: keeps UNIQUE(doc_id, chunk_index) while indexes change


def insert_documents(connection: Connection, plans: Sequence[Plan], sinks: Sequence[RegisteredSink]) -> None:
    """New documents, with a state per sink."""
    if not plans:
        return
    rows = [
        {
            "doc_id": plan.doc_id,
            "version": plan.version,
            "history_id": plan.history_id,
            "history_base": plan.history_base,
            "status": _status(connection, plan, None),
            **plan.columns,
        }
        for plan in plans
    ]
    try:
        connection.execute(_INSERT_DOCUMENTS, rows)
    except IntegrityError as error:
        raise WriteConflict("another transaction created the same document; run this transaction again") from error
    states = [
        {
            "doc_id": plan.doc_id,
            "sink": sink.name,
            "desired_version": plan.version,
        }
        for plan in plans
        for sink in sinks
        if sink.state != "leaving"
    ]
    if states:
        connection.execute(_INSERT_STATES, states)


def update_document(
    connection: Connection, plan: Plan, stored: StoredDocument, sinks: Sequence[RegisteredSink]
) -> None:
    """Move a stored document from its version to the plan's, and ask its sinks for that one.

    Raises WriteConflict when the document is at another version: another transaction wrote it without its lock.
    """
    values: dict[str, Any] = {
        "version": plan.version,
        "history_id": plan.history_id,
        "history_base": plan.history_base,
        "updated_at": utc_now(),
        **plan.columns,
    }
    if plan.operation is Operation.DELETE:
        values |= {"status": "deleting", "deleted_at": utc_now(), "chunk_count": 0}
    else:
        values |= {"status": _status(connection, plan, stored), "deleted_at": null()}
    at_old_version = (documents.c.doc_id == plan.doc_id) & (documents.c.version == stored.row.version)
    if connection.execute(update(documents).where(at_old_version).values(values)).rowcount != 1:
        raise WriteConflict(f"another transaction wrote document {plan.doc_id!r}; run this transaction again")
    # A sink stays absent until its consumer replaced what it holds: an event alone removes no row of a lost version.
    stays_absent = case((sink_states.c.state == "absent", literal("absent")), else_=literal("pending"))
    connection.execute(
        update(sink_states)
        .where(sink_states.c.doc_id == plan.doc_id, sink_states.c.sink.in_([sink.name for sink in sinks]))
        .values(desired_version=plan.version, requested_at=utc_now(), attempts=0, last_error=null(), state=stays_absent)
    )


def _status(connection: Connection, plan: Plan, stored: StoredDocument | None) -> str:
    if plan.columns["chunk_count"] is not None:
        return "pending"
    return "failed" if stored is not None and _stays_failed(connection, plan, stored) else "processing"


def _stays_failed(connection: Connection, plan: Plan, stored: StoredDocument) -> bool:
    """Whether a document without chunks keeps the file that could not be processed, so that nobody works on it.

    Its failed task waits for `tasks retry`, or was removed by retention. A document that only a sink refused goes on.
    """
    row = stored.row
    is_same_file = row.deleted_at is None and plan.columns["content_sha256"] == row.content_sha256
    if row.status != "failed" or not is_same_file:
        return False
    of_document = select(processing_tasks.c.status).where(processing_tasks.c.doc_id == plan.doc_id)
    found = set(connection.execute(of_document).scalars())
    return "failed" in found or (not found and stored.confirmation.is_sound)


def insert_chunks(connection: Connection, plans: Sequence[Plan]) -> None:
    rows = (_chunk_row(plan, change.chunk) for plan in plans for change in plan.chunks.changes if change.is_new)
    for batch in bounded(rows, _ROWS_PER_STATEMENT):
        connection.execute(_INSERT_CHUNKS, batch)


def change_chunks(connection: Connection, plan: Plan) -> None:
    """Delete and update the stored chunks of a document. Must run before its new chunks are inserted."""
    removed = plan.chunks.removed
    revived = [change.chunk.chunk_id for change in plan.chunks.changes if change.is_revived]
    execute_for_ids(connection, delete(chunks), chunks.c.chunk_id, removed)
    execute_for_ids(connection, delete(chunk_tombstones), chunk_tombstones.c.chunk_id, revived)
    if removed:
        common = {"doc_id": plan.doc_id, "removed_in_version": plan.version}
        connection.execute(insert(chunk_tombstones), [{"chunk_id": chunk_id, **common} for chunk_id in removed])
    unsynced = update(chunks).values(milvus_synced=false(), updated_at=utc_now(), row_version=plan.version)
    for send, statement in ((Send.VECTOR, unsynced.values(vector_version=plan.version)), (Send.LABELS, unsynced)):
        sent = [change.chunk.chunk_id for change in plan.chunks.changes if change.send is send and not change.is_new]
        execute_for_ids(connection, statement, chunks.c.chunk_id, sent)
    _update_columns(connection, plan)


def write_files(connection: Connection, plans: Sequence[Plan], stored: Mapping[str, StoredDocument]) -> None:
    """Mark removed files, and write the rows of sent files again."""
    for plan in plans:
        execute_for_ids(
            connection,
            update(document_files).values(removed_in_version=plan.version),
            document_files.c.object_key,
            plan.files.removed,
        )
    rows = [(plan, file.kind, file.record) for plan in plans for file in plan.files.sent]
    # Never one that is not stored: in REPEATABLE READ that would lock a gap.
    again = [
        record.object_key
        for plan, _, record in rows
        if plan.doc_id in stored and record.object_key in stored[plan.doc_id].files
    ]
    execute_for_ids(connection, delete(document_files), document_files.c.object_key, again)
    values = [
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
    ]
    if not values:
        return
    try:
        connection.execute(insert(document_files), values)
    except IntegrityError as error:  # the snapshot of a REPEATABLE READ transaction may lack a file of a lost version
        raise WriteConflict("a consumer noted a file with the same key; run this transaction again") from error


def log_operations(
    connection: Connection,
    plans: Sequence[Plan],
    stored: Mapping[str, StoredDocument],
    operator: str,
    context: Mapping[str, Any] | None,
) -> None:
    """One row per plan, with the document's row before it."""
    connection.execute(
        _INSERT_LOGS,
        [
            {
                "operation_type": plan.operation.value,
                "target_table": "documents",
                "target_id": plan.doc_id,
                "payload": _as_json(stored[plan.doc_id].row) if plan.doc_id in stored else None,
                "operator": operator,
                "transaction_context": context,
            }
            for plan in plans
        ],
    )


def append_events(
    connection: Connection, parts: Iterable[tuple[Plan, bytes]], content_type: str, headers: Mapping[str, str] | None
) -> int:
    """Outbox rows for (plan, payload of a part), in order; `parts` may encode them as they are taken.

    Returns the bytes of all payloads.
    """
    rows: Iterator[dict[str, Any]] = (
        {
            "event_id": identity.event_id(),
            "aggregate_type": "document",
            "aggregate_id": plan.doc_id,
            "aggregate_version": plan.version,
            "event_type": DELETED if plan.operation is Operation.DELETE else UPSERTED,
            "content_type": content_type,
            "headers": dict(headers) if headers else null(),
            "payload": payload,
        }
        for plan, payload in parts
    )
    size_bytes = 0
    for batch in bounded(rows, _ROWS_PER_STATEMENT, limits.INSERT_BYTES, lambda row: len(row["payload"])):
        connection.execute(_INSERT_EVENTS, batch)
        size_bytes += sum(len(row["payload"]) for row in batch)
        batch.clear()  # before the next batch is encoded
    return size_bytes


def _chunk_row(plan: Plan, chunk: DesiredChunk) -> dict[str, Any]:
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
        "vector_digest": chunk.digest(),
        "row_version": plan.version,
    }


def _update_columns(connection: Connection, plan: Plan) -> None:
    """Write the columns that differ, one statement for all rows that change alike.

    Chunk indexes change in two steps, because each must stay unique in between.
    """
    updated = [change for change in plan.chunks.changes if change.updates]
    moved = [change.chunk.chunk_id for change in updated if "chunk_index" in change.updates]
    offset = update(chunks).values(chunk_index=chunks.c.chunk_index + _OFFSET)
    execute_for_ids(connection, offset, chunks.c.chunk_id, moved)
    alike: dict[tuple[tuple[str, Any], ...], list[str]] = defaultdict(list)
    digests: dict[str, int] = {}
    for change in updated:
        of_place = tuple(item for item in change.updates.items() if item[0] != _DIGEST)
        if of_place:
            alike[of_place].append(change.chunk.chunk_id)
        if _DIGEST in change.updates:
            digests[change.chunk.chunk_id] = change.updates[_DIGEST]
    for some in bounded(digests, IDS_PER_STATEMENT):
        of_some = case({chunk_id: digests[chunk_id] for chunk_id in some}, value=chunks.c.chunk_id)
        connection.execute(update(chunks).where(chunks.c.chunk_id.in_(some)).values(vector_digest=of_some))
    for updates, ids in alike.items():
        values = {name: chunks.c[name] + new.by if isinstance(new, RelativeChange) else new for name, new in updates}
        if "chunk_index" in values:
            values["chunk_index"] -= _OFFSET
        execute_for_ids(connection, update(chunks).values(values), chunks.c.chunk_id, ids)


def _as_json(row: StoredRow) -> dict[str, Any]:
    values = ((name, getattr(row, name)) for name in documents.c.keys())  # noqa: SIM118  # iteration gives columns
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values}
