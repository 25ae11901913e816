"""The role of a sink, read in the transaction that depends on it: a rebuild swaps the roles of two instances.

A swap takes an exclusive lock on the rows of `sinks`. So a transaction that holds the shared lock marks with the old
role before the swap, or with the new one after it.
"""

from sqlalchemy import Connection, select

from schema.database.tables import sinks
from schema.sinks import MILVUS, kind_of


def lock_roles(connection: Connection) -> None:
    """Keep all roles as they are until the transaction ends. Lock them before documents, as writers and swaps do."""
    if connection.dialect.name == "mysql":  # a transaction of SQLite is the only one that writes
        connection.execute(select(sinks.c.name).with_for_update(read=True)).all()


def is_serving(connection: Connection, sink: str) -> bool:
    """Whether searches use this sink, and its marks are `chunks.milvus_synced` and the tombstones of chunks."""
    if kind_of(sink) != MILVUS:
        return False
    required = select(sinks.c.required).where(sinks.c.name == sink).with_for_update(read=True)
    return bool(connection.execute(required).scalar_one_or_none())
