"""The marks of an instance of Milvus. Of the one that serves: chunks that are synced, tombstones that are confirmed.

Every other instance has the marks of a sink without rows of its own. The role is read in the transaction of the mark.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, true, update

from consumers.marks import confirm_removed
from consumers.removals import complete_changes
from consumers.roles import is_serving
from consumers.sink import Change
from consumers.sinks import PluginMarks
from schema.batches import bounded
from schema.database.statements import IDS_PER_STATEMENT
from schema.database.tables import chunk_tombstones, chunks
from schema.database.values import values_table
from schema.events.events import DocumentUpserted, Event
from schema.sinks import MILVUS


class MilvusMarks:
    def __init__(self, sink: str = MILVUS) -> None:
        self._sink = sink

    def mark_applied(self, connection: Connection, changes: Sequence[Change]) -> None:
        if not changes:
            return
        if not is_serving(connection, self._sink):
            PluginMarks(self._sink).mark_applied(connection, changes)
            return
        events = [(change.version, event) for change in changes for event in change.events]
        mark_chunks_synced(
            connection, ((chunk_id, version) for version, event in events for chunk_id in _list_written(event))
        )
        removed = [(chunk_id, version) for version, event in events for chunk_id in event.tombstones]
        confirm_tombstones(connection, removed, [(one.doc_id, one.version) for one in changes if one.replace])

    def complete_removals(self, connection: Connection, changes: Sequence[Change]) -> list[Change]:
        columns = chunk_tombstones.c
        return complete_changes(connection, changes, "tombstones", columns.chunk_id, columns.removed_in_version)


def _list_written(event: Event) -> list[str]:
    if not isinstance(event, DocumentUpserted):
        return []
    return [chunk.chunk_id for chunk in event.chunks] + [chunk.chunk_id for chunk in event.relabelled]


def mark_chunks_synced(connection: Connection, written: Iterable[tuple[str, int]]) -> None:
    """Chunks that Milvus acknowledged, as (chunk id, version)."""
    for some in bounded(written, IDS_PER_STATEMENT):
        given = values_table(connection, {"chunk_id": str, "version": int}, some)
        is_unchanged = chunks.c.row_version <= given.c.version
        statement = update(chunks).where(chunks.c.chunk_id == given.c.chunk_id, is_unchanged)
        connection.execute(statement.values(milvus_synced=true()))


def confirm_tombstones(
    connection: Connection, removed: Iterable[tuple[str, int]], replaced: Iterable[tuple[str, int]] = ()
) -> None:
    """Chunks whose removal Milvus acknowledged, as (chunk id, version), or as (doc_id, version) of whole documents."""
    columns = chunk_tombstones.c
    confirm_removed(connection, columns.chunk_id, columns.chunk_id, columns.removed_in_version, removed)
    confirm_removed(connection, columns.chunk_id, columns.doc_id, columns.removed_in_version, replaced)
