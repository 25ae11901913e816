"""`rag-outbox write`: documents from JSON lines.

Each batch is one transaction. A wrong line ends the command: only the lines before it are written.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from operations.ingest import json_lines, upsert
from operations.ingest.json_lines import BadLine, Line
from operations.wiring import System
from producer import FileRequired, InvalidDocument, VectorRequired, Writer

BATCH_DOCUMENTS = 100
_BATCH_BYTES = 4 * 1024 * 1024


@dataclass
class Written:
    written: int = 0  # documents
    unchanged: int = 0
    chunks: int = 0  # of the written documents
    embedded: int = 0  # chunks that had no vector


def write(
    system: System, stream: IO[bytes], files_below: Path | None, total: Written, advance: Callable[[int], None]
) -> None:
    """Write every document of a stream. Raises BadLine.

    `files_below` is the only folder that files are read from. `total` grows with each committed batch; `advance`
    receives its bytes.
    """
    writer = system.writer()
    for lines in _batches(json_lines.read(stream, files_below, system.store)):
        _write_batch(system, writer, lines, total, advance)


def _batches(lines: Iterator[Line]) -> Iterator[list[Line]]:
    """Yield bounded batches without duplicate documents. The lines before a BadLine are yielded, then it is raised."""
    batch: dict[str, Line] = {}
    size_bytes = 0
    try:
        for line in lines:
            doc_id = line.document.doc_id
            is_full = len(batch) == BATCH_DOCUMENTS or size_bytes + line.size_bytes > _BATCH_BYTES
            if batch and (is_full or doc_id in batch):
                yield list(batch.values())
                batch, size_bytes = {}, 0
            batch[doc_id] = line
            size_bytes += line.size_bytes
    except BadLine:
        if batch:
            yield list(batch.values())
        raise
    if batch:
        yield list(batch.values())


def _write_batch(
    system: System, writer: Writer, lines: Sequence[Line], total: Written, advance: Callable[[int], None]
) -> None:
    """Write lines in one transaction; if the writer refuses one of them, write only the lines before it."""
    documents = [line.document for line in lines]
    try:
        receipts, embedded = upsert.upsert(system.engine, system.store, writer, documents, system.embedder)
    except (InvalidDocument, VectorRequired, FileRequired) as error:
        refused = error.chunks if isinstance(error, VectorRequired) else (error.doc_id,)
        at = next(index for index, document in enumerate(documents) if document.doc_id in refused)
        if at:
            _write_batch(system, writer, lines[:at], total, advance)
        raise BadLine(lines[at].number, error) from error
    for receipt, document in zip(receipts, documents, strict=True):
        total.written += receipt.changed
        total.unchanged += not receipt.changed
        total.chunks += len(document.chunks or ()) if receipt.changed else 0
    total.embedded += embedded
    advance(sum(line.size_bytes for line in lines))
