"""`rag-outbox ingest`: files become documents. A file with an unchanged content hash is skipped."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from operations.ingest import upsert
from operations.ingest.sources import SourceFile
from operations.wiring import System
from producer import Document, DocumentFile, FileUnusable, InvalidDocument, ProducerError
from producer.processing.chunk.document import chunk_document
from producer.processing.chunk.port import ChunkStrategy
from producer.processing.chunk.strategies import SEMANTIC, default_name, make_strategy
from producer.processing.document_files import (
    describe_left_out,
    make_image_files,
    make_table_files,
    make_text_file,
)
from producer.processing.embed.port import EmbedError
from producer.processing.extract.extract import FileExtractor
from producer.processing.extract.port import Extracted, ExtractError
from schema.batches import bounded
from schema.database.connection import reading
from schema.database.tables import documents

_FILES_PER_BATCH = 50
_BATCH_BYTES = 8 * 1024 * 1024  # of extracted text, and of files that are not staged


@dataclass(frozen=True)
class Labels:
    """The labels that the command line gives to every file; with None, a document keeps its own."""

    business_tag: str | None = None
    domain: str | None = None
    language: str | None = None

    def or_stored(self, row: Any) -> "Labels":
        """These labels; in place of those that are not given, the ones of a stored document."""
        if row is None or row.deleted_at is not None:
            return self
        return Labels(self.business_tag or row.business_tag, self.domain or row.domain, self.language or row.language)


@dataclass
class WrittenType:
    """What was written of one source type."""

    documents: int = 0
    chunks: int = 0
    tables: int = 0
    images: int = 0


@dataclass
class Ingested:
    written: int = 0  # documents
    unchanged: int = 0
    queued: int = 0  # files, with `--queue`
    deleted: int = 0
    chunks: int = 0  # of the written documents
    embedded: int = 0  # chunks
    failed: list[str] = field(default_factory=list)  # "path: reason" per file
    incomplete: list[str] = field(default_factory=list)  # "path: what was left out" per file
    redirected: list[str] = field(default_factory=list)  # "URL → URL" per fetched page that another URL sent
    by_type: dict[str, WrittenType] = field(default_factory=dict)  # the written documents by source type

    def note_written(self, document: Document) -> None:
        chunks = len(document.chunks or ())
        self.written += 1
        self.chunks += chunks
        of_type = self.by_type.setdefault(document.source_type, WrittenType())
        of_type.documents += 1
        of_type.chunks += chunks
        of_type.tables += len(document.tables or ())
        of_type.images += len(document.images or ())

    def note_deleted(self, count: int) -> None:
        self.deleted += count


@dataclass(frozen=True)
class ReadOptions:
    """How files are read: the extractor, and the name of the chunk strategy (None: by the kind of text)."""

    extractor: FileExtractor
    strategy: str | None = None
    force: bool = False  # unchanged files, too

    def strategy_for(self, extracted: Extracted, system: System) -> ChunkStrategy:
        name = self.strategy or default_name(is_markdown=extracted.is_markdown)
        return make_strategy(name, system.require_embedder() if name == SEMANTIC else None)


@dataclass(frozen=True)
class _PreparedFile:
    file: SourceFile
    size: int  # of its text, and of its files in memory
    document: Document


def ingest(
    system: System,
    files: Sequence[SourceFile],
    labels: Labels,
    total: Ingested,
    advance: Callable[[int], None],
    options: ReadOptions,
) -> None:
    """Write every file that changed, with `force` also the others; a file that fails is named in `total` and skipped.

    `total` grows with each committed batch. `advance` receives the number of files of each finished one.
    """
    for some in bounded(files, _FILES_PER_BATCH):
        stored = select_documents(system, [file.doc_id for file in some])
        prepared = _prepare(system, some, stored, labels, total, options)
        for batch in bounded(prepared, _FILES_PER_BATCH, _BATCH_BYTES, lambda one: one.size):
            _write(system, batch, total)
        advance(len(some))


def plan(
    system: System,
    files: Sequence[SourceFile],
    labels: Labels,
    total: Ingested,
    advance: Callable[[int], None],
    options: ReadOptions,
) -> list[SourceFile]:
    """The files that `ingest` would write; `total` counts the others. Nothing is written or staged."""
    changed = []
    for some in bounded(files, _FILES_PER_BATCH):
        stored = select_documents(system, [file.doc_id for file in some])
        changed += [file for file, _ in _extract_changed(some, stored, labels, total, options)]
        advance(len(some))
    return changed


def select_documents(system: System, doc_ids: Sequence[str]) -> dict[str, Any]:
    """Rows of `documents` by doc_id."""
    with reading(system.engine) as connection:
        return {row.doc_id: row for row in connection.execute(select(documents).where(documents.c.doc_id.in_(doc_ids)))}


def _write(system: System, batch: Sequence[_PreparedFile], total: Ingested) -> None:
    """Write a batch in one transaction; if the writer refuses a document, write each one in its own transaction."""
    batch_documents = [prepared.document for prepared in batch]
    try:
        receipts, embedded = upsert.upsert(
            system.engine, system.store, system.writer(), batch_documents, system.require_embedder()
        )
    except (InvalidDocument, EmbedError) as error:
        if isinstance(error, EmbedError) and error.index is None:  # the model is at fault, not a document
            raise
        if len(batch) == 1:
            total.failed.append(f"{batch[0].file.shown}: {error}")
        else:
            for prepared in batch:
                _write(system, [prepared], total)
        return
    total.embedded += embedded
    for receipt, document in zip(receipts, batch_documents, strict=True):
        if receipt.changed:
            total.note_written(document)
        else:
            total.unchanged += 1


def _prepare(
    system: System,
    files: Sequence[SourceFile],
    stored: Mapping[str, Any],
    labels: Labels,
    total: Ingested,
    options: ReadOptions,
) -> Iterator[_PreparedFile]:
    for file, extracted in _extract_changed(files, stored, labels, total, options):
        try:
            strategy = options.strategy_for(extracted, system)
            document = _document(system, file, extracted, labels.or_stored(stored.get(file.doc_id)), strategy)
        except ProducerError as error:
            total.failed.append(str(error))
        else:
            yield _PreparedFile(file, len(extracted.text) + _file_bytes(document), document)


def _extract_changed(
    files: Sequence[SourceFile], stored: Mapping[str, Any], labels: Labels, total: Ingested, options: ReadOptions
) -> Iterator[tuple[SourceFile, Extracted]]:
    for file in files:
        try:
            if not options.force and is_unchanged(stored.get(file.doc_id), file, labels):
                total.unchanged += 1
                continue
            extracted = options.extractor.extract(file.path)
        except ExtractError as error:
            total.failed.append(f"{file.shown}: {error.reason}")
        except ProducerError as error:
            total.failed.append(str(error))
        else:
            total.incomplete += [f"{file.shown}: left out: {warning}" for warning in describe_left_out(extracted)]
            yield file, extracted


def is_unchanged(row: Any, file: SourceFile, labels: Labels) -> bool:
    """Whether the stored document has this file, chunks and these labels. Raises FileUnusable."""
    if row is None or row.deleted_at is not None or row.status == "failed" or not file.path.is_file():
        return False
    if row.chunk_count is None:  # uploaded: no worker has processed it yet
        return False
    kept = labels.or_stored(row)
    if (row.business_tag, row.domain, row.language) != (kept.business_tag, kept.domain, kept.language):
        return False
    return bool(row.content_sha256 == digest(file))


def digest(file: SourceFile) -> str:
    """The SHA-256 of a file. Raises FileUnusable."""
    try:
        with file.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise FileUnusable(f"cannot read {file.path}: {error.strerror or error}") from error


def _file_bytes(document: Document) -> int:
    files = (document.file, document.text, *(document.tables or ()), *(document.images or ()))
    return sum(len(file.content or b"") for file in files if file is not None)


def _document(
    system: System, file: SourceFile, extracted: Extracted, labels: Labels, strategy: ChunkStrategy
) -> Document:
    original = DocumentFile.from_path(file.path, system.store)
    if original.sha256 != extracted.sha256:
        raise FileUnusable(f"{file.shown} changed while it was read")
    return Document(
        doc_id=file.doc_id,
        title=extracted.title,
        source_type=extracted.source_type,
        source_url=file.source_url,
        business_tag=labels.business_tag,
        domain=labels.domain,
        language=labels.language or extracted.language,
        page_count=extracted.page_count,
        chunks=chunk_document(file.doc_id, extracted, strategy),
        file=original,
        text=make_text_file(extracted, system.store),
        tables=make_table_files(extracted, system.store),
        images=make_image_files(extracted, system.store),
    )
