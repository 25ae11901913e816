"""The identity of a system, and its histories: a history is a run of commits on one server.

Versions and outbox ids are unique within a history only. After a failover to a replica that lost commits, or after a
restore, they are used again. Every write takes a shared lock on the identity's row, so it belongs to one history as a
whole; the first write on another server starts a new one before it writes anything else.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache, lru_cache
from typing import Any

import msgspec
from sqlalchemy import (
    CHAR,
    ColumnElement,
    Connection,
    Row,
    Select,
    cast,
    false,
    func,
    insert,
    literal_column,
    select,
    update,
)

from schema.database import sqlite_progress
from schema.database.clock import utc_now
from schema.database.document_status import waiting_status
from schema.database.tables import chunks, documents, histories, sink_states, sinks, system_identity
from schema.sinks import MILVUS, MINIO, RegisteredSink

_OLDER_COPY = "an older copy of the file"
_CHECKED = "rag_outbox_server_checked"  # of a connection whose server was once compared with the identity's
_SINKS = msgspec.json.Decoder(list[tuple[str, int | bool, int | bool, int | bool, str]])


@dataclass(frozen=True, slots=True)
class Identity:
    """The one row of `system_identity`, with the rows of `sinks`."""

    system_id: str
    namespace: str
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
    connection: Connection,
    *,
    embedding_model: str,
    dimension: int,
    lanes: int,
    system_id: str,
    namespace: str,
    has_past: bool = False,
) -> None:
    """Insert the identity of a new system, its first history and the built-in sinks; nothing if it exists already.

    `has_past`: the id may be that of a lost database, so the topic and the stores may hold what that one wrote.
    """
    if connection.execute(select(system_identity.c.id)).one_or_none() is not None:
        return
    history_id, server_uuid = str(uuid.uuid4()), _server_uuid(connection)
    connection.execute(
        insert(system_identity).values(
            id=1,
            system_id=system_id,
            namespace=namespace,
            history_id=history_id,
            server_uuid=server_uuid,
            embedding_model=embedding_model,
            first_embedding_model=embedding_model,
            dimension=dimension,
            lanes=lanes,
        )
    )
    checked_at = None if has_past else utc_now()
    connection.execute(
        insert(histories).values(history_id=history_id, server_uuid=server_uuid, reason="init", checked_at=checked_at)
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
    [row] = _execute(connection, _statement(connection.dialect.name, is_locking=False))
    return _identity(row)


def lock_identity(connection: Connection) -> Identity:
    """The identity, which stays as it is until the transaction ends; see `run_locked`."""
    identity, _ = run_locked(connection, _statement(connection.dialect.name, is_locking=True))
    return identity


def run_locked(
    connection: Connection, statement: Select[Any], parameters: Mapping[str, object] | None = None
) -> tuple[Identity, Sequence[Row[Any]]]:
    """Run the first statement of a write: it selects `identity_columns`, and locks the identity's row FOR SHARE.

    So the whole write belongs to one history, and a locking read sees the newest rows in REPEATABLE READ too. Starts a
    new history when the database is another server than the history's, or an older copy of the file, and runs the
    statement again. Returns the identity and the rows. Raises NotInitialised.
    """
    _compare_server_once(connection)
    rows = _execute(connection, statement, parameters)
    reason = _reason_for_new_history(connection, rows[0])
    if reason is not None:
        start_history(connection, reason, instead_of=rows[0].identity_history_id)
        if reason == _OLDER_COPY:
            _mark_all_absent(connection)
            note_checked(connection, read_identity(connection).history_id)
        rows = _execute(connection, statement, parameters)
    return _identity(rows[0]), rows


@cache
def identity_columns(dialect: str) -> tuple[ColumnElement[Any], ...]:
    """What `run_locked` needs of `system_identity`, and of the sinks, which are locked with it."""
    if dialect == "mysql":
        here, counter, aggregate = "@@server_uuid", "NULL", func.json_arrayagg
    else:
        here, counter, aggregate = "''", sqlite_progress.COUNTER, func.json_group_array
    names = ("system_id", "namespace", "history_id", "server_uuid", "embedding_model", "dimension", "lanes")
    of_sink = (sinks.c[name] for name in ("name", "required", "takes_vectors", "takes_files", "state"))
    registered = cast(aggregate(func.json_array(*of_sink)), CHAR)
    return (
        *(system_identity.c[name].label(f"identity_{name}") for name in names),
        literal_column(here).label("identity_here"),
        literal_column(counter).label("identity_counter"),
        select(registered).with_for_update(read=True).scalar_subquery().label("identity_sinks"),
    )


def document_model() -> ColumnElement[str]:
    """The embedding model of a document's vectors, for a statement that selects from `documents`."""
    first = system_identity.alias("first_identity")
    of_system = select(first.c.first_embedding_model).where(first.c.id == 1)
    return func.coalesce(documents.c.embedding_model, of_system.scalar_subquery())


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


