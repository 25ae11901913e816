"""Purge deleted documents: their rows are emptied, and stay as tombstones, so that no late event resurrects them.

What stays: doc_id, version, history_id, history_base, lost_version and the sink states, by which late events are
recognised; source_type, created_at and deleted_at, by which a refill finds the folder of an original. Invariant 9: a
document is purged only when every required sink has confirmed its deletion.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, delete, select, update

from consumers import marks
from operations.retention.tidied import note_tidied
from schema.database.history import read_identity
from schema.database.statements import execute_for_ids
from schema.database.tables import (
    chunk_tombstones,
    chunks,
    document_files,
    documents,
    sink_states,
)

EMPTY: Mapping[str, Any] = {"title": ""} | dict.fromkeys(
    ("source_url", "business_tag", "domain", "language", "file_size", "page_count", "oss_key", "content_sha256")
)
_PURGED = "the document is deleted, and its deletion was not confirmed in time"

is_deleted = and_(documents.c.status == "completed", documents.c.deleted_at.is_not(None))


def purge(connection: Connection, doc_ids: Collection[str], *, before: datetime | None = None) -> list[str]:
    """Purge those of the documents that were deleted (before a time), and whose deletion the required sinks confirmed.

    An optional sink that has not confirmed it becomes absent: its refill removes the document. Locks the documents.
    Returns the ids of those that were purged.
    """
    marks.lock_documents(connection, doc_ids)
    registered = read_identity(connection).sinks
    sinks = [sink for sink in registered if sink.state != "leaving"]
    chosen = select(documents.c.doc_id, documents.c.version).where(documents.c.doc_id.in_(doc_ids), is_deleted)
    if before is not None:
        chosen = chosen.where(documents.c.deleted_at < before)
    versions = {row.doc_id: row.version for row in connection.execute(chosen)}
    states = sink_states.c
    of_documents = select(states.doc_id, states.sink, states.state, states.applied_version)
    found = connection.execute(of_documents.where(states.doc_id.in_(doc_ids))).all()
    by_key = {(row.doc_id, row.sink): (row.state, row.applied_version) for row in found}

    def holds(doc_id: str, sink: str) -> bool:
        return by_key.get((doc_id, sink)) == ("applied", versions[doc_id])

    ready = sorted(doc_id for doc_id in versions if all(holds(doc_id, sink.name) for sink in sinks if sink.is_gating))
    if not ready:
        return []
    for sink in sinks:
        behind = [one for one in ready if by_key.get((one, sink.name), ("absent",))[0] != "absent"]
        behind = [one for one in behind if not holds(one, sink.name)]
        if behind:
            marks.mark_states_absent(connection, dict.fromkeys(behind, _PURGED), sink.name)
    execute_for_ids(connection, update(documents).values(EMPTY), documents.c.doc_id, ready)
    for table in (chunks, chunk_tombstones, document_files):
        execute_for_ids(connection, delete(table), table.c.doc_id, ready)
    former = delete(sink_states).where(states.sink.not_in([sink.name for sink in registered]))
    execute_for_ids(connection, former, states.doc_id, ready)
    note_tidied(connection, {doc_id: versions[doc_id] for doc_id in ready})
    return ready
