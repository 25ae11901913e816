"""What the database holds of the documents that are about to be written: locked, and read in five statements.

The first one locks the system's identity and the documents. All writers and consumers lock a document before they
change what belongs to it, so the others need no lock to read what is committed. In REPEATABLE READ they read the
transaction's snapshot, which may be older than the lock: a version that it lacks is a WriteConflict. What changes
without a version is read with a lock, or may be old:

- Sink states: with a lock. An older `applied` would leave out vectors that the sink lost since.
- Tombstones of chunks and files that a consumer has deleted since: the event removes once more what is gone, and a
  DELETE of one that is revived finds no row.
- Of `chunks`, consumers change only `milvus_synced`, which no plan compares.
- Files of lost versions that a consumer added since: it changed `lost_version`, or all sinks were absent before, and
  a refill removes these files.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import (
    CHAR,
    BindParameter,
    ColumnElement,
    Connection,
    Row,
    Select,
    String,
    Table,
    bindparam,
    case,
    cast,
    column,
    func,
    literal_column,
    select,
    text,
    true,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from producer.confirmation import Confirmation, SinkState, confirm
from producer.errors import UnsuitableIsolation, WriteConflict
from schema import limits
from schema.batches import bounded
from schema.database.history import Identity, document_model, identity_columns, run_locked
from schema.database.statements import IDS_PER_STATEMENT
from schema.database.tables import (
    chunk_tombstones,
    chunks,
    document_files,
    documents,
    sink_states,
    system_identity,
)

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
    vector_digest: int | None


class json_strings(FunctionElement[str]):
    """The strings of a JSON array as rows, in their order; the column is `value`."""

    inherit_cache = True


@compiles(json_strings, "mysql")
def _json_strings_mysql(element: json_strings, compiler: SQLCompiler, **options: Any) -> str:
    array = compiler.process(element.clauses, **options)
    text = f"VARCHAR({limits.DOC_ID_BYTES}) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin"
    return f"JSON_TABLE({array}, '$[*]' COLUMNS (value {text} PATH '$'))"


@compiles(json_strings, "sqlite")
def _json_strings_sqlite(element: json_strings, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


_DOC_IDS: BindParameter[Any] = bindparam("doc_ids", expanding=True)
_GIVEN = json_strings(bindparam("json_doc_ids", type_=String)).table_valued(column("value", String), name="given")
_DECODER = msgspec.json.Decoder(list[StoredChunk])


def _select_of(table: Table, *columns: Any) -> Select[Any]:
    """A read without a lock: in REPEATABLE READ, a lock would be one of the gap in which others insert their rows."""
    return select(*columns).where(table.c.doc_id.in_(_DOC_IDS))


def _packed_chunks(aggregate: Any) -> Select[Any]:
    """A document's chunks in JSON arrays, in any order: PyMySQL would decode every column of every row in Python."""
    values = aggregate(func.json_array(*(chunks.c[name] for name in StoredChunk.__struct_fields__)))
    piece = chunks.c.chunk_index // _CHUNKS_PER_VALUE
    return _select_of(chunks, chunks.c.doc_id, cast(values, CHAR).label("packed")).group_by(chunks.c.doc_id, piece)


_CHUNKS = _packed_chunks(func.json_arrayagg)
_CHUNKS_IN_SQLITE = _packed_chunks(func.json_group_array)
_TOMBSTONES = _select_of(chunk_tombstones, chunk_tombstones.c.doc_id, chunk_tombstones.c.chunk_id)
_FILES = _select_of(document_files, document_files)


def _lock_states() -> Select[Any]:
    """The sink states, each locked by its whole key: no gap is. An unseen one counts as unknown, which sends more."""
    seen = sink_states.alias("seen")
    is_seen = (sink_states.c.doc_id == seen.c.doc_id) & (sink_states.c.sink == seen.c.sink)
    return (
        select(*(sink_states.c[name] for name in ("doc_id", "sink", "applied_version", "state")))
        .select_from(seen.join(sink_states, is_seen))
        .where(seen.c.doc_id.in_(_DOC_IDS))
        .prefix_with("STRAIGHT_JOIN", dialect="mysql")
        .with_hint(sink_states, "FORCE INDEX (PRIMARY)", "mysql")
        .suffix_with(text("FOR SHARE OF sink_states"), dialect="mysql")
    )


_STATES = _lock_states()
_MOVES = ("version", "history_id", "lost_version")  # each write of a document, and each found loss, changes one of them


