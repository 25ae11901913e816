"""Deleted documents: after the limit their metadata is removed, and a tombstone stays; see `purge`."""

from collections.abc import Generator
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Select, and_, func, or_, select

import producer
from operations.retention.policy import DELETED_DOCUMENTS, Preview, read_limit
from operations.retention.purge import is_deleted, purge
from schema.database.connection import reading
from schema.database.tables import DOCUMENT_STATES, documents, tidied_documents

_DOCUMENTS = 100  # per transaction
_HALF_A_DAY = 12 * 3_600.0  # a run looks at every tombstone

_columns = documents.c


class DeletedDocuments:
    name = DELETED_DOCUMENTS
    every_seconds = _HALF_A_DAY

    def __init__(self, engine: Engine, days: int) -> None:
        self._engine = engine
        self._days = days
        self.blocked = 0

    def preview(self) -> Preview:
        limit = read_limit(self._engine, self._days)
        statement = select(func.count(), func.min(_columns.deleted_at)).where(*_is_due(limit))
        with reading(self._engine) as connection:
            count, oldest = connection.execute(statement).one()
            blocked = _count_blocked(connection, limit)
        note = "not every required sink has confirmed the deletion" if blocked else ""
        return Preview(count, oldest, blocked, note)

    def batches(self) -> Generator[int, None, None]:
        limit = read_limit(self._engine, self._days)
        last: tuple[datetime, str] | None = None
        kept = 0
        while True:
            with reading(self._engine) as connection:
                page = connection.execute(_page(limit, last)).all()
                if not page:
                    self.blocked = kept + _count_blocked(connection, limit)
                    return
            doc_ids = [row.doc_id for row in page]

            def work(connection: Connection, doc_ids: list[str] = doc_ids) -> int:
                return len(purge(connection, doc_ids, before=limit))

            purged = producer.run(self._engine, work)
            kept += len(page) - purged
            last = (page[-1].deleted_at, page[-1].doc_id)
            yield purged


def _is_due(limit: datetime) -> tuple[Any, ...]:
    tidied = tidied_documents.c
    is_tidied = select(tidied.doc_id).where(tidied.doc_id == _columns.doc_id, tidied.version == _columns.version)
    return is_deleted, _columns.deleted_at < limit, ~is_tidied.correlate(documents).exists()


def _page(limit: datetime, last: tuple[datetime, str] | None) -> Select[Any]:
    statement = select(_columns.doc_id, _columns.deleted_at).where(*_is_due(limit))
    if last is not None:
        at, doc_id = last
        # The first condition finds the place in the index; MySQL does not use the second one for that.
        following = or_(_columns.deleted_at > at, and_(_columns.deleted_at == at, _columns.doc_id > doc_id))
        statement = statement.where(_columns.deleted_at >= at, following)
    return (
        statement.with_hint(documents, "FORCE INDEX (ix_documents_status_deleted_at)", "mysql")
        .order_by(_columns.deleted_at, _columns.doc_id)
        .limit(_DOCUMENTS)
    )


def _count_blocked(connection: Connection, limit: datetime) -> int:
    """Deleted before the limit, and not confirmed; those that are confirmed have the status `completed`."""
    waiting = [state for state in DOCUMENT_STATES if state != "completed"]
    statement = select(func.count()).where(_columns.status.in_(waiting), _columns.deleted_at < limit)
    return int(connection.execute(statement).scalar_one())
