"""Replays dead letters: the document's current state is sent again, as a new version with new events.

The old event is never published again: its version and its event id have been refused. One transaction writes the
version and closes the letters, so that a command that dies is simply run again.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, select

import producer
from consumers import marks
from consumers.minio.translate import translate_errors
from operations.dead_letters.letters import Letter, close
from operations.dead_letters.sources import Sources
from operations.errors import OperationError
from operations.wiring import System
from producer import Chunk, DocumentFile, FileRequired, VectorRequired
from schema.database.connection import reading
from schema.database.tables import documents

_ATTEMPTS = 5  # each finds vectors or a file that the one before lacked; concurrent writes may need more


class CannotReplay(OperationError):
    """Raised when a document cannot be sent again; the message says what is missing, or that nothing is left to do."""


def require_replayable(letter: Letter) -> None:
    """Raises NotOpen, or CannotReplay if the letter is superseded."""
    letter.require_open()
    if letter.row.is_superseded:
        raise CannotReplay("every sink holds a newer version of the document, or it is deleted: nothing is left to do")


def replay(system: System, letters: Sequence[Letter]) -> int | None:
    """Send the document of these replayable letters again, once. Returns the new version; None for a deleted document.

    Raises NotOpen, CannotReplay, ProducerError, or an error of the object store, and then nothing is written.
    """
    doc_id = letters[0].doc_id
    with reading(system.engine) as connection:
        is_deleted = select(documents.c.deleted_at.is_not(None)).where(documents.c.doc_id == doc_id)
        deleted = connection.execute(is_deleted).scalar()
    if deleted is None:
        raise CannotReplay(f"there is no document {doc_id!r}: only a new write can bring it")
    if not deleted:
        return _send_again(system, letters)
    _remove_again(system, letters)
    return None


def describe_version(version: int | None) -> str:
    """What a replay did: it wrote this version, or none of a deleted document."""
    return "a refill removes the deleted document" if version is None else f"sent again as version {version}"


def close_replayed(system: System, letters: Sequence[Letter], version: int | None) -> None:
    """Close more letters of a document that was replayed as this version. Raises NotOpen."""
    producer.run(system.engine, lambda connection: _close(connection, system, letters, version))


def _send_again(system: System, letters: Sequence[Letter]) -> int:
    writer, doc_id = system.writer(), letters[0].doc_id
    sources = Sources(system, letters)
    chunks: list[Chunk] = []
    files: dict[str, DocumentFile] = {}

    def work(connection: Connection) -> int:
        version = writer.resync(connection, doc_id, chunks, files=files).version
        _close(connection, system, letters, version)
        return version

    for _ in range(_ATTEMPTS):
        try:
            with translate_errors():
                return producer.run(system.engine, work, store=system.store)
        except VectorRequired as error:
            chunks = sources.find_chunks(error.chunks[doc_id])
            if not chunks:
                raise _explain_lacking(error, "the archive lacks vectors of them", sources) from error
        except FileRequired as error:
            file = sources.find_file(error.object_key)
            if file is None:
                raise _explain_lacking(error, "the object store lacks it", sources) from error
            files[error.object_key] = file
    raise CannotReplay(f"document {doc_id!r} changes all the time; try again")


def _explain_lacking(error: Exception, what: str, sources: Sources) -> CannotReplay:
    why = "; ".join([str(error), what, *sources.unread])
    return CannotReplay(f"{why}; write the document again")


def _remove_again(system: System, letters: Sequence[Letter]) -> None:
    """A deleted document has no state to send: the refill of every sink removes what is left of it."""
    doc_id = letters[0].doc_id

    def work(connection: Connection) -> None:
        marks.lock_documents(connection, [doc_id])
        marks.mark_absent_everywhere(connection, {doc_id: "a dead letter of the deleted document was replayed"})
        _close(connection, system, letters, None)

    producer.run(system.engine, work)


def _close(connection: Connection, system: System, letters: Sequence[Letter], version: int | None) -> None:
    close(connection, [letter.id for letter in letters], "replayed", system.operator, describe_version(version))
