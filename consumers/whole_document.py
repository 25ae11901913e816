"""A whole document as one change that replaces what a sink holds of it: what refill applies.

Metadata, chunks and file names come from the metadata database; vectors, whole contents and files from the object
store. Nothing of the document comes from the sink, whose state is absent.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, select

from consumers.minio.translate import translate_errors
from consumers.sink import Change, Sink
from schema import archive, limits
from schema.batches import bounded
from schema.database.history import Identity, document_model
from schema.database.statements import select_for_ids
from schema.database.tables import chunk_tombstones, chunks, document_files, documents, sink_states
from schema.events.events import ChunkRow, DocumentDeleted, DocumentUpserted, Event, FileRecord
from schema.failures import Retryable, StoreMissing
from schema.object_store import layout
from schema.object_store.port import ObjectMissing, ObjectStore

_ITEMS_PER_PART = 1_000_000  # the bytes bound a part long before
_ROW_BYTES = 512  # of a chunk, without its vector and content
_NO_EXTENSION = "removed"
_OPTIONAL = ("source_url", "business_tag", "domain", "language", "oss_key")
_LABELS = ("vector_level", "modal_type", "associate_id")


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """The rows of one document, all from the same snapshot."""

    row: Row[Any]  # of `documents`, with columns of the sink's state
    chunks: Sequence[Row[Any]]
    tombstones: Sequence[str]  # chunk ids
    files: Sequence[Row[Any]]  # removed ones included


@dataclass(frozen=True, slots=True)
class Whole:
    """`change` is None when `lacking` says what neither sink nor object store has."""

    change: Change | None
    size_bytes: int
    lacking: str = ""


def load(connection: Connection, sink: str, doc_ids: Iterable[str]) -> list[StoredDocument]:
    """Documents in the order of `doc_ids`; `connection` reads from one snapshot."""
    ids = list(doc_ids)
    state = sink_states.c
    joined = documents.join(sink_states, and_(state.doc_id == documents.c.doc_id, state.sink == sink))
    model = document_model().label("vector_model")
    columns = select(documents, model, state.marks, state.attempts, state.last_error).select_from(joined)
    rows = {row.doc_id: row for row in select_for_ids(connection, columns, documents.c.doc_id, ids)}
    chunks_of = _group(select_for_ids(connection, select(chunks).order_by(chunks.c.chunk_index), chunks.c.doc_id, rows))
    tombstones = _group(select_for_ids(connection, select(chunk_tombstones), chunk_tombstones.c.doc_id, rows))
    files_of = _group(select_for_ids(connection, select(document_files), document_files.c.doc_id, rows))
    return [
        StoredDocument(rows[doc_id], chunks_of[doc_id], [one.chunk_id for one in tombstones[doc_id]], files_of[doc_id])
        for doc_id in ids
        if doc_id in rows
    ]


def build(stored: StoredDocument, sink: Sink, store: ObjectStore, identity: Identity) -> Whole:
    """The change that brings `sink` to this document. Raises Retryable when the object store does not answer."""
    row = stored.row
    common: dict[str, Any] = {"doc_id": row.doc_id, "version": row.version, "history_id": row.history_id}
    gone = [file.object_key for file in stored.files if file.removed_in_version is not None]
    if sink.takes_files:  # a lost version may have an original that nothing else names: this names its folder
        gone.append(layout.raw_file_key(row.doc_id, row.source_type, row.created_at, _NO_EXTENSION))
    removed: dict[str, Any] = {
        "tombstones": list(stored.tombstones) if sink.takes_vectors else [],
        "removed_files": gone,
    }
    if row.deleted_at is not None:
        if row.oss_key:  # a late consumer may have copied it again, after its removal was confirmed
            gone.append(row.oss_key)
        return Whole(Change(row.doc_id, row.version, (DocumentDeleted(**common, **removed),), replace=True), 0)
    try:
        with translate_errors():
            vectors, files = _read(stored, sink, store)
    except StoreMissing as error:  # of the archive, not of this sink
        raise Retryable(str(error)) from error
    if lacking := _describe_lacking(stored, sink, vectors, files):
        return Whole(None, 0, lacking)
    metadata: dict[str, Any] = {name: getattr(row, name) or "" for name in _OPTIONAL} | {
        "title": row.title,
        "source_type": row.source_type,
        "chunk_count": row.chunk_count,
        "embedding_model": row.vector_model,
        "dimension": next((len(one.vector) // 4 for one in vectors.values()), identity.dimension),
    }
    groups = list(bounded(vectors.values(), _ITEMS_PER_PART, limits.EVENT_BYTES, _size_bytes)) or [[]]
    events: list[Event] = []
    for part, group in enumerate(groups, start=1):
        lists: dict[str, Any] = {"files": files} if part == 1 else {}
        lists |= removed if part == len(groups) else {}
        events.append(DocumentUpserted(**common, **metadata, part=part, parts=len(groups), chunks=group, **lists))
    size_bytes = sum(map(_size_bytes, vectors.values())) + sum(len(file.content or b"") for file in files)
    return Whole(Change(row.doc_id, row.version, tuple(events), replace=True), size_bytes)


def _read(stored: StoredDocument, sink: Sink, store: ObjectStore) -> tuple[Mapping[str, ChunkRow], list[FileRecord]]:
    vectors: dict[str, ChunkRow] = {}
    if sink.takes_vectors:
        rows = {chunk.chunk_id: chunk for chunk in stored.chunks}
        wanted = {
            chunk_id: archive.Wanted(chunk.content_hash, chunk.vector_version, chunk.vector_digest)
            for chunk_id, chunk in rows.items()
        }
        for archived in archive.read_vectors(store, stored.row.doc_id, wanted):
            labels = {name: getattr(rows[archived.chunk_id], name) or "" for name in _LABELS}
            vectors[archived.chunk_id] = msgspec.structs.replace(archived, **labels)
    files = [_find_file(file, store) for file in _living(stored)] if sink.takes_files else []
    return vectors, [file for file in files if file is not None]


def _find_file(row: Row[Any], store: ObjectStore) -> FileRecord | None:
    """The file with its bytes, or with the key of an object that has them; None if the object store lacks it."""
    content, source = None, None
    if row.staged_key is not None and next(iter(store.keys(row.staged_key)), None) == row.staged_key:
        source = row.staged_key
    elif store.sha256(row.object_key) == row.sha256:
        source = row.object_key
        if row.size_bytes <= limits.INLINE_FILE_BYTES:
            try:
                content, source = store.read(row.object_key), None
            except ObjectMissing:
                return None
    else:
        return None
    return FileRecord(
        object_key=row.object_key,
        content_type=row.content_type,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        content=content,
        staged_key=source,
    )


def _describe_lacking(
    stored: StoredDocument, sink: Sink, vectors: Mapping[str, ChunkRow], files: Sequence[FileRecord]
) -> str:
    """What the object store lacks, in words; empty when nothing."""
    lacking = []
    if sink.takes_vectors and (lost := [one.chunk_id for one in stored.chunks if one.chunk_id not in vectors]):
        lacking.append(f"the vectors of {len(lost)} chunks, one is {lost[0]}")
    found = {file.object_key for file in files}
    if sink.takes_files and (gone := [row.object_key for row in _living(stored) if row.object_key not in found]):
        lacking.append(f"{len(gone)} files, one is {gone[0]}")
    return f"the object store lacks {' and '.join(lacking)}: write the document again" if lacking else ""


def _living(stored: StoredDocument) -> Iterator[Row[Any]]:
    return (file for file in stored.files if file.removed_in_version is None)


def _size_bytes(row: ChunkRow) -> int:
    return _ROW_BYTES + len(row.vector) + len(row.sparse) + len(row.content.encode())


def _group(rows: Iterable[Row[Any]]) -> Mapping[str, list[Row[Any]]]:
    grouped: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        grouped[row.doc_id].append(row)
    return grouped
