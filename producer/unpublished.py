"""What events that wait in the outbox still carry of a document: vectors and files that MySQL itself does not keep."""

from zlib import crc32

from sqlalchemy import Connection, select

from producer.files import DocumentFile
from schema.database.outbox_rows import envelope_of
from schema.database.tables import outbox
from schema.events.events import ChunkRow, DocumentUpserted, FileRecord, decode


def read_unpublished(
    connection: Connection, doc_id: str, lanes: int
) -> tuple[dict[str, ChunkRow], dict[str, DocumentFile]]:
    """Chunks by chunk id and files by object key, each from the newest event that carries it.

    `lanes` is their number in the system.
    """
    chunks: dict[str, ChunkRow] = {}
    files: dict[str, DocumentFile] = {}
    waiting = select(outbox).where(outbox.c.aggregate_id == doc_id).order_by(outbox.c.id)
    if connection.dialect.name == "mysql":  # its index leads to one lane of the backlog; SQLite has no CRC32
        waiting = waiting.where(outbox.c.lane == crc32(doc_id.encode()) % lanes)
    for row in connection.execute(waiting):
        event = decode(envelope_of(row))
        if isinstance(event, DocumentUpserted):
            chunks |= {chunk.chunk_id: chunk for chunk in event.chunks}
            files |= {record.object_key: _file(record) for record in event.files}
    return chunks, files


def _file(record: FileRecord) -> DocumentFile:
    return DocumentFile(
        record.object_key.rpartition(".")[2],
        record.content_type,
        record.sha256,
        record.size_bytes,
        record.content,
        record.staged_key,
    )
