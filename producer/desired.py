"""The state that a write shall leave in the database: made from a caller's document, or from the stored one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from producer.documents import Chunk, Document
from producer.files import DocumentFile
from producer.stored import ChunkColumns, StoredDocument
from schema.events import identity, sparse
from schema.events.events import ChunkRow
from schema.object_store import layout

METADATA = ("title", "source_type", "source_url", "business_tag", "domain", "language", "page_count")
LABELS = ("vector_level", "modal_type", "associate_id")
POSITION = ("chunk_index", "parent_chunk_id", "start_char", "chunk_strategy")
_FILE_COLUMNS = ("oss_key", "file_size", "content_sha256")
_DOCUMENT_COLUMNS = (*METADATA, "chunk_count", "embedding_model", *_FILE_COLUMNS)


class DesiredChunk(ChunkColumns, frozen=True, gc=False):
    """A desired row of `chunks`, with its whole content, vector and sparse weights where they are known."""

    content_hash: str
    content: str | None
    vector: bytes | None
    sparse: bytes = b""
    is_stored_vector: bool = False  # the stored chunk has this vector: it is sent again, and is no change

    def digest(self) -> int | None:
        """Of the vector; None if it is unknown."""
        return None if self.vector is None else identity.vector_digest(self.vector, self.sparse)


@dataclass(frozen=True, slots=True)
class DesiredFile:
    """A desired row of `document_files`."""

    object_key: str
    kind: str  # a value of FILE_KINDS
    file: DocumentFile


@dataclass(frozen=True, slots=True)
class DesiredDocument:
    """A desired row of `documents` with its chunks, in their order, and the files that are known."""

    doc_id: str
    columns: Mapping[str, Any]
    chunks: tuple[DesiredChunk, ...]
    files: tuple[DesiredFile, ...]
    replaced_kinds: frozenset[str] = frozenset()  # of files: `files` has all of these that shall be left


def from_document(
    document: Document, vectors: Sequence[bytes | None], stored: StoredDocument | None, model: str
) -> DesiredDocument:
    """The state that a caller's document describes; `vectors` are those that `validate` returned, made by `model`."""
    columns = _columns(document, stored, model)
    files, replaced_kinds = _given_files(document, columns["oss_key"])
    if document.chunks is None:
        chunks = _stored_chunks(stored, {}) if stored is not None and columns["chunk_count"] is not None else ()
    else:
        chunks = chunks_of(document.doc_id, document.chunks, vectors)
    return DesiredDocument(document.doc_id, columns, chunks, files, replaced_kinds)


def _given_files(document: Document, raw_key: str) -> tuple[tuple[DesiredFile, ...], frozenset[str]]:
    """The files that a caller's document brings, and the kinds of which it brings all."""
    doc_id = document.doc_id
    of_kind: dict[str, list[tuple[str, DocumentFile]]] = {}
    if document.file is not None:
        of_kind["raw"] = [(raw_key, document.file)]
    if document.text is not None:
        of_kind["text"] = [(layout.extracted_text_key(doc_id), document.text)]
    if document.tables is not None:
        of_kind["table"] = [(layout.table_key(doc_id, number), file) for number, file in enumerate(document.tables, 1)]
    if document.images is not None:
        of_kind["image"] = [(layout.image_key(doc_id, number), file) for number, file in enumerate(document.images, 1)]
    files = (DesiredFile(key, kind, file) for kind, some in of_kind.items() for key, file in some)
    return tuple(files), frozenset(of_kind)


def from_stored(
    stored: StoredDocument, chunks: Mapping[str, ChunkRow | DesiredChunk], files: Mapping[str, DocumentFile]
) -> DesiredDocument:
    """The state that is stored. `chunks` (by chunk id) and `files` (by object key) are those whose bytes are known."""
    return DesiredDocument(
        stored.row.doc_id,
        {name: getattr(stored.row, name) for name in _DOCUMENT_COLUMNS},
        _stored_chunks(stored, chunks),
        _stored_files(stored, files),
    )


