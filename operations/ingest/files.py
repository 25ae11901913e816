"""`rag-outbox ingest`: files become documents. What did not change is skipped by its content hash."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
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
from producer.processing.chunk import slicer as chunking
from producer.processing.embed.port import EmbedError
from producer.processing.extract import Extracted, extract, supported
from schema.batches import bounded
from schema.database.connection import reading
from schema.database.tables import documents

_FILES_A_BATCH = 50
_BATCH_BYTES = 8 * 1024 * 1024  # of extracted text
_DELETES_A_BATCH = 500


@dataclass(frozen=True)
class Labels:
    """What the command line says of every file."""

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
    failed: list[str] = field(default_factory=list)  # a file and its reason


@dataclass(frozen=True)
class _Prepared:
    path: Path
    text_bytes: int
    document: Document


def find(paths: Sequence[Path]) -> tuple[list[Path], int]:
    """Every supported file at or below `paths`, sorted, and the number of files of other types below them.

    A file that is named itself is always among them: if its type is not supported, ingest says so. Raises FileUnusable
    on a missing path.
    """
    found: set[Path] = set()
    unsupported = 0
    for path in paths:
        if path.is_dir():
            for file in path.rglob("*"):
                if not file.is_file() or any(part.startswith(".") for part in file.relative_to(path).parts):
                    continue
                if supported(file):
                    found.add(file.resolve())
                else:
                    unsupported += 1
        elif path.exists():
            found.add(path.resolve())
        else:
            raise FileUnusable(f"no such file or folder: {path}")
    return sorted(found), unsupported


def ingest(system: System, files: Sequence[Path], labels: Labels, advance: Callable[[int], None]) -> Ingested:
    """Write every file that changed; `advance` is told the number of files done. A file at fault is named and left."""
    total = Ingested()
    for some in bounded(files, _FILES_A_BATCH):
        stored = _stored(system, [doc_id(path) for path in some])
        prepared = _prepare(system, some, stored, labels, total)
        for batch in bounded(prepared, _FILES_A_BATCH, _BATCH_BYTES, lambda one: one.text_bytes):
            _write(system, batch, total)
        advance(len(some))
    return total


def delete_missing(system: System, folders: Sequence[Path]) -> int:
    """Delete the documents of files that were ingested from these folders and are no longer there.

    Raises FileUnusable when all of a folder's files are gone: it is more likely not mounted.
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
    for some in bounded(sorted(set(doc_ids)), _DELETES_A_BATCH):
        transactions.run(system.engine, partial(writer.delete_many, doc_ids=some))
    return len(set(doc_ids))


def doc_id(path: Path) -> str:
    """The same for the same path: a readable stem and 12 hex digits of the path's SHA-256."""
    stem = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:40] or "file"
    return f"{stem}-{hashlib.sha256(str(path).encode(errors='surrogateescape')).hexdigest()[:12]}"


def _stored(system: System, doc_ids: Sequence[str]) -> dict[str, Any]:
    with reading(system.engine) as connection:
        return {row.doc_id: row for row in connection.execute(select(documents).where(documents.c.doc_id.in_(doc_ids)))}


def _write(system: System, batch: Sequence[_Prepared], total: Ingested) -> None:
    """Write a batch in one transaction; when the writer refuses a document, the others one by one."""
    given = [one.document for one in batch]
    try:
        receipts, embedded = transactions.upsert(
            system.engine, system.store, system.writer(), given, system.require_embedder()
        )
    except (InvalidDocument, EmbedError) as error:
        if len(batch) == 1:
            total.failed.append(f"{batch[0].path}: {error}")
        else:
            for one in batch:
                _write(system, [one], total)
        return
    total.embedded += embedded
    for receipt, document in zip(receipts, given, strict=True):
        total.written += receipt.changed
        total.unchanged += not receipt.changed
        total.chunks += len(document.chunks) if receipt.changed else 0


def _prepare(
    system: System, paths: Sequence[Path], stored: dict[str, Any], labels: Labels, total: Ingested
) -> Iterator[_Prepared]:
    for path in paths:
        try:
            if _unchanged(stored.get(doc_id(path)), path, labels):
                total.unchanged += 1
                continue
            extracted = extract(path)
            yield _Prepared(path, len(extracted.text), _document(system, path, extracted, labels))
        except ProducerError as error:
            total.failed.append(str(error))


def _unchanged(row: Any, path: Path, labels: Labels) -> bool:
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
    markdown = extracted.content_type == "text/markdown"
    file = DocumentFile.from_path(path, system.store)
    if file.sha256 != extracted.sha256:
        raise FileUnusable(f"{path} changed while it was read")
    pieces = chunking.chunk(extracted.text, markdown=markdown)
    strategy = chunking.strategy(markdown=markdown)
    return Document(
        doc_id=doc_id(path),
        title=extracted.title,
        source_type=extracted.source_type,
        source_url=path.as_uri(),
        business_tag=labels.business_tag,
        domain=labels.domain,
        language=labels.language or extracted.language,
        chunks=[Chunk(content=piece.content, start_char=piece.start, strategy=strategy) for piece in pieces],
        file=file,
        text=DocumentFile.from_bytes(extracted.text.encode(), "extracted.txt", system.store),
    )


def _path(source_url: str) -> Path:
    return Path(unquote(urlsplit(source_url).path))
