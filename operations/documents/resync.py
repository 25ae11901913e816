"""`rag-outbox resync`: sends documents again, with the vectors that the archive has of them."""

from dataclasses import dataclass

from sqlalchemy import exists, select

import producer
from operations.errors import OperationError
from operations.wiring import System
from producer import Receipt, VectorRequired, Writer
from schema.database.connection import reading
from schema.database.tables import documents, processing_tasks, sink_states


@dataclass(frozen=True)
class Unprocessed:
    """Why a document without chunks stays failed. `task_id` is None if the task that failed was removed."""

    task_id: str | None
    reason: str

    def describe(self) -> str:
        """The reason, and what to do."""
        if self.task_id is None:
            return f"it stays failed: {self.reason}; ingest its file again"
        return (
            f"it stays failed, because its file could not be processed: {self.reason.rstrip('.')}; "
            f"run rag-outbox tasks retry {self.task_id}, or ingest another file"
        )


def find_unprocessed(system: System, doc_id: str) -> Unprocessed | None:
    """None for a document that has chunks, that waits for them, or that a sink refused."""
    document, task = documents.c, processing_tasks.c
    is_failed = document.status == "failed", document.chunk_count.is_(None), document.deleted_at.is_(None)
    is_refused = exists().where(sink_states.c.doc_id == document.doc_id, sink_states.c.state == "failed")
    found = (
        select(task.task_id, task.error_message, is_refused.label("is_refused"))
        .select_from(
            documents.outerjoin(processing_tasks, (task.doc_id == document.doc_id) & (task.status == "failed"))
        )
        .where(document.doc_id == doc_id, *is_failed)
        .order_by(task.created_at.desc())
        .limit(1)
    )
    with reading(system.engine) as connection:
        row = connection.execute(found).one_or_none()
    if row is None or (row.task_id is None and row.is_refused):
        return None
    return Unprocessed(row.task_id, row.error_message or "its failed task was removed")


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
