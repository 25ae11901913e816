"""The plan of a caller's document, with what it leaves out."""

from collections.abc import Sequence

from sqlalchemy import Connection

from producer import desired
from producer.documents import Document
from producer.plan import Plan, plan_upsert
from producer.relabel import build_on_last
from producer.stored import LockedDocuments
from producer.supply import Supply
from producer.unpublished import read_unpublished


def plan_document(
    connection: Connection,
    document: Document,
    vectors: Sequence[bytes | None],
    locked: LockedDocuments,
    supply: Supply,
) -> Plan | None:
    """The plan of an upsert, None if nothing changes; `vectors` are those that `validate` returned.

    Chunks that are None stay as they are stored, and so does the file of a document that gets its first chunks. What a
    sink may still lack of them is in the version that the event builds on, or in events that wait in the outbox.
    """
    stored, identity = locked.stored.get(document.doc_id), locked.identity
    state = supply.fill(desired.from_document(document, vectors, stored, identity.embedding_model), stored)
    plan = plan_upsert(state, stored, identity.history_id)
    if plan is None or stored is None:
        return plan
    if document.chunks is None and not state.replaced_kinds:
        plan = build_on_last(plan, stored)
    lacks_chunks = document.chunks is None and plan.builds_on is None and plan.chunks.missing_vectors()
    lacks_file = stored.row.chunk_count is None and plan.files.missing is not None
    if not (lacks_chunks or lacks_file):
        return plan
    waiting, files = read_unpublished(connection, document.doc_id, identity.lanes)
    whole = supply.fill(desired.with_stored(state, stored, waiting, files), stored)
    return plan_upsert(whole, stored, identity.history_id)