def _document_columns() -> list[ColumnElement[Any]]:
    """The columns of `documents`, each with its embedding model."""
    others = [column for column in documents.c if column.name != "embedding_model"]
    return [*others, document_model().label("embedding_model")]


@cache
def _lock_statement(dialect: str) -> Select[Any]:
    """The identity with a row per given id, locked in their order; one row without an id if none is given."""
    isolation: Any = literal_column("@@transaction_isolation" if dialect == "mysql" else "''")
    present = documents.alias("present")
    # In REPEATABLE READ the lock of a document that does not exist is one of the gap, in which all others of the gap
    # cannot be created: only what a read without a lock finds is locked. What was created since, the INSERT finds.
    locked_id = case((isolation == literal_column("'REPEATABLE-READ'"), present.c.doc_id), else_=_GIVEN.c.value)
    given = (
        system_identity.outerjoin(_GIVEN, true())
        .outerjoin(present, present.c.doc_id == _GIVEN.c.value)
        .outerjoin(documents, documents.c.doc_id == locked_id)
    )
    return (
        select(
            *identity_columns(dialect),
            isolation.label("isolation"),
            *_document_columns(),
            *(present.c[name].label(f"seen_{name}") for name in _MOVES),
        )
        .select_from(given)
        .where(system_identity.c.id == 1)
        # Never a scan of a small table: it would lock rows of other documents.
        .with_hint(documents, "FORCE INDEX (PRIMARY)", "mysql")
        .with_hint(present, "FORCE INDEX (PRIMARY)", "mysql")
        .suffix_with(text("FOR SHARE OF system_identity FOR UPDATE OF documents"), dialect="mysql")
    )


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it is stored."""

    row: StoredRow  # of `documents`
    chunks: Mapping[str, StoredChunk]  # by chunk id
    tombstones: AbstractSet[str]  # chunk ids
    files: Mapping[str, StoredRow]  # by object key, removed ones included
    confirmation: Confirmation


@dataclass(frozen=True, slots=True)
class LockedDocuments:
    """The identity, and the documents that exist by doc_id."""

    identity: Identity
    stored: Mapping[str, StoredDocument]


def lock_documents(connection: Connection, doc_ids: Iterable[str]) -> LockedDocuments:
    """Lock the identity and documents until the transaction ends, and read them: the first thing that a write does.

    Locks are taken in the order of the ids, so that two batches cannot deadlock on their documents. Raises
    NotInitialised or UnsuitableIsolation, and WriteConflict if the transaction's snapshot lacks a document's version.
    """
    rows: dict[str, StoredRow] = {}
    statement = _lock_statement(connection.dialect.name)
    for some in list(bounded(sorted(set(doc_ids)), IDS_PER_STATEMENT)) or [[]]:
        packed_ids = msgspec.json.encode(some).decode()
        identity, found = run_locked(connection, statement, {"json_doc_ids": packed_ids})
        if found[0].isolation == "SERIALIZABLE":
            raise UnsuitableIsolation(
                "in a SERIALIZABLE transaction, writers of new documents would deadlock: "
                "use READ COMMITTED or REPEATABLE READ"
            )
        if found[0].isolation == "REPEATABLE-READ":
            _require_current(found)
        rows |= {row.doc_id: row for row in found if row.doc_id is not None}
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
    states_of: dict[str, dict[str, SinkState]] = defaultdict(dict)
    for row in _select(connection, _STATES, rows):
        states_of[row.doc_id][row.sink] = SinkState(row.applied_version, row.state)
    stored = {
        doc_id: StoredDocument(
            row,
            chunks_of[doc_id],
            tombstones_of[doc_id],
            files_of[doc_id],
            confirm(identity.sinks, states_of[doc_id], version=row.version),
        )
        for doc_id, row in rows.items()
    }
    return LockedDocuments(identity, stored)


def _require_current(rows: Iterable[StoredRow]) -> None:
    for row in rows:
        if any(getattr(row, name) != getattr(row, f"seen_{name}") for name in _MOVES):
            raise WriteConflict(
                f"another transaction wrote document {row.doc_id!r} after this one began to read; "
                "run this transaction again"
            )


def _select(connection: Connection, statement: Select[Any], doc_ids: Iterable[str]) -> Iterator[StoredRow]:
    for batch in bounded(doc_ids, IDS_PER_STATEMENT):
        yield from connection.execute(statement, {"doc_ids": batch})
