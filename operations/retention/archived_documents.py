"""What the database says of the documents that the bucket has an archive of."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, select

from schema import archive
from schema.database.connection import snapshot
from schema.database.history import read_identity
from schema.database.tables import chunks, documents, sink_states, tidied_documents

_NAMES = ("doc_id", "version", "history_id", "lost_version", "deleted_at", "status")


@dataclass(frozen=True)
class ArchivedDocument:
    """A document, and whether all of its sinks are in step with it; `states` change with every mark."""

    doc_id: str
    version: int
    history_id: str
    lost_version: int
    is_deleted: bool
    tidied_version: int  # at which its archive had no superseded rows; 0: never
    states: tuple[tuple[str, str, int, int], ...]  # sink, state, applied version and marks
    is_settled: bool

    @property
    def may_be_tidied(self) -> bool:
        """Every sink holds the version. Refills, suspects and writes under way may need what the archive has."""
        return self.is_settled and self.lost_version < self.version


def look(engine: Engine, doc_ids: Collection[str]) -> dict[str, ArchivedDocument]:
    """Documents that do not exist are left out."""
    with snapshot(engine) as connection:
        return _look(connection, doc_ids)


def look_with_chunks(engine: Engine, doc_id: str) -> tuple[ArchivedDocument | None, dict[str, archive.Wanted]]:
    """The document, and what the archive must have of its chunks, from one snapshot."""
    names = ("chunk_id", "content_hash", "vector_version", "vector_digest")
    of_document = select(*(chunks.c[name] for name in names)).where(chunks.c.doc_id == doc_id)
    with snapshot(engine) as connection:
        found = _look(connection, [doc_id]).get(doc_id)
        rows = connection.execute(of_document).all()
    wanted = {row.chunk_id: archive.Wanted(row.content_hash, row.vector_version, row.vector_digest) for row in rows}
    return found, wanted


def _look(connection: Connection, doc_ids: Collection[str]) -> dict[str, ArchivedDocument]:
    state = sink_states.c
    sinks = [sink.name for sink in read_identity(connection).sinks if sink.state != "leaving"]
    of_states = select(state.doc_id, state.sink, state.state, state.applied_version, state.marks)
    states: dict[str, list[tuple[str, str, int, int]]] = defaultdict(list)
    for row in connection.execute(of_states.where(state.doc_id.in_(doc_ids), state.sink.in_(sinks))):
        states[row.doc_id].append((row.sink, row.state, row.applied_version, row.marks))
    joined = documents.outerjoin(tidied_documents, tidied_documents.c.doc_id == documents.c.doc_id)
    columns = [documents.c[name] for name in _NAMES]
    rows = select(*columns, tidied_documents.c.version.label("tidied_version")).select_from(joined)
    return {
        row.doc_id: _document(row, tuple(sorted(states[row.doc_id])), len(sinks))
        for row in connection.execute(rows.where(documents.c.doc_id.in_(doc_ids)))
    }


def _document(row: Any, states: tuple[tuple[str, str, int, int], ...], sinks: int) -> ArchivedDocument:
    holding = [one for one in states if one[1:3] == ("applied", row.version)]
    return ArchivedDocument(
        row.doc_id,
        row.version,
        row.history_id,
        row.lost_version,
        row.deleted_at is not None,
        row.tidied_version or 0,
        states,
        len(holding) == sinks and row.status == "completed",
    )
