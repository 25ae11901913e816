"""What the database holds of the documents about to be written, read under their locks in five statements."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import CHAR, BindParameter, Connection, Row, Select, Table, bindparam, cast, func, select

from schema.batches import bounded
from schema.database.statements import IDS_PER_STATEMENT
from schema.database.tables import chunk_tombstones, chunks, document_files, documents, sink_states
from schema.sinks import SINKS

_CHUNKS_A_VALUE = 5_000  # of one document in one JSON value, which max_allowed_packet bounds

StoredRow = Row[Any]


class ChunkColumns(msgspec.Struct, frozen=True, gc=False):
    """The columns of `chunks` that a write may change, and the key."""

    chunk_id: str
    vector_level: str
    modal_type: str
    associate_id: str | None
    chunk_index: int
    parent_chunk_id: str | None
    start_char: int | None
    chunk_strategy: str | None


class StoredChunk(ChunkColumns, frozen=True, array_like=True, gc=False):
    """What a plan compares."""

    vector_version: int
    row_version: int


_DOC_IDS: BindParameter[Any] = bindparam("doc_ids", expanding=True)
_DECODER = msgspec.json.Decoder(list[StoredChunk])


def _sharing(table: Table, *columns: Any) -> Select[Any]:
    """With share locks: under REPEATABLE READ a plain read could see rows from before the document was locked."""
    return select(*columns).where(table.c.doc_id.in_(_DOC_IDS)).with_for_update(read=True)


def _packed_chunks(aggregate: Any) -> Select[Any]:
    """A document's chunks in JSON arrays, in any order: PyMySQL would decode each column of each row in Python."""
    values = aggregate(func.json_array(*(chunks.c[name] for name in StoredChunk.__struct_fields__)))
    piece = chunks.c.chunk_index // _CHUNKS_A_VALUE
    return _sharing(chunks, chunks.c.doc_id, cast(values, CHAR).label("packed")).group_by(chunks.c.doc_id, piece)


_DOCUMENTS = select(documents).where(documents.c.doc_id.in_(_DOC_IDS)).order_by(documents.c.doc_id).with_for_update()
_CHUNKS = _packed_chunks(func.json_arrayagg)
_CHUNKS_IN_SQLITE = _packed_chunks(func.json_group_array)
_TOMBSTONES = _sharing(chunk_tombstones, chunk_tombstones.c.doc_id, chunk_tombstones.c.chunk_id)
_FILES = _sharing(document_files, document_files)
_STATES = _sharing(sink_states, *(sink_states.c[name] for name in ("doc_id", "sink", "applied_version", "state")))


@dataclass
class Stored:
    """One document as it stands. `confirmed_version`: the newest version that every sink is known to hold."""

    document: StoredRow
    chunks: dict[str, StoredChunk] = field(default_factory=dict)  # by chunk_id
    tombstones: set[str] = field(default_factory=set)  # chunk ids
    files: dict[str, StoredRow] = field(default_factory=dict)  # by object_key, tombstones included
    confirmed_version: int = 0
    failed: set[str] = field(default_factory=set)  # sinks that refused the newest version, or lost part of it


def lock(connection: Connection, doc_ids: Sequence[str]) -> dict[str, Stored]:
    """The documents that exist, locked until the transaction ends, in the order of their ids: no deadlock by order."""
    found = {row.doc_id: Stored(row) for row in _rows(connection, _DOCUMENTS, sorted(doc_ids))}
    packed = _CHUNKS_IN_SQLITE if connection.dialect.name == "sqlite" else _CHUNKS
    for row in _rows(connection, packed, found):
        found[row.doc_id].chunks |= {chunk.chunk_id: chunk for chunk in _DECODER.decode(row.packed)}
    for row in _rows(connection, _TOMBSTONES, found):
        found[row.doc_id].tombstones.add(row.chunk_id)
    for row in _rows(connection, _FILES, found):
        found[row.doc_id].files[row.object_key] = row
    applied: dict[str, dict[str, int]] = defaultdict(dict)
    for row in _rows(connection, _STATES, found):
        applied[row.doc_id][row.sink] = row.applied_version
        if row.state == "failed":
            found[row.doc_id].failed.add(row.sink)
    for doc_id, stored in found.items():
        stored.confirmed_version = min(applied[doc_id].get(sink, 0) for sink in SINKS)
    return found


def _rows(connection: Connection, statement: Select[Any], doc_ids: Iterable[str]) -> Iterator[StoredRow]:
    for some in bounded(doc_ids, IDS_PER_STATEMENT):
        yield from connection.execute(statement, {"doc_ids": some})
