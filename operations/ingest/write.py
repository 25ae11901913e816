"""`rag-outbox write`: documents from JSON lines.

A batch is a transaction. A line at fault ends the command: every line before it is written, none from it on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from operations import transactions
from operations.ingest import json_lines
from operations.ingest.json_lines import BadLine, Line
from operations.wiring import System
from producer import FileRequired, InvalidDocument, VectorRequired

BATCH_DOCUMENTS = 100
_BATCH_BYTES = 4 * 1024 * 1024


@dataclass
class Written:
    written: int = 0  # documents
    unchanged: int = 0
    chunks: int = 0  # of the written documents
    embedded: int = 0  # chunks that came without a vector


def write(system: System, stream: IO[bytes], folder: Path, advance: Callable[[int], None]) -> Written:
    """Write every document of a stream; `advance` is told the bytes that are done. Raises BadLine."""
    writer, embedder = system.writer(), system.embedder
    total = Written()

    def commit(lines: list[Line]) -> None:
        documents = [line.document for line in lines]
        try:
            receipts, embedded = transactions.upsert(system.engine, system.store, writer, documents, embedder)
        except (InvalidDocument, VectorRequired, FileRequired) as error:
            blamed = error.chunks if isinstance(error, VectorRequired) else (error.doc_id,)
            at = next(index for index, document in enumerate(documents) if document.doc_id in blamed)
            if at:
                commit(lines[:at])
            raise BadLine(lines[at].number, error) from error
        for receipt, document in zip(receipts, documents, strict=True):
            total.written += receipt.changed
            total.unchanged += not receipt.changed
            total.chunks += len(document.chunks) if receipt.changed else 0
        total.embedded += embedded
        advance(sum(line.size_bytes for line in lines))

    batch: dict[str, Line] = {}
    try:
        for line in json_lines.read(stream, folder, system.store):
            filled = sum(other.size_bytes for other in batch.values())
            if (
                len(batch) == BATCH_DOCUMENTS
                or filled + line.size_bytes > _BATCH_BYTES
                or line.document.doc_id in batch
            ):
                commit(list(batch.values()))
                batch.clear()
            batch[line.document.doc_id] = line
    except BadLine as error:
        if batch and error.number > max(line.number for line in batch.values()):
            commit(list(batch.values()))
        raise
    if batch:
        commit(list(batch.values()))
    return total
