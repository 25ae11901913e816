"""What an upstream service imports: documents, the writer that writes them with their events, and receipts."""

from producer.documents import Chunk, Document
from producer.errors import (
    FileRequired,
    InvalidDocument,
    ProducerError,
    UnknownDocument,
    VectorRequired,
    WriteConflict,
    WrongModel,
)
from producer.files import DocumentFile, FileUnusable
from producer.metrics import WriterMetrics
from producer.receipts import ApplyFailed, NotApplied, Receipt
from producer.writer import Writer

__all__ = [
    "ApplyFailed",
    "Chunk",
    "Document",
    "DocumentFile",
    "FileRequired",
    "FileUnusable",
    "InvalidDocument",
    "NotApplied",
    "ProducerError",
    "Receipt",
    "UnknownDocument",
    "VectorRequired",
    "WriteConflict",
    "Writer",
    "WriterMetrics",
    "WrongModel",
]
