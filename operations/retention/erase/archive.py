"""The archive of an erased document: only rows of chunks that it has now stay, and nothing is kept for later.

Every row of a living chunk stays, so that no process that tidies the same archive can make it lose a vector.
"""

from collections.abc import Sequence

from sqlalchemy import Engine

from consumers.minio.translate import translate_errors
from operations.retention.archive_rows import ArchiveMoved, split
from operations.retention.archived_documents import ArchivedDocument, look, look_with_chunks
from operations.retention.erase.refusals import CannotErase, Erasable
from schema import archive
from schema.object_store import layout
from schema.object_store.port import ObjectStore

_ATTEMPTS = 5  # each finds objects that another process wrote during the one before


def count_objects(engine: Engine, store: ObjectStore, doc_id: str) -> int:
    """How many objects would be removed or rewritten."""
    document, wanted = look_with_chunks(engine, doc_id)
    with translate_errors():
        return 0 if document is None else len(_find(store, document, set(wanted)))


def erase(engine: Engine, store: ObjectStore, erasable: Erasable) -> int:
    """Returns how many objects were removed or rewritten. Raises CannotErase if a write interferes."""
    done = 0
    with translate_errors():
        for _ in range(_ATTEMPTS):
            document, wanted = look_with_chunks(engine, erasable.doc_id)
            if document is None or document.version != erasable.version:
                break
            try:
                found = _find(store, document, set(wanted))
                if not found:
                    return done
                if _replace(engine, store, document, found, set(wanted)):
                    done += len(found)
            except ArchiveMoved:
                continue
    raise CannotErase(
        f"document {erasable.doc_id!r} was written during the erase: wait until its sinks hold it, and repeat the erase"
    )


def _find(store: ObjectStore, document: ArchivedDocument, living: set[str]) -> list[str]:
    """The objects with a row of a chunk that the document does not have."""
    keys = [key for key in archive.keys(store, document.doc_id) if _is_of(document, key)]
    if document.is_deleted:
        return keys
    return [key for key in keys if _has_others(store, key, living)]


def _has_others(store: ObjectStore, key: str, living: set[str]) -> bool:
    """Also of a superseded object, and of one that cannot be read: nobody can say what is in it."""
    rows = archive.read_rows(store, key)
    if rows is None:
        raise ArchiveMoved(key)
    return not rows or any(row.chunk_id not in living for row in rows)


def _is_of(document: ArchivedDocument, key: str) -> bool:
    """Whether it is an object of this or an older version: the next version may just have been archived.

    The next version is above those of a lost history, so the objects of a lost history are removed, too.
    """
    return layout.embeddings_version(key) <= max(document.version, document.lost_version)


def _replace(
    engine: Engine, store: ObjectStore, document: ArchivedDocument, keys: Sequence[str], living: set[str]
) -> bool:
    """Write what stays, then remove the objects, unless the document or its marks changed. Returns whether it did."""
    written: list[str] = []
    if not document.is_deleted:
        for key in keys:
            written += split(store, key, frozenset(living), keeps_others=False)
    if look(engine, [document.doc_id]).get(document.doc_id) != document:
        store.remove(written)
        return False
    store.remove(keys)
    return True
