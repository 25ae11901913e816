"""The rows that Milvus should hold, from the metadata database.

A row is expected exactly only if its document is *settled* in Milvus: applied at the version of the document. All
others wait for an event or a refill.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, String, and_, case, cast, func, literal, select

from operations.reconcile.milvus_rows import Found
from schema.batches import bounded
from schema.database.statements import IDS_PER_STATEMENT
from schema.database.tables import chunks, documents, sink_states, sinks

SEPARATOR = (
    "\x1f"  # no label contains it: the writer refuses control characters. If one does, the row is looked at again
)
_LABELS = (
    chunks.c.doc_id,
    chunks.c.content_hash,
    documents.c.business_tag,
    chunks.c.vector_level,
    chunks.c.modal_type,
    chunks.c.associate_id,
    documents.c.oss_key,
)


def _join(sink: str) -> Any:
    """Chunks with their documents, and the states of those in this instance."""
    state = and_(sink_states.c.doc_id == chunks.c.doc_id, sink_states.c.sink == sink)
    return chunks.join(documents, documents.c.doc_id == chunks.c.doc_id).outerjoin(sink_states, state)


def _select_numbers(sink: str) -> tuple[ColumnElement[Any], ...]:
    """row_version, the version of the document, and 1 if the chunk is marked: only the instance that serves marks."""
    is_serving = select(sinks.c.required).where(sinks.c.name == sink).scalar_subquery()
    is_marked: ColumnElement[Any] = case((is_serving, chunks.c.milvus_synced), else_=1)
    return chunks.c.row_version, documents.c.version, is_marked


def packed_statement(dialect: str, sink: str) -> Select[Any]:
    """Per chunk: its id, and its values as one text, NULL unless its document is settled.

    One text instead of ten values: the driver needs microseconds for each. It ends with row_version, the version of the
    document, and 1 if the chunk is marked.
    """
    labels = (func.coalesce(column, "") if column.nullable else column for column in _LABELS)
    texts = [*labels, *_select_numbers(sink)]
    packed: ColumnElement[Any]
    if dialect == "mysql":
        packed = func.concat_ws(SEPARATOR, *texts)
    else:
        parts: list[ColumnElement[str]] = [cast(one, String) for one in texts]
        packed = reduce(lambda before, part: before.concat(literal(SEPARATOR)).concat(part), parts)
    is_settled = and_(sink_states.c.state == "applied", sink_states.c.applied_version == documents.c.version)
    columns = (chunks.c.chunk_id, case((is_settled, packed)))
    # In the order of the keys; otherwise MySQL might read a small table first, and sort.
    return select(*columns).select_from(_join(sink)).prefix_with("STRAIGHT_JOIN", dialect="mysql")


def agrees(packed: str, row: Found) -> bool:
    """Whether a row of Milvus holds the values of `packed_statement`."""
    found = SEPARATOR.join(row[1:-1]) + SEPARATOR
    if not packed.startswith(found):
        return False
    version = row[-1]
    rest = packed[len(found) :]
    if rest == f"{version}{SEPARATOR}{version}{SEPARATOR}1":
        return True
    numbers = rest.split(SEPARATOR)
    return len(numbers) == 3 and numbers[2] == "1" and int(numbers[0]) <= version <= int(numbers[1])


@dataclass(frozen=True, slots=True)
class Expected:
    """A chunk as the database has it; `labels` are its values of FIELDS without chunk_id and doc_version."""

    doc_id: str
    labels: tuple[str, ...]
    row_version: int
    version: int
    is_marked: bool


def load_expected(connection: Connection, chunk_ids: Iterable[str], sink: str) -> Mapping[str, Expected]:
    statement = select(chunks.c.chunk_id, *_LABELS, *_select_numbers(sink)).select_from(_join(sink))
    found = {}
    for some in bounded(chunk_ids, IDS_PER_STATEMENT):
        for row in connection.execute(statement.where(chunks.c.chunk_id.in_(some))):
            labels = tuple(value or "" for value in row[1:8])
            found[row[0]] = Expected(labels[0], labels, row[8], row[9], bool(row[10]))
    return found
