"""The last step of every write: the rows and events of its plans. Nothing is written if one of them lacks something.

Invariant 1: all of it commits or rolls back with the caller's transaction; the writer never commits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from producer import statements
from producer.errors import FileRequired, NeededVector, VectorRequired
from producer.event_parts import encode_event
from producer.plan import Operation, Plan, Send, has_other_model
from producer.receipts import Receipt
from producer.stored import LockedDocuments


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """What a call adds to its events and to its rows of `operation_logs`."""

    content_type: str
    operator: str
    headers: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, Any] | None = None


def find_needed(plans: Sequence[Plan | None], locked: LockedDocuments) -> list[NeededVector]:
    """The chunks whose vectors must be sent and are unknown."""
    return [
        NeededVector(
            plan.doc_id, chunk.chunk_index, chunk.chunk_id, chunk.content, _is_archived(plan, chunk.chunk_id, locked)
        )
        for plan in plans
        if plan is not None
        for chunk in plan.chunks.missing_vectors()
    ]


def _is_archived(plan: Plan, chunk_id: str, locked: LockedDocuments) -> bool:
    stored = locked.stored.get(plan.doc_id)
    if stored is None or has_other_model(plan.columns, stored):
        return False
    chunk = stored.chunks.get(chunk_id)
    return chunk is not None and chunk.vector_version <= stored.confirmation.archive


def require_complete(plans: Sequence[Plan | None], locked: LockedDocuments) -> list[Plan]:
    """The plans that change something, in the order of doc_id. Raises VectorRequired or FileRequired.

    So two batches lock what they insert and change in the same order.
    """
    changed = sorted((plan for plan in plans if plan is not None), key=lambda plan: plan.doc_id)
    if needed := find_needed(changed, locked):
        raise VectorRequired(needed)
    for plan in changed:
        if plan.files.missing is not None:
            raise FileRequired(plan.doc_id, plan.files.missing)
    return changed


def write(connection: Connection, locked: LockedDocuments, plans: Sequence[Plan], options: WriteOptions) -> int:
    """Write complete plans, at least one, in the order of doc_id. Returns the bytes of all payloads."""
    inserted = [plan for plan in plans if plan.operation is Operation.INSERT]
    statements.insert_documents(connection, inserted, locked.identity.sinks)
    for plan in plans:
        if plan.operation is not Operation.INSERT:
            statements.update_document(connection, plan, locked.stored[plan.doc_id], locked.identity.sinks)
            statements.change_chunks(connection, plan)
    statements.insert_chunks(connection, plans)
    statements.write_files(connection, plans, locked.stored)
    statements.log_operations(connection, plans, locked.stored, options.operator, options.context)
    parts = ((plan, payload) for plan in plans for payload in _encode(plan, locked, options))
    return statements.append_events(connection, parts, options.content_type, options.headers)


def _encode(plan: Plan, locked: LockedDocuments, options: WriteOptions) -> Iterator[bytes]:
    identity = locked.identity
    model, dimension = plan.columns.get("embedding_model", identity.embedding_model), identity.dimension
    if model != identity.embedding_model:  # stored vectors, sent again
        sent = next(plan.chunks.to_send(Send.VECTOR), None)
        dimension = dimension if sent is None or sent.vector is None else len(sent.vector) // 4
    return encode_event(plan, options.content_type, embedding_model=model, dimension=dimension)


def make_receipts(
    connection: Connection, doc_ids: Sequence[str], plans: Sequence[Plan | None], locked: LockedDocuments
) -> list[Receipt]:
    """A receipt per document; one without a plan keeps its version."""
    return [
        Receipt(doc_id, locked.stored[doc_id].row.version, False, connection.engine)
        if plan is None
        else Receipt(doc_id, plan.version, True, connection.engine)
        for doc_id, plan in zip(doc_ids, plans, strict=True)
    ]