def with_stored(
    state: DesiredDocument,
    stored: StoredDocument,
    chunks: Mapping[str, ChunkRow | DesiredChunk],
    files: Mapping[str, DocumentFile],
) -> DesiredDocument:
    """The state with known bytes of what it keeps of the stored one; `chunks` and `files` as in `from_stored`."""
    kept = tuple(file for file in _stored_files(stored, files) if file.kind not in state.replaced_kinds)
    filled = tuple(
        _stored_chunk(stored.chunks[chunk.chunk_id], chunks.get(chunk.chunk_id)) if chunk.content is None else chunk
        for chunk in state.chunks
    )
    return replace(state, chunks=filled, files=state.files + kept)


def chunks_of(doc_id: str, chunks: Sequence[Chunk], vectors: Sequence[bytes | None]) -> tuple[DesiredChunk, ...]:
    """A document's chunks in order; `vectors` are those that `validate` returned."""
    hashes = [identity.content_hash(chunk.content) for chunk in chunks]
    ids = identity.chunk_ids(doc_id, hashes)
    return tuple(
        DesiredChunk(
            chunk_id,
            chunk.vector_level,
            chunk.modal_type,
            chunk.associate_id,
            position,
            None if chunk.parent is None else ids[chunk.parent],
            chunk.start_char,
            chunk.strategy,
            content_hash,
            chunk.content,
            vector,
            sparse.pack(chunk.sparse) if chunk.sparse else b"",
        )
        for position, (chunk, vector, content_hash, chunk_id) in enumerate(
            zip(chunks, vectors, hashes, ids, strict=True)
        )
    )


def _stored_files(stored: StoredDocument, files: Mapping[str, DocumentFile]) -> tuple[DesiredFile, ...]:
    return tuple(
        DesiredFile(key, row.kind, files[key])
        for key, row in stored.files.items()
        if row.removed_in_version is None and key in files and files[key].sha256 == row.sha256
    )


def _stored_chunks(stored: StoredDocument, known: Mapping[str, ChunkRow | DesiredChunk]) -> tuple[DesiredChunk, ...]:
    rows = sorted(stored.chunks.values(), key=lambda row: row.chunk_index)
    return tuple(_stored_chunk(row, known.get(row.chunk_id)) for row in rows)


def _stored_chunk(row: ChunkColumns, known: ChunkRow | DesiredChunk | None) -> DesiredChunk:
    columns = {name: getattr(row, name) for name in ("chunk_id", *LABELS, *POSITION)}
    if known is None:
        return DesiredChunk(**columns, content_hash="", content=None, vector=None)
    return DesiredChunk(
        **columns,
        content_hash=known.content_hash,
        content=known.content,
        vector=known.vector,
        sparse=known.sparse,
    )


def _columns(document: Document, stored: StoredDocument | None, model: str) -> dict[str, Any]:
    columns: dict[str, Any] = {name: getattr(document, name) for name in METADATA}
    living = None if stored is None or stored.row.deleted_at is not None else stored.row
    if document.chunks is not None:
        columns |= {"chunk_count": len(document.chunks), "embedding_model": model}
    elif living is not None:  # without chunks the stored ones stay
        columns |= {"chunk_count": living.chunk_count, "embedding_model": living.embedding_model}
    else:
        columns |= {"chunk_count": None, "embedding_model": model}
    if document.file is not None:
        values = (_raw_key(document, document.file, stored), document.file.size_bytes, document.file.sha256)
        return columns | dict(zip(_FILE_COLUMNS, values, strict=True))
    if living is not None:  # without a new file the stored one stays
        return columns | {name: getattr(living, name) for name in _FILE_COLUMNS}
    return columns | dict.fromkeys(_FILE_COLUMNS)


def _raw_key(document: Document, file: DocumentFile, stored: StoredDocument | None) -> str:
    """The key of the original, dated by the document's creation: a new version replaces the old object."""
    created_at = datetime.now(UTC) if stored is None else stored.row.created_at
    key = layout.raw_file_key(document.doc_id, document.source_type, created_at, file.extension)
    old = None if stored is None else stored.row.oss_key
    if old is not None and _without_date(old) == _without_date(key):
        return str(old)  # created around midnight, by another clock: the first key stays
    return key


def _without_date(key: str) -> tuple[str, str]:
    parts = key.split("/")
    return parts[1], parts[-1]
