"""What events that wait in the outbox still carry of a document: vectors and files that MySQL itself does not keep."""

from sqlalchemy import Connection, select

from producer.files import DocumentFile
from schema.database.outbox_rows import envelope_of
from schema.database.tables import outbox
from schema.events.events import ChunkRow, DocumentUpserted, decode


def content(connection: Connection, doc_id: str) -> tuple[dict[str, ChunkRow], dict[str, DocumentFile]]:
    """Chunks by chunk_id and files by object key, the newest event's word for each."""
    chunks: dict[str, ChunkRow] = {}
    files: dict[str, DocumentFile] = {}
    waiting = select(outbox).where(outbox.c.aggregate_id == doc_id).order_by(outbox.c.id)
    for row in connection.execute(waiting):
        event = decode(envelope_of(row))
        if not isinstance(event, DocumentUpserted):
            continue
        chunks |= {chunk.chunk_id: chunk for chunk in event.chunks}
        for file in event.files:
            files[file.object_key] = DocumentFile(
                file.object_key.rpartition(".")[2],
                file.content_type,
                file.sha256,
                file.size_bytes,
                file.content,
                file.staged_key,
            )
    return chunks, files
