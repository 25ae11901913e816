"""Writes documents with the vectors that they lack, and removes the staged files that no event needs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Engine, select

import producer
from producer import Document, Receipt, VectorRequired, Writer
from producer.processing.embed.port import Embedder
from schema.batches import bounded
from schema.database.statements import IDS_PER_STATEMENT
from schema.database.tables import document_files
from schema.object_store.port import ObjectStore


def upsert(
    engine: Engine,
    store: ObjectStore,
    writer: Writer,
    documents: Sequence[Document],
    embedder: Embedder | None,
    *,
    context: Mapping[str, Any] | None = None,
    before: Callable[[Connection], None] = lambda _: None,
) -> tuple[list[Receipt], int]:
    """Write documents, and embed those chunks whose vectors the writer requires.

    `context` is the transaction context of the log; `before` runs first in each transaction, and may raise. Staged
    files that no event needs are removed from `store`. Returns the receipts and the number of embedded chunks. Raises
    VectorRequired if there is no embedder.
    """

    def write(connection: Connection) -> tuple[list[Receipt], list[str]]:
        before(connection)
        receipts = writer.upsert_many(connection, documents, transaction_context=context)
        return receipts, _select_unneeded(connection, documents)

    embedded = 0
    while True:
        try:
            receipts, unneeded = producer.run(engine, write)
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
    files = (
        file
        for one in documents
        for file in (one.file, one.text, *(one.tables or ()), *(one.images or ()))
        if file is not None
    )
    staged = [file.staged_key for file in files if file.staged_key is not None]
    kept: set[str | None] = set()
    for some in bounded(staged, IDS_PER_STATEMENT):
        needed = select(document_files.c.staged_key).where(document_files.c.staged_key.in_(some))
        kept.update(connection.execute(needed).scalars())
    return [key for key in staged if key not in kept]


def _embed(document: Document, positions: Sequence[int], embedder: Embedder) -> Document:
    if not positions:
        return document
    chunks = list(document.chunks or ())
    vectors = embedder.embed([chunks[position].content for position in positions])
    for position, vector in zip(positions, vectors, strict=True):
        chunks[position] = replace(chunks[position], vector=vector)
    return replace(document, chunks=chunks)
