"""`rag-outbox resync`: sends documents again, with the vectors that the archive has of them."""

import producer
from operations.errors import OperationError
from operations.wiring import System
from producer import Receipt, VectorRequired, Writer


def resync(system: System, writer: Writer, doc_id: str) -> Receipt:
    """Send a document's current state as its next version; see `Writer.resync`.

    Raises OperationError when a vector is neither with the sinks nor in the archive.
    """
    try:
        return producer.run(system.engine, lambda connection: writer.resync(connection, doc_id), store=system.store)
    except VectorRequired as error:
        missing = sum(map(len, error.chunks.values()))
        chunks = "1 chunk" if missing == 1 else f"{missing} chunks"
        raise OperationError(f"the archive lacks the vectors of {chunks}: write the document again") from error
