"""From what a caller hands over to the rows that the database shall hold."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from producer.documents import Document
from producer.files import DocumentFile
from producer.plan import LABELS, METADATA, POSITION, WantedChunk, WantedFile
from producer.stored import Stored
from schema.events import identity, sparse
from schema.events.events import ChunkRow
from schema.object_store import layout

DOCUMENT_COLUMNS = (*METADATA, "chunk_count", "oss_key", "file_size", "content_sha256")


def document_columns(document: Document, stored: Stored | None) -> dict[str, Any]:
    """The columns of `documents`; a file that is not given keeps its own."""
    columns: dict[str, Any] = {name: getattr(document, name) for name in METADATA}
    columns["chunk_count"] = len(document.chunks)
    if document.file is not None:
        columns |= {
            "oss_key": _raw_key(document, document.file, stored),
            "file_size": document.file.size_bytes,
            "content_sha256": document.file.sha256,
        }
    elif stored is not None and stored.document.deleted_at is None:
        columns |= {name: getattr(stored.document, name) for name in ("oss_key", "file_size", "content_sha256")}
    else:
        columns |= {"oss_key": None, "file_size": None, "content_sha256": None}
    return columns


def files(document: Document, oss_key: str | None) -> list[WantedFile]:
    wanted = []
    if document.file is not None and oss_key is not None:
        wanted.append(WantedFile(oss_key, "raw", document.file))
    if document.text is not None:
        wanted.append(WantedFile(layout.extracted_text_key(document.doc_id), "text", document.text))
    return wanted


def chunks(document: Document, vectors: Sequence[bytes | None]) -> list[WantedChunk]:
    """The chunks' rows, in order; `vectors` as `validation.check` returns them."""
    hashes = [identity.content_hash(chunk.content) for chunk in document.chunks]
    ids = identity.chunk_ids(document.doc_id, hashes)
    return [
        WantedChunk(
            chunk_id,
            chunk.vector_level,
            chunk.modal_type,
            chunk.associate_id,
            position,
            None if chunk.parent is None else ids[chunk.parent],
            chunk.start_char,
            chunk.strategy,
            digest,
            chunk.content,
            vector,
            sparse.pack(chunk.sparse) if chunk.sparse else b"",
        )
        for position, (chunk, vector, digest, chunk_id) in enumerate(
            zip(document.chunks, vectors, hashes, ids, strict=True)
        )
    ]


def stored_chunks(stored: Stored, content: Mapping[str, ChunkRow]) -> list[WantedChunk]:
    """The stored chunks as they are, with content and vector where `content` knows them."""
    wanted = []
    for row in sorted(stored.chunks.values(), key=lambda row: row.chunk_index):
        columns = {name: getattr(row, name) for name in ("chunk_id", *LABELS, *POSITION)}
        known = content.get(row.chunk_id)
        if known is None:
            wanted.append(WantedChunk(**columns, content_hash="", content=None, vector=None))
        else:
            wanted.append(
                WantedChunk(
                    **columns,
                    content_hash=known.content_hash,
                    content=known.content,
                    vector=known.vector,
                    sparse=known.sparse,
                )
            )
    return wanted


def stored_files(stored: Stored, known: Mapping[str, DocumentFile]) -> list[WantedFile]:
    """The stored files whose bytes `known` has, by object key."""
    return [
        WantedFile(key, row.kind, known[key])
        for key, row in stored.files.items()
        if row.removed_in_version is None and key in known and known[key].sha256 == row.sha256
    ]


def _raw_key(document: Document, file: DocumentFile, stored: Stored | None) -> str:
    """The key of the original: dated by the document's creation, so that a new version replaces the old object."""
    created_at = datetime.now(UTC) if stored is None else stored.document.created_at
    key = layout.raw_file_key(document.doc_id, document.source_type, created_at, file.extension)
    old = None if stored is None else stored.document.oss_key
    if old is not None and _undated(old) == _undated(key):
        return str(old)  # created around midnight: the first key stays
    return key


def _undated(key: str) -> tuple[str, str]:
    parts = key.split("/")
    return parts[1], parts[-1]
