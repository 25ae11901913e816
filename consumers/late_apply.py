"""A late apply: a consumer that lost its partitions applies an older version after their new owner a newer one.

The sinks have no conditional write, so the older version may damage what the newer one wrote. This file holds what the
damage checks of all sinks share; each sink's check is `SinkMarks.mark_damage` in its own `marks.py`.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, select

from consumers.sink import Change
from schema.database.tables import documents


def load_document(connection: Connection, doc_id: str) -> tuple[int, bool]:
    """The document's version, and whether it is deleted."""
    columns = select(documents.c.version, documents.c.deleted_at)
    row = connection.execute(columns.where(documents.c.doc_id == doc_id)).one()
    return row.version, row.deleted_at is not None


def describe_damage(change: Change, items: Sequence[str]) -> str | None:
    """The reason for the document's failure; None when no item (chunk id or object key) is damaged."""
    if not items:
        return None
    return (
        f"a consumer that had lost its partitions applied version {change.version} late and damaged {len(items)} "
        f"items, one of them {items[0]}: write the document again"
    )
