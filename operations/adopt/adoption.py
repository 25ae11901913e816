"""`rag-outbox adopt`: the documents of an existing platform become documents of this system, with their old vectors.

Nothing records how far a run came: a document that the system already holds is unchanged for the writer, and its
vectors are not read again. So a second run continues where a killed one stopped, whatever the database lost since.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from sqlalchemy import URL

from operations.adopt.batch import BatchWriter
from operations.adopt.documents import OldDocument, doc_id_of, make, require_possible
from operations.adopt.errors import BadDocument, MappingError
from operations.adopt.files import OldFiles, open_files
from operations.adopt.mapping import Mapping, variable
from operations.adopt.report import Adopted, Report
from operations.adopt.rows import OldRows, Row, open_database, open_rows
from operations.adopt.vectors import OldCollection, open_collection
from operations.wiring import System
from schema.batches import bounded

_DOCUMENTS_PER_PAGE = 500
_DOCUMENTS_PER_BATCH = 100
_BATCH_BYTES = 8 * 1024 * 1024  # of texts and vectors
_UNKNOWN_TEXT_BYTES = 2_000  # per chunk whose text is only in Milvus


@dataclass(frozen=True)
class OldPlatform:
    """Everything that is read, opened and checked."""

    mapping: Mapping
    documents: OldRows
    chunks: OldRows
    collection: OldCollection
    files: OldFiles | None


def open_platform(stack: ExitStack, system: System, mapping: Mapping, folder: Path) -> OldPlatform:
    """Open the old stores until `stack` closes. Raises MappingError if one of them does not fit the mapping."""
    engine = None
    if mapping.uses_database:
        url: str | URL = system.settings.database
        described = "RAG_OUTBOX_DATABASE_URL"
        if mapping.database is not None:
            url = variable(mapping.database.url_env, "database", "url_env")
            described = f"[database] url_env: {mapping.database.url_env}"
        engine = stack.enter_context(open_database(url, described))
    return OldPlatform(
        mapping,
        stack.enter_context(open_rows("documents", mapping.documents, engine, folder)),
        stack.enter_context(open_rows("chunks", mapping.chunks, engine, folder)),
        stack.enter_context(open_collection(system, mapping)),
        None if mapping.files is None else stack.enter_context(open_files(system, mapping.files)),
    )


def adopt(
    system: System,
    old: OldPlatform,
    report: Report,
    *,
    dry_run: bool,
    overwrite: bool,
    limit: int | None,
    stop: threading.Event,
    advance: Callable[[int], None],
) -> Adopted:
    """Write every document that differs, batch by batch, until `stop` is set.

    A document that fails is reported, and the others go on. So is one that was changed since it was adopted, unless
    `overwrite`. `advance` receives the number of documents of each batch.
    Raises TooManyFailures, SourceError and what the writer raises.
    """
    writer = BatchWriter(system, old.collection, old.files, report, dry_run=dry_run, overwrite=overwrite)
    shown = 0
    for page in _pages(old.documents, limit):
        for rows in _batches(system, old, page, report):
            if stop.is_set():
                report.total.interrupted = True
                return report.total
            writer.write(_make(old, rows, report))
            advance(report.total.documents - shown)
            shown = report.total.documents
    return report.total


def _pages(documents: OldRows, limit: int | None) -> Iterator[list[Row]]:
    last, remaining = None, limit
    while remaining is None or remaining > 0:
        most = _DOCUMENTS_PER_PAGE if remaining is None else min(_DOCUMENTS_PER_PAGE, remaining)
        page = documents.page(last, most)
        if not page:
            return
        yield page
        last = page[-1]["doc_id"]
        remaining = None if remaining is None else remaining - len(page)


def _batches(system: System, old: OldPlatform, page: Sequence[Row], report: Report) -> Iterator[list[Row]]:
    """Batches of documents that can be written together."""
    sizes = old.chunks.sizes([row["doc_id"] for row in page])
    per_chunk = 4 * system.identity.dimension
    if old.mapping.chunks.columns.content is None:
        per_chunk += _UNKNOWN_TEXT_BYTES
    possible = []
    for row in page:
        doc_id = doc_id_of(row)
        count, _ = sizes.get(doc_id, (0, 0))
        try:
            require_possible(doc_id, count)
        except BadDocument as error:
            report.fail(doc_id, str(error))
        else:
            possible.append(row)

    def size_of(row: Row) -> int:
        count, length = sizes[doc_id_of(row)]
        return length + count * per_chunk

    return bounded(possible, _DOCUMENTS_PER_BATCH, _BATCH_BYTES, size_of)


def _make(old: OldPlatform, rows: Sequence[Row], report: Report) -> list[OldDocument]:
    found = {doc_id: list(some) for doc_id, some in groupby(old.chunks.of([row["doc_id"] for row in rows]), doc_id_of)}
    if strange := found.keys() - {doc_id_of(row) for row in rows}:
        raise MappingError(
            f"[chunks.columns] doc_id: {min(strange)!r} equals the doc_id of a document only as the old database "
            "compares text: give both the same spelling, for instance in a query"
        )
    texts = None
    if old.mapping.milvus.content is not None:
        texts = old.collection.texts([chunk["vector_id"] for some in found.values() for chunk in some])
    made = []
    for row in rows:
        doc_id = doc_id_of(row)
        try:
            made.append(make(old.mapping, row, found.get(doc_id, []), texts))
        except BadDocument as error:
            report.fail(doc_id, str(error))
    return made
