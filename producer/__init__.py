"""What an upstream service imports: documents, the writer that writes them with their events, and receipts."""

from producer.documents import Chunk, Document
from producer.errors import (
    Backpressure,
    FileRequired,
    InvalidArgument,
    InvalidDocument,
    ProducerError,
    UnknownDocument,
    UnsuitableIsolation,
    VectorRequired,
    WriteConflict,
    WrongModel,
    WrongRelease,
)
from producer.files import DocumentFile, FileUnusable
from producer.metrics import WriterMetrics
from producer.receipts import ApplyFailed, NotApplied, Receipt
from producer.transaction import run
from producer.writer import Writer

__all__ = [
    "ApplyFailed",
    "Backpressure",
    "Chunk",
    "Document",
    "DocumentFile",
    "FileRequired",
    "FileUnusable",
    "InvalidArgument",
    "InvalidDocument",
    "NotApplied",
    "ProducerError",
    "Receipt",
    "UnknownDocument",
    "UnsuitableIsolation",
    "VectorRequired",
    "WriteConflict",
    "Writer",
    "WriterMetrics",
    "WrongModel",
    "WrongRelease",
    "run",
]
