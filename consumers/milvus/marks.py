"""The marks of the Milvus sink: chunks that are synced, tombstones that are confirmed, and damage by a late change."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, delete, false, insert, select, true, update

from consumers.late_apply import describe_damage, load_document
from consumers.marks import group_by_version
from consumers.sink import Change
from schema.batches import bounded
from schema.database.statements import IDS_PER_STATEMENT, execute_for_ids
from schema.database.tables import chunk_tombstones, chunks
from schema.events.events import DocumentUpserted


class MilvusMarks:
    def mark_applied(self, connection: Connection, changes: Sequence[Change]) -> None:
        events = [(change.version, event) for change in changes for event in change.events]
        written = (
            (version, [chunk.chunk_id for chunk in event.chunks] + [chunk.chunk_id for chunk in event.relabelled])
            for version, event in events
            if isinstance(event, DocumentUpserted)
        )
        mark_chunks_synced(connection, written)
        confirm_tombstones(connection, ((version, event.tombstones) for version, event in events))

    def mark_damage(self, connection: Connection, change: Change) -> str | None:
        written: set[str] = set()
        removed: set[str] = set()
        for event in change.events:
            removed |= set(event.tombstones)
            if isinstance(event, DocumentUpserted):
                written |= {chunk.chunk_id for chunk in event.chunks} | {chunk.chunk_id for chunk in event.relabelled}
        current = _load_versions(connection, chunks.c.chunk_id, chunks.c.row_version, written | removed)
        tombstones = _load_versions(
            connection, chunk_tombstones.c.chunk_id, chunk_tombstones.c.removed_in_version, written
        )
        ghosts = sorted(written - current.keys() - tombstones.keys())
        damaged = sorted(
            chunk_id
            for chunk_id, version in current.items()
            if version > change.version or (chunk_id in removed and chunk_id not in written)
        )
        if ghosts:
            version, _ = load_document(connection, change.doc_id)
            rows = [
                {"chunk_id": chunk_id, "doc_id": change.doc_id, "removed_in_version": version} for chunk_id in ghosts
            ]
            connection.execute(insert(chunk_tombstones), rows)
        execute_for_ids(connection, update(chunks).values(milvus_synced=false()), chunks.c.chunk_id, damaged)
        return describe_damage(change, [*ghosts, *damaged])


def mark_chunks_synced(connection: Connection, written: Iterable[tuple[int, Sequence[str]]]) -> None:
    """Chunks that Milvus acknowledged, as (version, chunk ids)."""
    for version, chunk_ids in group_by_version(written):
        execute_for_ids(
            connection,
            update(chunks).values(milvus_synced=true()).where(chunks.c.row_version <= version),  # not changed since
            chunks.c.chunk_id,
            chunk_ids,
        )


def confirm_tombstones(connection: Connection, removed: Iterable[tuple[int, Sequence[str]]]) -> None:
    """Chunks whose removal Milvus acknowledged, as (version, chunk ids)."""
    for version, chunk_ids in group_by_version(removed):
        statement = delete(chunk_tombstones).where(chunk_tombstones.c.removed_in_version <= version)
        execute_for_ids(connection, statement, chunk_tombstones.c.chunk_id, chunk_ids)


def _load_versions(connection: Connection, key: Any, version: Any, ids: Iterable[str]) -> dict[str, int]:
    return {
        row[0]: row[1]
        for some in bounded(sorted(ids), IDS_PER_STATEMENT)
        for row in connection.execute(select(key, version).where(key.in_(some)))
    }
