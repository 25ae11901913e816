"""What the writer refuses. Each is raised before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class ProducerError(Exception):
    """The root of every error that the producer raises on purpose."""


@dataclass(frozen=True)
class Problem:
    field: str  # "title", "chunks[3].vector"
    message: str

    def __str__(self) -> str:
        return f"{self.field} {self.message}"


_SHOWN = 10


class InvalidDocument(ProducerError):
    """Raised when a document breaks a limit of the contract; `problems` names every field at fault."""

    def __init__(self, doc_id: object, problems: Sequence[Problem]) -> None:
        shown = "; ".join(map(str, problems[:_SHOWN]))
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        super().__init__(f"document {doc_id!r}: {shown}{more}")
        self.doc_id = doc_id
        self.problems = tuple(problems)


class VectorRequired(ProducerError):
    """Raised when a chunk comes without its vector and not every sink is known to hold it.

    `chunks` maps a doc_id to the positions of those chunks in the document's list.
    """

    def __init__(self, chunks: Mapping[str, Sequence[int]]) -> None:
        count = sum(map(len, chunks.values()))
        doc_id, positions = next(iter(chunks.items()))
        super().__init__(
            f"{count} chunks of {len(chunks)} documents need their vectors, the first is chunks[{positions[0]}] "
            f"of document {doc_id!r}: not every sink holds it yet"
        )
        self.chunks = {doc_id: tuple(positions) for doc_id, positions in chunks.items()}


class FileRequired(ProducerError):
    """Raised when a document comes without its small file while the object store may not hold it yet."""

    def __init__(self, doc_id: str, object_key: str) -> None:
        super().__init__(
            f"document {doc_id!r}: file is required, {object_key!r} is not confirmed by the object store yet"
        )
        self.doc_id = doc_id
        self.object_key = object_key


class UnknownDocument(ProducerError):
    """Raised when a document to delete or to send again does not exist."""

    def __init__(self, doc_ids: Sequence[str]) -> None:
        super().__init__(f"no such document: {', '.join(map(repr, doc_ids[:_SHOWN]))}")
        self.doc_ids = tuple(doc_ids)


class WrongModel(ProducerError):
    """Raised when vectors come from another embedding model than the system's, or the system is not initialised."""


class WriteConflict(ProducerError):
    """Raised when another transaction created the same document meanwhile; run the whole transaction again."""
