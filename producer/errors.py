"""The errors of the producer. All but WriteConflict are raised before anything is written."""

from collections.abc import Sequence
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


class InvalidArgument(ProducerError):
    """Raised when headers or a transaction context break a limit. Correct what `problems` names, and write again."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems[:_SHOWN])))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class NeededVector:
    """A chunk whose vector must be sent and is unknown."""

    doc_id: str
    position: int  # in the document's list
    chunk_id: str
    content: str | None = None  # None if the caller did not give it
    is_archived: bool = False  # the object store confirmed an event with this vector


class VectorRequired(ProducerError):
    """Raised when a chunk has no vector and not every sink holds it yet. Embed the chunks, and write them again.

    `chunks` maps a doc_id to the positions of these chunks in the document's list; `archived` to those of them whose
    vectors the archive has: `producer.run` with a store fetches these.
    """

    def __init__(self, needed: Sequence[NeededVector]) -> None:
        first = needed[0]
        self.chunks = _positions(needed)
        self.archived = _positions([one for one in needed if one.is_archived])
        self.needed = tuple(needed)
        super().__init__(
            f"{_count(len(needed), 'chunk')} of {_count(len(self.chunks), 'document')} "
            f"{'needs its vector' if len(needed) == 1 else 'need their vectors'}, the first is "
            f"chunks[{first.position}] of document {first.doc_id!r}: not every sink holds it yet"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _positions(needed: Sequence[NeededVector]) -> dict[str, tuple[int, ...]]:
    found: dict[str, list[int]] = {}
    for one in needed:
        found.setdefault(one.doc_id, []).append(one.position)
    return {doc_id: tuple(positions) for doc_id, positions in found.items()}


class FileRequired(ProducerError):
    """Raised when a small file (64 KiB at most) is left out before the object store confirmed it. Give it again.

    So it is for the first chunks of a document whose file came before, too, once the relay has published that file.
    Keep the file until the receipt's `wait` returns.
    """

    def __init__(self, doc_id: str, object_key: str) -> None:
        super().__init__(
            f"document {doc_id!r}: file is required, {object_key!r} is not confirmed by the object store yet: "
            "give the file again, or wait until the version that brought it is applied"
        )
        self.doc_id = doc_id
        self.object_key = object_key


class UnknownDocument(ProducerError):
    """Raised when a document to delete, resync or relabel does not exist or is deleted. Leave out `doc_ids`."""

    def __init__(self, doc_ids: Sequence[str], *, is_deleted: bool = False) -> None:
        what = "deleted document" if is_deleted else "no such document"
        super().__init__(f"{what}: {', '.join(map(repr, doc_ids[:_SHOWN]))}")
        self.doc_ids = tuple(doc_ids)
        self.is_deleted = is_deleted


class WrongModel(ProducerError):
    """Raised when the system has another embedding model than the writer, or none. Correct the writer's settings."""


class WrongRelease(ProducerError):
    """Raised when this release does not work with the database's tables, or there are none. It says what to do."""


class WriteConflict(ProducerError):
    """Raised when another transaction wrote a document since this one began to read. Roll back, and run it again.

    `producer.run` does so. It is likely only at REPEATABLE READ: there it follows each wait for a document's lock.
    """


class UnsuitableIsolation(ProducerError):
    """Raised in a SERIALIZABLE transaction of MySQL: new documents would deadlock. Use READ COMMITTED."""


class Backpressure(ProducerError):
    """Raised when too many events wait in the outbox: relays are away or too slow. Write again once they caught up."""
