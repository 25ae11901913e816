"""Writes in transactions of our own, run again after a deadlock, a lost connection or a conflict."""

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
_BACKOFF = Backoff(0.05, 2.0)


def run(engine: Engine, work: Callable[[Connection], T]) -> T:
    """What `work` returns, once its transaction committed."""

    def once() -> T:
        with engine.begin() as connection:
            return work(connection)

    return call_with_retry(
        once,
        retry_on=lambda error: isinstance(error, WriteConflict) or is_transient(error),
        backoff=_BACKOFF,
        attempts=_ATTEMPTS,
    )


def upsert(
    engine: Engine, store: ObjectStore, writer: Writer, documents: Sequence[Document], embedder: Embedder | None
) -> tuple[list[Receipt], int]:
    """Write documents; a chunk whose vector is missing is embedded only when the writer asks for it.

    Files that were staged in `store` and that no event needs are removed there. Returns the receipts and how many
    chunks were embedded. Raises VectorRequired without an embedder.
    """

    def write(connection: Connection) -> tuple[list[Receipt], list[str]]:
        receipts = writer.upsert_many(connection, documents)
        return receipts, _unneeded(connection, documents)

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


def _unneeded(connection: Connection, documents: Sequence[Document]) -> list[str]:
    """The staged files of these documents that the transaction did not take: the object store has them already."""
    files = (file for document in documents for file in (document.file, document.text) if file is not None)
    staged = [file.staged_key for file in files if file.staged_key is not None]
    taken = select(document_files.c.staged_key).where(document_files.c.staged_key.in_(staged))
    kept = set(connection.execute(taken).scalars()) if staged else set()
    return [key for key in staged if key not in kept]


def _embed(document: Document, positions: Sequence[int], embedder: Embedder) -> Document:
    if not positions:
        return document
    chunks = list(document.chunks)
    vectors = embedder.embed([chunks[position].content for position in positions])
    for position, vector in zip(positions, vectors, strict=True):
        chunks[position] = replace(chunks[position], vector=vector)
    return replace(document, chunks=chunks)
