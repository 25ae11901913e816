"""The identity of a system, and its histories: a history is a run of commits on one server.

Versions and outbox ids are unique within a history only. After a failover to a replica that lost commits, or after a
restore, they are used again. Every write takes a shared lock on the identity's row, so it belongs to one history as a
whole; the first write on another server starts a new one before it writes anything else.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, Select, case, false, insert, literal_column, select, true, update

from schema.database import sqlite_progress
from schema.database.clock import utc_now
from schema.database.tables import chunks, documents, histories, sink_states, sinks, system_identity
from schema.sinks import MILVUS, MINIO, RegisteredSink

_OLDER_COPY = "an older copy of the file"
_CHECKED = "rag_outbox_server_checked"  # of a connection whose server was once compared with the identity's


@dataclass(frozen=True, slots=True)
class Identity:
    """The one row of `system_identity`, with the rows of `sinks`."""

    system_id: str
    history_id: str
    embedding_model: str
    dimension: int
    lanes: int
    sinks: tuple[RegisteredSink, ...]


class Standing(Enum):
    """What an event is to the document that the database holds.

    A superseded event was written, or lost, before the document's history began: that history has a newer version,
    whose event is self-contained. It is neither applied nor counted as lost.
    """

    VALID = "valid"
    SUPERSEDED = "superseded"
    LOST = "lost"


class NotInitialised(Exception):
    """Raised when the database has no identity yet; run `rag-outbox init`."""


def create_system(
    connection: Connection, *, embedding_model: str, dimension: int, lanes: int, system_id: str | None = None
) -> None:
    """Insert the identity of a new system, its first history and the built-in sinks; nothing if it exists already."""
    if connection.execute(select(system_identity.c.id)).one_or_none() is not None:
        return
    history_id, server_uuid = str(uuid.uuid4()), _server_uuid(connection)
    connection.execute(
        insert(system_identity).values(
            id=1,
            system_id=system_id or str(uuid.uuid4()),
            history_id=history_id,
            server_uuid=server_uuid,
            embedding_model=embedding_model,
            dimension=dimension,
            lanes=lanes,
        )
    )
    connection.execute(
        insert(histories).values(  # nothing can be lost yet: it needs no check
            history_id=history_id, server_uuid=server_uuid, reason="init", checked_at=utc_now()
        )
    )
    connection.execute(
        insert(sinks),
        [
            {"name": MILVUS, "required": True, "takes_vectors": True, "takes_files": False},
            {"name": MINIO, "required": True, "takes_vectors": True, "takes_files": True},
        ],
    )


def read_identity(connection: Connection) -> Identity:
    """The identity, without a lock. Raises NotInitialised."""
    return _identity(_read(connection, is_locking=False))


def lock_identity(connection: Connection) -> Identity:
    """The identity, which stays as it is until the transaction ends: what a write calls before it writes anything.

    One locking read, so that it sees the newest committed rows in REPEATABLE READ too. Starts a new history when the
    database is another server than the history's, or an older copy of the file. Raises NotInitialised.
    """
    if connection.dialect.name == "mysql" and _CHECKED not in connection.info:
        # Once per connection, without a lock: two first writes that both held the shared lock would deadlock.
        [first, *_] = _read(connection, is_locking=False)
        if (reason := _reason_for_new_history(connection, first)) is not None:
            start_history(connection, reason, instead_of=first.history_id)
        else:
            connection.info[_CHECKED] = True
    rows = _read(connection, is_locking=True)
    reason = _reason_for_new_history(connection, rows[0])
    if reason is None:
        return _identity(rows)
    start_history(connection, reason, instead_of=rows[0].history_id)
    if reason == _OLDER_COPY:
        _mark_all_absent(connection)
        note_checked(connection, read_identity(connection).history_id)
    return _identity(_read(connection, is_locking=True))


def start_history(connection: Connection, reason: str, *, instead_of: str) -> bool:
    """Start a new history unless another transaction has replaced `instead_of` already. Waits for writes under way."""
    history_id, server_uuid = str(uuid.uuid4()), _server_uuid(connection)
    started = connection.execute(
        update(system_identity)
        .where(system_identity.c.id == 1, system_identity.c.history_id == instead_of)
        .values(history_id=history_id, server_uuid=server_uuid)
    )
    if not started.rowcount:
        return False
    connection.execute(insert(histories).values(history_id=history_id, server_uuid=server_uuid, reason=reason))
    sqlite_progress.skip_used_ids(connection)
    return True


def judge(event_history: str, event_version: int, *, history_id: str, history_base: int, version: int) -> Standing:
    """`history_id`, `history_base` and `version` are those of the document's row."""
    if event_history != history_id:
        return Standing.SUPERSEDED if event_version <= history_base else Standing.LOST
    return Standing.VALID if history_base < event_version <= version else Standing.LOST


