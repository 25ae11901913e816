"""Runs writes in their own transactions, again after a deadlock, a lost connection or a conflict."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from sqlalchemy import Connection, Engine, select

from producer import Document, Receipt, VectorRequired, WriteConflict, Writer
from producer.processing.embed.port import Embedder
from schema.database.tables import document_files
from schema.object_store.port import ObjectStore
from schema.retry import Backoff, call_with_retry, is_transient

T = TypeVar("T")
_ATTEMPTS = 6
_SECONDS = 60.0  # SQLite waits up to 30 seconds for a lock in each attempt
_BACKOFF = Backoff(0.05, 2.0)


def run(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Run `work` in a transaction, and return its result after the commit."""

    def attempt() -> T:
        with engine.begin() as connection:
            return work(connection)

    return call_with_retry(
        attempt,
        retry_on=lambda error: isinstance(error, WriteConflict) or is_transient(error),
        backoff=_BACKOFF,
        attempts=_ATTEMPTS,
        seconds=_SECONDS,
    )


def upsert(
    engine: Engine, store: ObjectStore, writer: Writer, documents: Sequence[Document], embedder: Embedder | None
) -> tuple[list[Receipt], int]:
    """Write documents, and embed those chunks whose vectors the writer requires.

    Staged files that no event needs are removed from `store`. Returns the receipts and the number of embedded chunks.
    Raises VectorRequired if there is no embedder.
    """

    def write(connection: Connection) -> tuple[list[Receipt], list[str]]:
        receipts = writer.upsert_many(connection, documents)
        return receipts, _select_unneeded(connection, documents)

    embedded = 0
    while True:
        try:
            receipts, unneeded = run(engine, write)
            store.remove(unneeded)
            return receipts, embedded
        except VectorRequired as error:
            if embedder is None:
                raise
            missing = error.chunks
        documents = [_embed(document, missing.get(document.doc_id, ()), embedder) for document in documents]
        embedded += sum(map(len, missing.values()))


def _select_unneeded(connection: Connection, documents: Sequence[Document]) -> list[str]:
    """Keys of the documents' staged files that the transaction does not need: the object store has these files."""
    files = (file for document in documents for file in (document.file, document.text) if file is not None)
    staged = [file.staged_key for file in files if file.staged_key is not None]
    needed = select(document_files.c.staged_key).where(document_files.c.staged_key.in_(staged))
    kept = set(connection.execute(needed).scalars()) if staged else set()
    return [key for key in staged if key not in kept]


def _embed(document: Document, positions: Sequence[int], embedder: Embedder) -> Document:
    if not positions:
        return document
    chunks = list(document.chunks or ())
    vectors = embedder.embed([chunks[position].content for position in positions])
    for position, vector in zip(positions, vectors, strict=True):
        chunks[position] = replace(chunks[position], vector=vector)
    return replace(document, chunks=chunks)
