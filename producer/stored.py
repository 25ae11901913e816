"""What the database holds of the documents about to be written, read under their locks in four statements."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, Table, select

from schema.batches import bounded
from schema.sinks import SINKS
from schema.tables import chunk_tombstones, chunks, document_files, documents, sink_states

_IDS_A_STATEMENT = 1_000

StoredRow = Row[Any]


@dataclass
class Stored:
    """One document as it stands. `confirmed_version`: the newest version that every sink is known to hold."""

    document: StoredRow
    chunks: dict[str, StoredRow] = field(default_factory=dict)  # by chunk_id
    tombstones: set[str] = field(default_factory=set)  # chunk ids
    files: dict[str, StoredRow] = field(default_factory=dict)  # by object_key, tombstones included
    confirmed_version: int = 0
    failed: set[str] = field(default_factory=set)  # sinks that refused the newest version, or lost part of it


def lock(connection: Connection, doc_ids: Sequence[str]) -> dict[str, Stored]:
    """The documents that exist, locked until the transaction ends, in the order of their ids: no deadlock by order."""
    found = {
        row.doc_id: Stored(row)
        for some in bounded(sorted(doc_ids), _IDS_A_STATEMENT)
        for row in connection.execute(
            select(documents).where(documents.c.doc_id.in_(some)).order_by(documents.c.doc_id).with_for_update()
        )
    }
    for row in _rows_of(connection, chunks, found):
        found[row.doc_id].chunks[row.chunk_id] = row
    for row in _rows_of(connection, chunk_tombstones, found):
        found[row.doc_id].tombstones.add(row.chunk_id)
    for row in _rows_of(connection, document_files, found):
        found[row.doc_id].files[row.object_key] = row
    applied: dict[str, dict[str, int]] = defaultdict(dict)
    for row in _rows_of(connection, sink_states, found):
        applied[row.doc_id][row.sink] = row.applied_version
        if row.state == "failed":
            found[row.doc_id].failed.add(row.sink)
    for doc_id, stored in found.items():
        stored.confirmed_version = min(applied[doc_id].get(sink, 0) for sink in SINKS)
    return found


def _rows_of(connection: Connection, table: Table, doc_ids: dict[str, Stored]) -> list[StoredRow]:
    """With share locks: under REPEATABLE READ a plain read could see rows from before the document was locked."""
    return [
        row
        for some in bounded(doc_ids, _IDS_A_STATEMENT)
        for row in connection.execute(select(table).where(table.c.doc_id.in_(some)).with_for_update(read=True))
    ]
