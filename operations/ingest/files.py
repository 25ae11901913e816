"""`rag-outbox ingest`: files become documents. A file with an unchanged content hash is skipped."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import select

from operations import transactions
from operations.wiring import System
from producer import Chunk, Document, DocumentFile, InvalidDocument
from producer.errors import ProducerError
from producer.files import FileUnusable
from producer.processing.chunk.markdown_headings import MarkdownHeadings
from producer.processing.chunk.port import ChunkStrategy
from producer.processing.chunk.size_overlap import SizeOverlap
from producer.processing.embed.port import EmbedError
from producer.processing.extract import Extracted, extract, is_supported
from schema.batches import bounded
from schema.database.connection import reading
from schema.database.tables import documents

_FILES_PER_BATCH = 50
_BATCH_BYTES = 8 * 1024 * 1024  # of extracted text
_DELETES_PER_BATCH = 500
_PLAIN_TEXT = SizeOverlap()
_STRATEGIES: Mapping[str, ChunkStrategy] = {"text/markdown": MarkdownHeadings()}  # by content type


@dataclass(frozen=True)
class Labels:
    """The labels that the command line gives to every file."""

    business_tag: str | None = None
    domain: str | None = None
    language: str | None = None


@dataclass
class Ingested:
    written: int = 0  # documents
    unchanged: int = 0
    deleted: int = 0
    unsupported: int = 0  # files of other types in a folder
    chunks: int = 0  # of the written documents
    embedded: int = 0  # chunks
    failed: list[str] = field(default_factory=list)  # "path: reason" per file


@dataclass(frozen=True)
class _PreparedFile:
    path: Path
    text_size: int
    document: Document


def find(paths: Sequence[Path]) -> tuple[list[Path], int]:
    """Every supported file at or below `paths`, sorted, and the number of files of other types in folders.

    A file that `paths` names itself is always included: if its type is not supported, `ingest` reports that. Raises
    FileUnusable for a missing path.
    """
    found: set[Path] = set()
    unsupported = 0
    for path in paths:
        if path.is_dir():
            for file in path.rglob("*"):
                if not file.is_file() or any(part.startswith(".") for part in file.relative_to(path).parts):
                    continue
                if is_supported(file):
                    found.add(file.resolve())
                else:
                    unsupported += 1
        elif path.exists():
            found.add(path.resolve())
        else:
            raise FileUnusable(f"no such file or folder: {path}")
    return sorted(found), unsupported


def ingest(system: System, files: Sequence[Path], labels: Labels, advance: Callable[[int], None]) -> Ingested:
    """Write every file that changed; a file that fails is listed in `failed` and skipped.

    `advance` receives the number of files of each finished batch.
    """
    total = Ingested()
    for paths in bounded(files, _FILES_PER_BATCH):
        stored = _select_documents(system, [doc_id(path) for path in paths])
        prepared = _prepare(system, paths, stored, labels, total)
        for batch in bounded(prepared, _FILES_PER_BATCH, _BATCH_BYTES, lambda file: file.text_size):
            _write(system, batch, total)
        advance(len(paths))
    return total


def delete_missing(system: System, folders: Sequence[Path]) -> int:
    """Delete the documents of files that were ingested from these folders and are no longer there.

    Raises FileUnusable when all files of a folder are gone: then the folder is probably not mounted.
    """
    doc_ids = []
    for folder in folders:
        prefix = folder.resolve().as_uri() + "/"
        living = select(documents.c.doc_id, documents.c.source_url).where(
            documents.c.source_url.startswith(prefix, autoescape=True), documents.c.deleted_at.is_(None)
        )
        with reading(system.engine) as connection:
            rows = connection.execute(living).all()
        gone = [row.doc_id for row in rows if not _path(row.source_url).exists()]
        if len(gone) == len(rows) > 0:
            raise FileUnusable(f"all {len(gone)} files ingested from {folder} are gone; if so, use: rag-outbox delete")
        doc_ids += gone
    writer = system.writer()
    for batch in bounded(sorted(set(doc_ids)), _DELETES_PER_BATCH):
        transactions.run(system.engine, partial(writer.delete_many, doc_ids=batch))
    return len(set(doc_ids))


def doc_id(path: Path) -> str:
    """The document id of a path: its readable stem and 12 hex digits of the path's SHA-256."""
    stem = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:40] or "file"
    return f"{stem}-{hashlib.sha256(str(path).encode(errors='surrogateescape')).hexdigest()[:12]}"


def _select_documents(system: System, doc_ids: Sequence[str]) -> dict[str, Any]:
    with reading(system.engine) as connection:
        return {row.doc_id: row for row in connection.execute(select(documents).where(documents.c.doc_id.in_(doc_ids)))}


def _write(system: System, batch: Sequence[_PreparedFile], total: Ingested) -> None:
    """Write a batch in one transaction; if the writer refuses a document, write each one in its own transaction."""
    batch_documents = [file.document for file in batch]
    try:
        receipts, embedded = transactions.upsert(
            system.engine, system.store, system.writer(), batch_documents, system.require_embedder()
        )
    except (InvalidDocument, EmbedError) as error:
        if len(batch) == 1:
            total.failed.append(f"{batch[0].path}: {error}")
        else:
            for file in batch:
                _write(system, [file], total)
        return
    total.embedded += embedded
    for receipt, document in zip(receipts, batch_documents, strict=True):
        total.written += receipt.changed
        total.unchanged += not receipt.changed
        total.chunks += len(document.chunks or ()) if receipt.changed else 0


def _prepare(
    system: System, paths: Sequence[Path], stored: dict[str, Any], labels: Labels, total: Ingested
) -> Iterator[_PreparedFile]:
    for path in paths:
        try:
            if _is_unchanged(stored.get(doc_id(path)), path, labels):
                total.unchanged += 1
                continue
            extracted = extract(path)
            yield _PreparedFile(path, len(extracted.text), _document(system, path, extracted, labels))
        except ProducerError as error:
            total.failed.append(str(error))


def _is_unchanged(row: Any, path: Path, labels: Labels) -> bool:
    if row is None or row.deleted_at is not None or row.status == "failed":
        return False
    if (row.business_tag, row.domain, row.language) != (labels.business_tag, labels.domain, labels.language):
        return False
    try:
        with path.open("rb") as file:
            return bool(row.content_sha256 == hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise FileUnusable(f"cannot read {path}: {error.strerror or error}") from error


def _document(system: System, path: Path, extracted: Extracted, labels: Labels) -> Document:
    file = DocumentFile.from_path(path, system.store)
    if file.sha256 != extracted.sha256:
        raise FileUnusable(f"{path} changed while it was read")
    strategy = _STRATEGIES.get(extracted.content_type, _PLAIN_TEXT)
    return Document(
        doc_id=doc_id(path),
        title=extracted.title,
        source_type=extracted.source_type,
        source_url=path.as_uri(),
        business_tag=labels.business_tag,
        domain=labels.domain,
        language=labels.language or extracted.language,
        chunks=[
            Chunk(content=piece.content, start_char=piece.start, strategy=strategy.name)
            for piece in strategy.chunk(extracted.text)
        ],
        file=file,
        text=DocumentFile.from_bytes(extracted.text.encode(), "extracted.txt", system.store),
    )


def _path(source_url: str) -> Path:
    return Path(unquote(urlsplit(source_url).path))
