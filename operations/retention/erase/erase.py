"""Erase one document's removed text: rows first, then the archive. Interrupted at any point, it can be repeated."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from consumers.minio.translate import translate_errors
from operations.retention.erase import archive, rows
from operations.retention.erase.limits import Limit, find_limits
from operations.retention.erase.refusals import CannotErase, Erasable, require_erasable
from operations.wiring import System
from schema.database.connection import snapshot
from schema.database.tables import documents
from schema.object_store import layout


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was, or would be, erased: numbers by kind; and what stays elsewhere."""

    document: Erasable
    counts: dict[str, int]
    limits: Sequence[Limit]


def preview(system: System, doc_id: str) -> Erasure:
    """What `erase` would do; changes nothing. Raises CannotErase."""
    with snapshot(system.engine) as connection:
        document = require_erasable(connection, doc_id)
    _require_no_files(system, document)
    counts = rows.count(system.engine, doc_id)
    counts["archive_objects"] = archive.count_objects(system.engine, system.store, doc_id)
    return Erasure(document, counts, find_limits(system, document.lagging))


def erase(system: System, doc_id: str) -> Erasure:
    """Raises CannotErase, and then the text may be erased in a part of the places."""
    with snapshot(system.engine) as connection:
        _require_no_files(system, require_erasable(connection, doc_id))
    document = rows.begin(system.engine, doc_id, system.operator)
    counts = rows.erase(system.engine, doc_id)
    counts["archive_objects"] = archive.erase(system.engine, system.store, document)
    return Erasure(document, counts, find_limits(system, document.lagging))


def _require_no_files(system: System, document: Erasable) -> None:
    """The object store confirmed that the files of a deleted document are gone; a late consumer may have copied one.

    Only a refill removes it: the document may be created again at any time, with an object of the same key.
    """
    if not document.is_deleted:
        return
    columns = (documents.c.source_type, documents.c.created_at, documents.c.oss_key)
    with snapshot(system.engine) as connection:
        row = connection.execute(select(*columns).where(documents.c.doc_id == document.doc_id)).one()
    known = {layout.raw_file_key(document.doc_id, row.source_type, row.created_at, "x"), *filter(None, [row.oss_key])}
    found = []
    with translate_errors():
        for prefix in layout.keys_prefixes(document.doc_id, known):
            if prefix != layout.embeddings_prefix(document.doc_id):
                found += [key for key in system.store.keys(prefix) if layout.is_key_of(document.doc_id, key)]
    if found:
        raise CannotErase(
            f"document {document.doc_id!r} is deleted, and the object store has {found[0]!r} of it: "
            "run rag-outbox reconcile --repair --yes, wait for the refill, and repeat the erase"
        )
