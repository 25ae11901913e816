"""Which documents were changed since they were adopted: the log of operations knows.

A version that adopt writes has ADOPT in its transaction context. A document whose newest version has another origin
belongs to the system now, also when it was deleted; a resync changes nothing.
"""

from collections.abc import Collection

from sqlalchemy import Connection, func, select

from consumers.marks import lock_documents
from schema.database.tables import operation_logs

ADOPT = "adopt"


class ChangedSince(Exception):
    """Raised when documents were changed since they were adopted; nothing of the batch is written."""

    def __init__(self, doc_ids: Collection[str]) -> None:
        super().__init__(f"changed since they were adopted: {', '.join(sorted(doc_ids))}")
        self.doc_ids = doc_ids


def find_changed(connection: Connection, doc_ids: Collection[str]) -> set[str]:
    """Those of these documents that anything but adopt has written last."""
    logs = operation_logs.c
    newest = (
        select(func.max(logs.log_id).label("log_id"))
        .where(logs.target_id.in_(doc_ids), logs.target_table == "documents", logs.operation_type != "SYNC")
        .group_by(logs.target_id)
        .subquery()
    )
    found = select(logs.target_id, logs.transaction_context).join(newest, newest.c.log_id == logs.log_id)
    return {row.target_id for row in connection.execute(found) if ADOPT not in (row.transaction_context or {})}


def refuse_changed(connection: Connection, doc_ids: Collection[str]) -> None:
    """Lock the documents, so that nobody changes them before the transaction ends. Raises ChangedSince."""
    lock_documents(connection, doc_ids)
    if changed := find_changed(connection, doc_ids):
        raise ChangedSince(changed)
