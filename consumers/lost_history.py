"""Documents of which an event of a lost history was seen: they become suspects, and absent in every sink.

Any sink may hold the lost version. Refills replace it, so nothing of it stays in a store; a document that the database
lacks becomes a deleted one. A suspect's `lost_version` stays, the highest: since it was found, all sinks have been
absent. An event of this or a lower version, or one that comes again, can only add the keys of objects, which no other
event may name: the sinks that keep files become absent once more if one of these keys is new.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select
from sqlalchemy.dialects import mysql, sqlite

from consumers import completion, marks
from schema.database.clock import utc_now
from schema.database.statements import select_for_ids
from schema.database.tables import document_files, documents, sinks, system_identity
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


def mark_files_lost(connection: Connection, events: Iterable[LostEvent], seen: str) -> None:
    """Remove the objects that these events carried; their documents, whose locks the caller holds, are suspects.

    A removal that was confirmed leaves no trace, so an event that comes again may cost one more refill.
    """
    by_key = {key: event for event in events for key in event.files}
    new = remove_files(connection, {key: event.doc_id for key, event in by_key.items()})
    if not new:
        return
    reasons = {by_key[key].doc_id: f"{seen} a file of version {by_key[key].version} of a lost history" for key in new}
    completion.follow_documents(connection, reasons)
    for sink in connection.execute(select(sinks.c.name).where(sinks.c.takes_files)).scalars().all():
        marks.mark_absent(connection, sink, reasons)


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


def remove_files(connection: Connection, doc_ids: Mapping[str, str]) -> set[str]:
    """Let a refill remove these objects, by key, unless their document has an object of this key.

    Returns the keys that are new.
    """
    keys = document_files.c.object_key
    known = {key for (key,) in select_for_ids(connection, select(keys), keys, doc_ids)}
    doc_ids = {key: doc_id for key, doc_id in doc_ids.items() if key not in known}
    if not doc_ids:
        return set()
    columns = select(documents.c.doc_id, documents.c.version)
    found = select_for_ids(connection, columns, documents.c.doc_id, set(doc_ids.values()))
    versions = {row.doc_id: row.version for row in found}
    rows = [
        {
            "object_key": key,
            "doc_id": doc_id,
            "kind": layout.file_kind(key),
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
    return set(doc_ids)
