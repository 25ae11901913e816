"""Writes documents with the vectors that they lack, and removes the staged files that no event needs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, select

import producer
from producer import Document, Receipt, Writer
from producer.processing.embed.batches import ReportingEmbedder
from producer.processing.embed.port import Embedder
from schema.database.statements import select_for_ids
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
    VectorRequired if there is no embedder, and as `Embedder.embed`.
    """
    embedded: list[int] = []
    reporting = None if embedder is None else ReportingEmbedder(embedder, embedded.append)

    def write(connection: Connection) -> tuple[list[Receipt], list[str]]:
        before(connection)
        receipts = writer.upsert_many(connection, documents, embedder=reporting, transaction_context=context)
        return receipts, _select_unneeded(connection, documents)

    receipts, unneeded = producer.run(engine, write)
    store.remove(unneeded)
    return receipts, sum(embedded)


def _select_unneeded(connection: Connection, documents: Sequence[Document]) -> list[str]:
    """Keys of the documents' staged files that the transaction does not need: the object store has these files."""
    files = (
        file
        for one in documents
        for file in (one.file, one.text, *(one.tables or ()), *(one.images or ()))
        if file is not None
    )
    staged = [file.staged_key for file in files if file.staged_key is not None]
    column = document_files.c.staged_key
    kept = {key for (key,) in select_for_ids(connection, select(column), column, staged)}
    return [key for key in staged if key not in kept]