def find_unchecked(connection: Connection) -> str | None:
    """The oldest history without a check; None also on another server, where the first write starts the next one."""
    here = select(system_identity.c.id).where(system_identity.c.server_uuid == _server_uuid(connection))
    unchecked = select(histories.c.history_id).where(histories.c.checked_at.is_(None), here.exists())
    return connection.execute(unchecked.order_by(histories.c.number)).scalars().first()


def note_checked(connection: Connection, history_id: str) -> bool:
    """Note that what lost histories left in the sinks was searched for; up to this history, which must still run here.

    After another failover the search may itself be lost.
    """
    current = select(system_identity.c.id).where(
        system_identity.c.history_id == history_id, system_identity.c.server_uuid == _server_uuid(connection)
    )
    unchecked = update(histories).where(histories.c.checked_at.is_(None), current.exists())
    return connection.execute(unchecked.values(checked_at=utc_now())).rowcount > 0


@cache
def _statement(dialect: str, *, is_locking: bool) -> Select[Any]:
    """A row per sink; the identity's row is read, and locked, before those of the sinks."""
    if dialect == "mysql":
        here, counter = "@@server_uuid", "NULL"
    else:
        here, counter = "''", sqlite_progress.COUNTER
    of_identity = ("system_id", "history_id", "server_uuid", "embedding_model", "dimension", "lanes")
    of_sink = ("name", "required", "takes_vectors", "takes_files", "state")
    statement = (
        select(
            *(system_identity.c[name] for name in of_identity),
            literal_column(here).label("here"),
            literal_column(counter).label("counter"),
            *(sinks.c[name] for name in of_sink),
        )
        .select_from(system_identity.outerjoin(sinks, true()))
        .where(system_identity.c.id == 1)
    )
    return statement.with_for_update(read=True) if is_locking else statement


def _read(connection: Connection, *, is_locking: bool) -> Sequence[Row[Any]]:
    rows = connection.execute(_statement(connection.dialect.name, is_locking=is_locking)).all()
    if not rows:
        raise NotInitialised("the system is not initialised: run rag-outbox init")
    return rows


def _reason_for_new_history(connection: Connection, row: Row[Any]) -> str | None:
    if row.server_uuid != row.here:
        return "another server"
    if sqlite_progress.is_older_copy(connection.engine, row.counter):
        return _OLDER_COPY
    return None


def _mark_all_absent(connection: Connection) -> None:
    """Any sink may hold a version that the older copy lacks, and no topic tells of which documents."""
    state = sink_states.c
    absent = {"state": "absent", "applied_version": 0, "parts_version": 0, "parts_applied": 0, "attempts": 0}
    connection.execute(
        update(sink_states).values(
            **absent, requested_at=utc_now(), last_error=f"the database is {_OLDER_COPY}", marks=state.marks + 1
        )
    )
    connection.execute(update(chunks).values(milvus_synced=false()))
    status = case((documents.c.deleted_at.is_not(None), "deleting"), else_="pending")
    connection.execute(update(documents).where(documents.c.status != "processing").values(status=status))


def _identity(rows: Sequence[Row[Any]]) -> Identity:
    row = rows[0]
    registered = sorted(
        RegisteredSink(one.name, one.required, one.takes_vectors, one.takes_files, one.state)
        for one in rows
        if one.name is not None
    )
    return Identity(row.system_id, row.history_id, row.embedding_model, row.dimension, row.lanes, tuple(registered))


def _server_uuid(connection: Connection) -> str:
    if connection.dialect.name != "mysql":
        return ""
    return str(connection.execute(select(literal_column("@@server_uuid"))).scalar_one())
