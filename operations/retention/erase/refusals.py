"""Why a document cannot be erased now, and the command that helps: a store may still hold what is to be removed."""

from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from sqlalchemy import Connection, func, select

from operations.errors import OperationError
from operations.retention.processing_tasks import ENDED
from schema.database.dead_letters import is_superseded
from schema.database.history import Identity, read_identity
from schema.database.tables import documents, outbox, outbox_dead_letters, processing_tasks, sink_states


class CannotErase(OperationError):
    """Raised when text of the document may still be where an erase does not remove it; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Erasable:
    """A document that may be erased; `lagging` are optional sinks that do not hold its version."""

    doc_id: str
    version: int
    is_deleted: bool
    lagging: tuple[str, ...]


def require_erasable(connection: Connection, doc_id: str) -> Erasable:
    """Raises CannotErase, or OperationError if there is no such document."""
    columns = documents.c
    chosen = select(columns.version, columns.deleted_at).where(columns.doc_id == doc_id)
    row = connection.execute(chosen).one_or_none()
    if row is None:
        raise OperationError(f"no such document: {doc_id!r}")
    identity = read_identity(connection)
    states = sink_states.c
    of_document = select(states.sink, states.state, states.applied_version).where(states.doc_id == doc_id)
    held = {one.sink: (one.state, one.applied_version) for one in connection.execute(of_document)}
    behind = [sink for sink in identity.sinks if held.get(sink.name) != ("applied", row.version)]
    refusals = []
    for sink in behind:
        if sink.is_gating:
            state = held.get(sink.name, ("pending", 0))[0]
            refusals.append(
                f"{sink.name} has not confirmed version {row.version} ({state}): see rag-outbox show {doc_id}"
            )
    refusals += _find_rows(connection, doc_id, identity)
    if refusals:
        raise CannotErase(f"document {doc_id!r} cannot be erased now: {'; '.join(refusals)}")
    lagging = tuple(sink.name for sink in behind if sink.state != "leaving")
    return Erasable(doc_id, row.version, row.deleted_at is not None, lagging)


def _find_rows(connection: Connection, doc_id: str, identity: Identity) -> Iterator[str]:
    """Rows that somebody still needs and that may have its text."""
    waiting = select(func.count()).where(outbox.c.aggregate_id == doc_id)
    if connection.dialect.name == "mysql":  # its index leads to one lane of the backlog; SQLite has no CRC32
        waiting = waiting.where(outbox.c.lane == crc32(doc_id.encode()) % identity.lanes)
    if number := connection.execute(waiting).scalar_one():
        yield f"{number} events of it wait in the outbox: run rag-outbox relay, or rag-outbox run without Kafka"
    letter = outbox_dead_letters.c
    open_letters = letter.aggregate_id == doc_id, letter.state == "open"
    needed = list(connection.execute(select(letter.id).where(*open_letters, ~is_superseded())).scalars())
    if needed:
        yield f"dead letter {needed[0]} of it is open: replay or discard it with rag-outbox dead-letters"
    task = processing_tasks.c
    unended = select(func.count()).where(task.doc_id == doc_id, task.status.not_in(ENDED))
    if number := connection.execute(unended).scalar_one():
        yield f"{number} tasks of it have not ended: wait for them"
