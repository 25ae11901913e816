"""Read a document with its chunks from the metadata database or a replica of it, whole or not at all.

Invariant 2: a version counts only if `chunk_count` chunks are there, none of them of a later version. The writer
commits both together; a writer in another language, or a replica that applies row by row, may not.
"""

import time
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, select

from schema.database.connection import snapshot
from schema.database.tables import chunks, documents

_POLL_SECONDS = 0.02
_WAIT_SECONDS = 5.0
_DOCUMENT = (
    "doc_id",
    "version",
    "title",
    "source_type",
    "source_url",
    "business_tag",
    "domain",
    "language",
    "page_count",
    "oss_key",
    "status",
    "created_at",
    "updated_at",
)
_CHUNK = (
    "chunk_id",
    "chunk_index",
    "content",
    "char_count",
    "vector_level",
    "modal_type",
    "parent_chunk_id",
    "associate_id",
    "start_char",
    "chunk_strategy",
)


class DocumentMissing(Exception):
    """Raised when no document has this id, or it is deleted."""


class DocumentPartial(Exception):
    """Raised when a document's chunks are not all there within the timeout: the replica lags. Read it again later."""


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A row of `chunks`; `content` is its preview, the first 500 of `char_count` characters."""

    chunk_id: str
    chunk_index: int
    content: str
    char_count: int
    vector_level: str
    modal_type: str
    parent_chunk_id: str | None
    associate_id: str | None
    start_char: int | None
    chunk_strategy: str | None


@dataclass(frozen=True, slots=True)
class WholeDocument:
    """A row of `documents` with its chunks in order; `is_chunked` is False while a file's chunks are still to come."""

    doc_id: str
    version: int
    title: str
    source_type: str
    source_url: str | None
    business_tag: str | None
    domain: str | None
    language: str | None
    page_count: int | None
    oss_key: str | None  # the key of the original in the object store
    status: str
    created_at: datetime
    updated_at: datetime
    is_chunked: bool
    chunks: tuple[StoredChunk, ...]


def read_whole(engine: Engine, doc_id: str, *, timeout_seconds: float = _WAIT_SECONDS) -> WholeDocument:
    """The document at its current version, with all chunks of that version.

    Reads again until they are there. Raises DocumentMissing, or DocumentPartial after the timeout.
    """
    deadline = time.monotonic() + timeout_seconds
    head = select(documents).where(documents.c.doc_id == doc_id)
    columns = [chunks.c[name] for name in (*_CHUNK, "row_version")]
    pieces = select(*columns).where(chunks.c.doc_id == doc_id).order_by(chunks.c.chunk_index)
    while True:
        with snapshot(engine) as connection:
            row = connection.execute(head).one_or_none()
            found = connection.execute(pieces).all()
        if row is None or row.deleted_at is not None:
            raise DocumentMissing(f"no such document: {doc_id!r}")
        if len(found) == (row.chunk_count or 0) and all(one.row_version <= row.version for one in found):
            values = {name: getattr(row, name) for name in _DOCUMENT}
            of_document = tuple(StoredChunk(*(getattr(one, name) for name in _CHUNK)) for one in found)
            return WholeDocument(**values, is_chunked=row.chunk_count is not None, chunks=of_document)
        if time.monotonic() >= deadline:
            raise DocumentPartial(
                f"document {doc_id!r} version {row.version}: {len(found)} of {row.chunk_count} chunks are there "
                f"after {timeout_seconds:g} seconds"
            )
        time.sleep(_POLL_SECONDS)
