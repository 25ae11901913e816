"""Documents that an event of a lost history was seen for: they become suspects, and absent in every sink.

Any sink may hold the lost version. Refills replace it, so nothing of it stays in a store; a document that the database
lacks becomes a deleted one. A suspect's `lost_version` stays: by it, an event that comes again is recognised. The lost
version was found before, and all sinks have been absent since.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select
from sqlalchemy.dialects import mysql, sqlite

from consumers import marks
from schema.batches import bounded
from schema.database.clock import utc_now
from schema.database.statements import IDS_PER_STATEMENT
from schema.database.tables import document_files, documents, system_identity
from schema.events.events import DocumentUpserted, Event
from schema.object_store import layout


@dataclass(frozen=True, slots=True)
class LostEvent:
    """`files` are the keys of the objects that it carried."""

    doc_id: str
    version: int
    files: tuple[str, ...] = ()

    @classmethod
    def of(cls, event: Event) -> "LostEvent":
        keys = [file.object_key for file in event.files] if isinstance(event, DocumentUpserted) else []
        ours = (key for key in keys if layout.is_key_of(event.doc_id, key))
        return cls(event.doc_id, event.version, tuple(ours))


def mark_lost(connection: Connection, events: Iterable[LostEvent], seen: str) -> None:
    """Suspect the documents of these events, whose locks the caller holds.

    `seen` begins the reason: "milvus received", for instance.
    """
    by_version = sorted(events, key=lambda event: event.version)
    versions = {event.doc_id: event.version for event in by_version}  # the highest per document
    if not versions:
        return
    _suspect(connection, versions)
    remove_files(connection, {key: event.doc_id for event in by_version for key in event.files})
    reasons = {doc_id: f"{seen} version {version} of a lost history" for doc_id, version in versions.items()}
    marks.mark_absent_everywhere(connection, reasons)


def _suspect(connection: Connection, versions: Mapping[str, int]) -> None:
    """Raise the lost version of documents; one that does not exist becomes a deleted one.

    A writer that creates one of them now is waited for, or gets a conflict: it never misses the suspect.
    """
    history_id = connection.execute(select(system_identity.c.history_id).where(system_identity.c.id == 1)).scalar_one()
    common = {"history_id": history_id, "title": "", "source_type": "text", "chunk_count": 0, "status": "deleting"}
    rows = [
        {"doc_id": doc_id, "version": version + 1, "lost_version": version, **common}
        for doc_id, version in sorted(versions.items())
    ]
    if connection.dialect.name == "mysql":
        new: Any = mysql.insert(documents)
        highest = func.greatest(documents.c.lost_version, new.inserted.lost_version)
        new = new.on_duplicate_key_update(lost_version=highest)
    else:
        new = sqlite.insert(documents)
        highest = func.max(documents.c.lost_version, new.excluded.lost_version)
        new = new.on_conflict_do_update(index_elements=["doc_id"], set_={"lost_version": highest})
    connection.execute(new.values(deleted_at=utc_now()), rows)


def remove_files(connection: Connection, doc_ids: Mapping[str, str]) -> None:
    """Let a refill remove these objects, by key, unless their document has an object of this key."""
    if not doc_ids:
        return
    versions: dict[str, int] = {}
    for some in bounded(set(doc_ids.values()), IDS_PER_STATEMENT):
        found = select(documents.c.doc_id, documents.c.version).where(documents.c.doc_id.in_(some))
        versions |= {row.doc_id: row.version for row in connection.execute(found)}
    rows = [
        {
            "object_key": key,
            "doc_id": doc_id,
            "kind": "text" if key == layout.extracted_text_key(doc_id) else "raw",
            "version": versions[doc_id],
            "removed_in_version": versions[doc_id],
            **dict.fromkeys(("sha256", "content_type"), ""),
            "size_bytes": 0,
        }
        for key, doc_id in doc_ids.items()
    ]
    skip_known = (
        insert(document_files).prefix_with("IGNORE", dialect="mysql").prefix_with("OR IGNORE", dialect="sqlite")
    )
    connection.execute(skip_known, rows)
