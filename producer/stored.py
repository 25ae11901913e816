"""What the database holds of the documents that are about to be written: locked, and read in five statements."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import CHAR, BindParameter, Connection, Row, Select, Table, bindparam, cast, func, select

from schema.batches import bounded
from schema.database.statements import IDS_PER_STATEMENT
from schema.database.tables import chunk_tombstones, chunks, document_files, documents, sink_states
from schema.sinks import SINKS

_CHUNKS_PER_VALUE = 5_000  # in one JSON value, which max_allowed_packet bounds

StoredRow = Row[Any]


class ChunkColumns(msgspec.Struct, frozen=True, gc=False):
    """The key of a row of `chunks`, and the columns that a write may change."""

    chunk_id: str
    vector_level: str
    modal_type: str
    associate_id: str | None
    chunk_index: int
    parent_chunk_id: str | None
    start_char: int | None
    chunk_strategy: str | None


class StoredChunk(ChunkColumns, frozen=True, array_like=True, gc=False):
    """A stored chunk, as far as a plan compares it."""

    vector_version: int
    row_version: int


_DOC_IDS: BindParameter[Any] = bindparam("doc_ids", expanding=True)
_DECODER = msgspec.json.Decoder(list[StoredChunk])


def _select_shared(table: Table, *columns: Any) -> Select[Any]:
    """A read with share locks: under REPEATABLE READ a plain read may return rows older than the document's lock."""
    return select(*columns).where(table.c.doc_id.in_(_DOC_IDS)).with_for_update(read=True)


def _packed_chunks(aggregate: Any) -> Select[Any]:
    """A document's chunks in JSON arrays, in any order: PyMySQL would decode every column of every row in Python."""
    values = aggregate(func.json_array(*(chunks.c[name] for name in StoredChunk.__struct_fields__)))
    piece = chunks.c.chunk_index // _CHUNKS_PER_VALUE
    return _select_shared(chunks, chunks.c.doc_id, cast(values, CHAR).label("packed")).group_by(chunks.c.doc_id, piece)


_DOCUMENTS = select(documents).where(documents.c.doc_id.in_(_DOC_IDS)).order_by(documents.c.doc_id).with_for_update()
_CHUNKS = _packed_chunks(func.json_arrayagg)
_CHUNKS_IN_SQLITE = _packed_chunks(func.json_group_array)
_TOMBSTONES = _select_shared(chunk_tombstones, chunk_tombstones.c.doc_id, chunk_tombstones.c.chunk_id)
_FILES = _select_shared(document_files, document_files)
_STATES = _select_shared(sink_states, *(sink_states.c[name] for name in ("doc_id", "sink", "applied_version", "state")))


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it is stored."""

    row: StoredRow  # of `documents`
    chunks: Mapping[str, StoredChunk]  # by chunk id
    tombstones: AbstractSet[str]  # chunk ids
    files: Mapping[str, StoredRow]  # by object key, removed ones included
    confirmed_version: int  # the newest version that every sink is known to hold
    failed_sinks: AbstractSet[str]  # they refused the newest version, or lost part of it


def lock_documents(connection: Connection, doc_ids: Sequence[str]) -> dict[str, StoredDocument]:
    """The documents that exist, by doc_id, locked until the transaction ends.

    Locks are taken in the order of the ids, so that two batches cannot deadlock on their documents.
    """
    rows = {row.doc_id: row for row in _select(connection, _DOCUMENTS, sorted(doc_ids))}
    chunks_of: dict[str, dict[str, StoredChunk]] = defaultdict(dict)
    packed = _CHUNKS_IN_SQLITE if connection.dialect.name == "sqlite" else _CHUNKS
    for row in _select(connection, packed, rows):
        chunks_of[row.doc_id] |= {chunk.chunk_id: chunk for chunk in _DECODER.decode(row.packed)}
    tombstones_of: dict[str, set[str]] = defaultdict(set)
    for row in _select(connection, _TOMBSTONES, rows):
        tombstones_of[row.doc_id].add(row.chunk_id)
    files_of: dict[str, dict[str, StoredRow]] = defaultdict(dict)
    for row in _select(connection, _FILES, rows):
        files_of[row.doc_id][row.object_key] = row
    applied_by: dict[str, dict[str, int]] = defaultdict(dict)
    failed_of: dict[str, set[str]] = defaultdict(set)
    for row in _select(connection, _STATES, rows):
        applied_by[row.doc_id][row.sink] = row.applied_version
        if row.state == "failed":
            failed_of[row.doc_id].add(row.sink)
    return {
        doc_id: StoredDocument(
            row,
            chunks_of[doc_id],
            tombstones_of[doc_id],
            files_of[doc_id],
            min(applied_by[doc_id].get(sink, 0) for sink in SINKS),
            failed_of[doc_id],
        )
        for doc_id, row in rows.items()
    }


def _select(connection: Connection, statement: Select[Any], doc_ids: Iterable[str]) -> Iterator[StoredRow]:
    for batch in bounded(doc_ids, IDS_PER_STATEMENT):
        yield from connection.execute(statement, {"doc_ids": batch})
