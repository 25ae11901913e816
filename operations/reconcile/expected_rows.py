"""The rows that Milvus should hold, from the metadata database.

A row is expected exactly only if its document is *settled* in Milvus: applied at the version of the document. All
others wait for an event or a refill.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, String, and_, case, cast, func, literal, select

from operations.reconcile.packed_rows import TEXT_END, VALUE_END
from schema.database.statements import select_for_ids
from schema.database.tables import chunks, documents, sink_states, sinks

_LABELS = (
    chunks.c.doc_id,
    chunks.c.content_hash,
    documents.c.business_tag,
    chunks.c.vector_level,
    chunks.c.modal_type,
    chunks.c.associate_id,
    documents.c.oss_key,
)


def _join_states(sink: str) -> Any:
    """Chunks with their documents, and the states of those in this instance."""
    state = and_(sink_states.c.doc_id == chunks.c.doc_id, sink_states.c.sink == sink)
    return chunks.join(documents, documents.c.doc_id == chunks.c.doc_id).outerjoin(sink_states, state)


def _select_numbers(sink: str) -> tuple[ColumnElement[Any], ...]:
    """row_version, the version of the document, and 1 if the chunk is marked: only the instance that serves marks."""
    is_serving = select(sinks.c.required).where(sinks.c.name == sink).scalar_subquery()
    is_marked: ColumnElement[Any] = case((is_serving, chunks.c.milvus_synced), else_=1)
    return chunks.c.row_version, documents.c.version, is_marked


def packed_statement(dialect: str, sink: str) -> Select[Any]:
    """Per chunk: its id, and its text (`packed_rows`).

    The text ends with row_version, the version of the document, and 1 if the chunk is marked.
    """
    texts = [func.coalesce(column, "") if column.nullable else column for column in (chunks.c.chunk_id, *_LABELS)]
    is_settled = and_(sink_states.c.state == "applied", sink_states.c.applied_version == documents.c.version)
    packed = _join(
        TEXT_END,
        _join(VALUE_END, *texts, dialect=dialect),
        _join(VALUE_END, *_select_numbers(sink), dialect=dialect),
        dialect=dialect,
    )
    columns = (chunks.c.chunk_id, case((is_settled, packed), else_=chunks.c.chunk_id).label("packed"))
    # In the order of the keys; otherwise MySQL might read a small table first, and sort.
    return select(*columns).select_from(_join_states(sink)).prefix_with("STRAIGHT_JOIN", dialect="mysql")


def _join(separator: str, *texts: ColumnElement[Any], dialect: str) -> ColumnElement[str]:
    if dialect == "mysql":
        return func.concat_ws(separator, *texts)
    parts: list[ColumnElement[str]] = [cast(one, String) for one in texts]
    return reduce(lambda before, part: before.concat(literal(separator)).concat(part), parts)


@dataclass(frozen=True, slots=True)
class Expected:
    """A chunk as the database has it; `labels` are its values of FIELDS without chunk_id and doc_version."""

    doc_id: str
    labels: tuple[str, ...]
    row_version: int
    version: int
    is_marked: bool


def load_expected(connection: Connection, chunk_ids: Iterable[str], sink: str) -> Mapping[str, Expected]:
    statement = select(chunks.c.chunk_id, *_LABELS, *_select_numbers(sink)).select_from(_join_states(sink))
    found = {}
    for row in select_for_ids(connection, statement, chunks.c.chunk_id, chunk_ids):
        labels = tuple(value or "" for value in row[1:8])
        found[row[0]] = Expected(labels[0], labels, row[8], row[9], bool(row[10]))
    return found
