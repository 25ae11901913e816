"""`rag-outbox list`: pages of documents, each read from an index in its order (key-set paging)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Engine, Row, and_, case, or_, select, tuple_

from operations.errors import UsageError
from schema.database.connection import reading
from schema.database.tables import DOCUMENT_STATES, documents

DELETED = "deleted"  # every sink has confirmed the deletion
STATES = (*DOCUMENT_STATES, DELETED)

_deleted = (documents.c.status == "completed") & documents.c.deleted_at.is_not(None)
STATE: ColumnElement[str] = case((_deleted, DELETED), else_=documents.c.status)
_LAST_CHARACTER = "\U0010ffff"
_SHOWN = ("doc_id", "title", "source_type", "business_tag", "version", "chunk_count", "updated_at")


@dataclass(frozen=True)
class Query:
    """Which documents to list; None does not filter. Without `state`, deleted documents are left out.

    The order is that of the ids; with `title_prefix`, that of the titles; with `updated_since` (UTC, without a zone)
    and no prefix, that of the last updates. A title matches in the few forms that an index finds, see `_forms`.
    """

    state: str | None = None
    business_tag: str | None = None
    source_type: str | None = None
    updated_since: datetime | None = None
    after: str | None = None  # `Page.next` of the page before
    limit: int = 50
    id_prefix: str | None = None
    title_prefix: str | None = None

    @property
    def order(self) -> Literal["id", "title", "time"]:
        if self.title_prefix is not None:
            return "title"
        return "time" if self.updated_since is not None and self.id_prefix is None else "id"


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
    order = {"id": (), "title": (columns.title,), "time": (columns.updated_at,)}[query.order]
    statement = statement.order_by(*order, columns.doc_id)
    if query.after is not None:
        after = _parse(query)
        # The first condition finds the place in the index; MySQL does not use a row comparison for that.
        statement = statement.where(*(column >= value for column, value in zip(order, after, strict=False)))
        statement = statement.where(
            tuple_(*order, columns.doc_id) > tuple_(*after) if order else columns.doc_id > after[0]
        )
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
    if query.updated_since is not None:
        conditions.append(columns.updated_at >= query.updated_since)
    if query.id_prefix is not None:
        conditions.append(_begins(columns.doc_id, query.id_prefix))
    if query.title_prefix is not None:
        conditions.append(or_(*(_begins(columns.title, form) for form in _forms(query.title_prefix))))
    return conditions


def _begins(column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    """A range of the index, on MySQL and SQLite alike; LIKE has other rules for letters on each."""
    return and_(column >= prefix, column < prefix + _LAST_CHARACTER)


def _forms(prefix: str) -> list[str]:
    """As given, in lower and upper case, and with capitals: the index compares bytes."""
    return sorted({prefix, prefix.lower(), prefix.upper(), prefix.capitalize(), prefix.title()})


def _index(query: Query) -> str | None:
    """The index whose order is that of the pages; None for the primary key."""
    if query.order != "id":
        return "ix_documents_title" if query.order == "title" else "ix_documents_updated_at"
    if query.business_tag is not None:
        return "ix_documents_business_tag"
    if query.state is not None:
        return "ix_documents_status_deleted_at"
    return "ix_documents_source_type" if query.source_type is not None else None


def _next(last: Row[Any], query: Query) -> str:
    match query.order:
        case "id":
            return str(last.doc_id)
        case "title":
            return json.dumps([last.title, last.doc_id], ensure_ascii=False)
        case "time":
            return f"{utc_text(last.updated_at)},{last.doc_id}"


def _parse(query: Query) -> tuple[Any, ...]:
    """The values of the last row before the page, in the columns of the order."""
    after = query.after or ""
    if query.order == "id":
        return (after,)
    try:
        if query.order == "title":
            title, doc_id = json.loads(after)
            return str(title), str(doc_id)
        time, comma, doc_id = after.partition(",")
        if not comma:
            raise ValueError
        return parse_time(time), doc_id
    except (ValueError, TypeError):
        raise UsageError(f"--after {after!r}: with --updated-since, give the `next` of the page before") from None


def _facts(row: Row[Any]) -> dict[str, Any]:
    return {**row._mapping, "updated_at": utc_text(row.updated_at)}
