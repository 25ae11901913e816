"""What a change, applied late, did to the newer version that a sink holds: told from the metadata database alone.

Invariant 9: what it brought back becomes a tombstone, so the next version removes it. Invariant 8: chunks that it
removed or wrote over are no longer `milvus_synced`. The functions run under the document's lock.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, false, insert, select, update

from consumers.sink import Change
from schema.batches import bounded
from schema.database.statements import IDS_PER_STATEMENT
from schema.database.tables import chunk_tombstones, chunks, document_files, documents
from schema.events.events import DocumentUpserted, FileRecord
from schema.object_store import layout


def to_vectors(connection: Connection, change: Change) -> str | None:
    """Rows that are gone and back, and current ones that are removed or written over; None when there are none."""
    written: set[str] = set()
    removed: set[str] = set()
    for event in change.events:
        removed |= set(event.tombstones)
        if isinstance(event, DocumentUpserted):
            written |= {chunk.chunk_id for chunk in event.chunks} | {chunk.chunk_id for chunk in event.relabelled}
    current = _versions(connection, chunks.c.chunk_id, chunks.c.row_version, written | removed)
    awaited = _versions(connection, chunk_tombstones.c.chunk_id, chunk_tombstones.c.removed_in_version, written)
    ghosts = sorted(written - current.keys() - awaited.keys())
    damaged = sorted(
        chunk_id
        for chunk_id, version in current.items()
        if version > change.version or (chunk_id in removed and chunk_id not in written)
    )
    if ghosts:
        version, _ = _document(connection, change.doc_id)
        rows = [{"chunk_id": chunk_id, "doc_id": change.doc_id, "removed_in_version": version} for chunk_id in ghosts]
        connection.execute(insert(chunk_tombstones), rows)
    for some in bounded(damaged, IDS_PER_STATEMENT):
        connection.execute(update(chunks).where(chunks.c.chunk_id.in_(some)).values(milvus_synced=false()))
    return _told(change, [*ghosts, *damaged])


def to_files(connection: Connection, change: Change) -> str | None:
    """Objects that are gone and back, and current ones that are removed or written over; None when there are none."""
    files: dict[str, FileRecord] = {}
    removed: set[str] = set()
    archived = False
    for event in change.events:
        removed |= set(event.removed_files)
        if isinstance(event, DocumentUpserted):
            files |= {file.object_key: file for file in event.files}
            archived |= bool(event.chunks)
    found = connection.execute(select(document_files).where(document_files.c.doc_id == change.doc_id)).all()
    known = {row.object_key: row for row in found}
    current = {key: row for key, row in known.items() if row.removed_in_version is None}
    ghosts = [file for key, file in files.items() if key not in known]
    damaged = [
        key
        for key, row in current.items()
        if row.version > change.version and ((key in files and files[key].sha256 != row.sha256) or key in removed)
    ]
    version, deleted = _document(connection, change.doc_id)
    if ghosts:
        connection.execute(insert(document_files), [_tombstone(change.doc_id, file, version) for file in ghosts])
    archive = [layout.embeddings_prefix(change.doc_id)] if archived and deleted else []
    return _told(change, [*(file.object_key for file in ghosts), *damaged, *archive])


def _tombstone(doc_id: str, file: FileRecord, version: int) -> dict[str, Any]:
    return {
        "object_key": file.object_key,
        "doc_id": doc_id,
        "kind": "text" if file.object_key == layout.extracted_text_key(doc_id) else "raw",
        "sha256": file.sha256,
        "size_bytes": file.size_bytes,
        "content_type": file.content_type,
        "version": version,
        "removed_in_version": version,
    }


def _document(connection: Connection, doc_id: str) -> tuple[int, bool]:
    """Its version, and whether it is deleted."""
    columns = select(documents.c.version, documents.c.deleted_at)
    row = connection.execute(columns.where(documents.c.doc_id == doc_id)).one()
    return row.version, row.deleted_at is not None


def _versions(connection: Connection, key: Any, version: Any, ids: Iterable[str]) -> dict[str, int]:
    return {
        row[0]: row[1]
        for some in bounded(sorted(ids), IDS_PER_STATEMENT)
        for row in connection.execute(select(key, version).where(key.in_(some)))
    }


def _told(change: Change, harmed: list[str]) -> str | None:
    if not harmed:
        return None
    return (
        f"a consumer that had lost the document applied its version {change.version} late and changed {len(harmed)} "
        f"items, one is {harmed[0]}: write the document again"
    )
