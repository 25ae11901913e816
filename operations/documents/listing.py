"""`rag-outbox list`: pages of documents, each read from an index in its order (key-set paging)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Engine, Row, case, select, tuple_

from operations.errors import UsageError
from schema.database.connection import reading
from schema.database.tables import DOCUMENT_STATES, documents

DELETED = "deleted"  # every sink has confirmed the deletion
STATES = (*DOCUMENT_STATES, DELETED)

_deleted = (documents.c.status == "completed") & documents.c.deleted_at.is_not(None)
STATE: ColumnElement[str] = case((_deleted, DELETED), else_=documents.c.status)
_SHOWN = ("doc_id", "title", "source_type", "business_tag", "version", "chunk_count", "updated_at")


@dataclass(frozen=True)
class Query:
    """Which documents to list; None does not filter. Without `state`, deleted documents are left out.

    The order is that of the ids; with `updated_since` (UTC, without a zone), that of the last updates.
    """

    state: str | None = None
    business_tag: str | None = None
    source_type: str | None = None
    updated_since: datetime | None = None
    after: str | None = None  # `Page.next` of the page before
    limit: int = 50


@dataclass(frozen=True)
class Page:
    documents: Sequence[dict[str, Any]]
    next: str | None  # None on the last page


def read_page(engine: Engine, query: Query) -> Page:
    """Raises UsageError for an `after` that is not the `next` of such a list."""
    columns = documents.c
    statement = select(STATE.label("state"), *(columns[name] for name in _SHOWN)).where(*_conditions(query))
    if (index := _index(query)) is not None:
        # Left to choose, MySQL may sort all documents of a tag for each page, or walk through those of all tags.
        statement = statement.with_hint(documents, f"FORCE INDEX ({index})", "mysql")
    if query.updated_since is None:
        statement = statement.order_by(columns.doc_id)
        if query.after is not None:
            statement = statement.where(columns.doc_id > query.after)
    else:
        statement = statement.where(columns.updated_at >= query.updated_since)
        statement = statement.order_by(columns.updated_at, columns.doc_id)
        if query.after is not None:
            since, doc_id = _parse(query.after)
            # The first condition finds the place in the index; MySQL does not use a row comparison for that.
            statement = statement.where(columns.updated_at >= since)
            statement = statement.where(tuple_(columns.updated_at, columns.doc_id) > tuple_(since, doc_id))
    with reading(engine) as connection:
        rows = connection.execute(statement.limit(query.limit + 1)).all()
    shown = rows[: query.limit]
    following = _next(shown[-1], query) if len(rows) > query.limit else None
    return Page([_facts(row) for row in shown], following)


def utc_text(time: datetime | None) -> str | None:
    """A time of the database, which is in UTC, as ISO 8601."""
    return None if time is None else f"{time.isoformat(timespec='microseconds')}Z"


def parse_time(text: str) -> datetime:
    """An ISO 8601 date or time as the database holds it; without a zone it is UTC. Raises ValueError."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def _conditions(query: Query) -> list[ColumnElement[bool]]:
    columns = documents.c
    conditions: list[ColumnElement[bool]] = []
    if query.state is None:
        conditions.append(columns.deleted_at.is_(None))
    elif query.state == DELETED:
        conditions.append(_deleted)
    elif query.state == "deleting":
        conditions.append(columns.status == "deleting")
    else:
        conditions += [columns.status == query.state, columns.deleted_at.is_(None)]
    for name in ("business_tag", "source_type"):
        if (value := getattr(query, name)) is not None:
            conditions.append(columns[name] == value)
    return conditions


def _index(query: Query) -> str | None:
    """The index whose order is that of the pages; None for the primary key."""
    if query.updated_since is not None:
        return "ix_documents_updated_at"
    if query.business_tag is not None:
        return "ix_documents_business_tag"
    if query.state is not None:
        return "ix_documents_status_deleted_at"
    return "ix_documents_source_type" if query.source_type is not None else None


def _next(last: Row[Any], query: Query) -> str:
    return str(last.doc_id) if query.updated_since is None else f"{utc_text(last.updated_at)},{last.doc_id}"


def _parse(after: str) -> tuple[datetime, str]:
    time, comma, doc_id = after.partition(",")
    try:
        if not comma:
            raise ValueError
        return parse_time(time), doc_id
    except ValueError:
        raise UsageError(f"--after {after!r}: with --updated-since, give the `next` of the page before") from None


def _facts(row: Row[Any]) -> dict[str, Any]:
    return {**row._mapping, "updated_at": utc_text(row.updated_at)}
