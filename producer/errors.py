"""The errors of the producer. All but WriteConflict are raised before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class ProducerError(Exception):
    """The root of all errors that the producer raises. Catch it to handle any refused write."""


@dataclass(frozen=True)
class Problem:
    """One field that breaks a limit."""

    field: str  # "title", "chunks[3].vector"
    message: str

    def __str__(self) -> str:
        return f"{self.field} {self.message}"


_SHOWN = 10


class InvalidDocument(ProducerError):
    """Raised when a document breaks a limit. Correct the fields that `problems` names, and write it again."""

    def __init__(self, doc_id: object, problems: Sequence[Problem]) -> None:
        shown = "; ".join(map(str, problems[:_SHOWN]))
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        super().__init__(f"document {doc_id!r}: {shown}{more}")
        self.doc_id = doc_id
        self.problems = tuple(problems)


class VectorRequired(ProducerError):
    """Raised when a chunk has no vector and not every sink holds it yet. Embed the chunks, and write them again.

    `chunks` maps a doc_id to the positions of these chunks in the document's list.
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
    """Raised when a small file is left out before the object store confirmed it. Write the document with its file."""

    def __init__(self, doc_id: str, object_key: str) -> None:
        super().__init__(
            f"document {doc_id!r}: file is required, {object_key!r} is not confirmed by the object store yet"
        )
        self.doc_id = doc_id
        self.object_key = object_key


class UnknownDocument(ProducerError):
    """Raised when a document to delete or to resync does not exist. Leave out the ids in `doc_ids`."""

    def __init__(self, doc_ids: Sequence[str]) -> None:
        super().__init__(f"no such document: {', '.join(map(repr, doc_ids[:_SHOWN]))}")
        self.doc_ids = tuple(doc_ids)


class WrongModel(ProducerError):
    """Raised when the system has another embedding model than the writer, or none. Correct the writer's settings."""


class WriteConflict(ProducerError):
    """Raised when another transaction created the same document. Roll back, and run the whole transaction again."""
