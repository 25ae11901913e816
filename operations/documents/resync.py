"""`rag-outbox resync`: sends documents again, with the vectors that the archive has of them."""

from collections.abc import Sequence

import numpy as np
from sqlalchemy import Connection, select

from operations import transactions
from operations.errors import OperationError
from operations.wiring import System
from producer import Chunk, Receipt, VectorRequired, Writer
from schema import archive
from schema.database.connection import reading
from schema.database.tables import chunks
from schema.events import sparse


def resync(system: System, writer: Writer, doc_id: str) -> Receipt:
    """Send a document's current state as its next version; see `Writer.resync`.

    Raises OperationError when a vector is neither with the sinks nor in the archive.
    """
    given: Sequence[Chunk] = ()

    def work(connection: Connection) -> Receipt:
        return writer.resync(connection, doc_id, given)

    try:
        return transactions.run(system.engine, work)
    except VectorRequired:
        given = _read_archive(system, doc_id)
    try:
        return transactions.run(system.engine, work)
    except VectorRequired as error:
        missing = sum(map(len, error.chunks.values()))
        raise OperationError(f"the archive lacks the vectors of {missing} chunks: write the document again") from error


def _read_archive(system: System, doc_id: str) -> list[Chunk]:
    """The chunks whose vectors the archive has, in the order of the document: it tells equal ones apart."""
    columns = (chunks.c.chunk_id, chunks.c.content_hash, chunks.c.vector_version)
    statement = select(*columns).where(chunks.c.doc_id == doc_id).order_by(chunks.c.chunk_index)
    with reading(system.engine) as connection:
        rows = connection.execute(statement).all()
    wanted = {row.chunk_id: (row.content_hash, row.vector_version) for row in rows}
    archived = {row.content_hash: row for row in archive.read_vectors(system.store, doc_id, wanted)}
    found = [archived[row.content_hash] for row in rows if row.content_hash in archived]
    return [
        Chunk(
            content=row.content,
            vector=np.frombuffer(row.vector, "<f4"),
            sparse=sparse.unpack(row.sparse) if row.sparse else None,
        )
        for row in found
    ]
