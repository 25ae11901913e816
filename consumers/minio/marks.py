"""The marks of the object-store sink: files whose removal is confirmed, and damage by a late change."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from consumers.late_apply import describe_damage, load_document
from consumers.marks import group_by_version
from consumers.sink import Change
from schema.database.statements import execute_for_ids
from schema.database.tables import document_files
from schema.events.events import DocumentUpserted, FileRecord
from schema.object_store import layout


class MinioMarks:
    def mark_applied(self, connection: Connection, changes: Sequence[Change]) -> None:
        removed = ((change.version, event.removed_files) for change in changes for event in change.events)
        confirm_removed_files(connection, removed)

    def mark_damage(self, connection: Connection, change: Change) -> str | None:
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
        version, deleted = load_document(connection, change.doc_id)
        if ghosts:
            connection.execute(insert(document_files), [_tombstone(change.doc_id, file, version) for file in ghosts])
        archive = [layout.embeddings_prefix(change.doc_id)] if archived and deleted else []
        return describe_damage(change, [*(file.object_key for file in ghosts), *damaged, *archive])


def confirm_removed_files(connection: Connection, removed: Iterable[tuple[int, Sequence[str]]]) -> None:
    """Objects whose removal the object store acknowledged, as (version, object keys)."""
    for version, keys in group_by_version(removed):
        statement = delete(document_files).where(document_files.c.removed_in_version <= version)
        execute_for_ids(connection, statement, document_files.c.object_key, keys)


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