def is_of_another_server(connection: Connection) -> bool:
    """Whether the current history runs on another server, as after a failover that nothing was written since."""
    stored = select(system_identity.c.server_uuid).where(system_identity.c.id == 1)
    return bool(connection.execute(stored).scalar_one() != _server_uuid(connection))


def find_unchecked(connection: Connection) -> str | None:
    """The oldest history without a check; None also on another server, where the first write starts the next one."""
    here = select(system_identity.c.id).where(system_identity.c.server_uuid == _server_uuid(connection))
    unchecked = select(histories.c.history_id).where(histories.c.checked_at.is_(None), here.exists())
    return connection.execute(unchecked.order_by(histories.c.number)).scalars().first()


def note_checked(connection: Connection, history_id: str) -> bool:
    """Note that what lost histories left in the sinks was searched for; up to this history, which must still run here.

    After another failover the search may itself be lost.
    """
    # Locked before the rows of `histories` are looked for: a history that begins now waits, and stays unchecked.
    current = select(system_identity.c.history_id, system_identity.c.server_uuid).with_for_update(read=True)
    if tuple(connection.execute(current).one()) != (history_id, _server_uuid(connection)):
        return False
    unchecked = update(histories).where(histories.c.checked_at.is_(None))
    return connection.execute(unchecked.values(checked_at=utc_now())).rowcount > 0


@cache
def _statement(dialect: str, *, is_locking: bool) -> Select[Any]:
    statement = select(*identity_columns(dialect)).where(system_identity.c.id == 1)
    return statement.with_for_update(read=True) if is_locking else statement


def _execute(
    connection: Connection, statement: Select[Any], parameters: Mapping[str, object] | None = None
) -> Sequence[Row[Any]]:
    rows = connection.execute(statement, parameters).all()
    if not rows:
        raise NotInitialised("the system is not initialised: run rag-outbox init")
    return rows


def _compare_server_once(connection: Connection) -> None:
    """Once per connection, without a lock: two first writes that both held the shared lock would deadlock."""
    if connection.dialect.name != "mysql" or _CHECKED in connection.info:
        return
    [row] = _execute(connection, _statement("mysql", is_locking=False))
    if (reason := _reason_for_new_history(connection, row)) is not None:
        start_history(connection, reason, instead_of=row.identity_history_id)
    else:
        connection.info[_CHECKED] = True


def _reason_for_new_history(connection: Connection, row: Row[Any]) -> str | None:
    if row.identity_server_uuid != row.identity_here:
        return "another server"
    if sqlite_progress.is_older_copy(connection.engine, row.identity_counter):
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
    connection.execute(update(documents).where(documents.c.status != "processing").values(status=waiting_status()))


def _identity(row: Row[Any]) -> Identity:
    return Identity(
        row.identity_system_id,
        row.identity_namespace,
        row.identity_history_id,
        row.identity_embedding_model,
        row.identity_dimension,
        row.identity_lanes,
        _decode_sinks(row.identity_sinks),
    )


@lru_cache(maxsize=8)
def _decode_sinks(packed: str | None) -> tuple[RegisteredSink, ...]:
    rows = _SINKS.decode(packed) if packed else []
    return tuple(sorted(RegisteredSink(name, bool(a), bool(b), bool(c), state) for name, a, b, c, state in rows))


def _server_uuid(connection: Connection) -> str:
    if connection.dialect.name != "mysql":
        return ""
    return str(connection.execute(select(literal_column("@@server_uuid"))).scalar_one())
