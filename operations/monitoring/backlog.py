"""The backlog of the whole system, read from the metadata database: what waits, for how long, and what failed.

Every statement reads an index, and what is completed is not counted: it would cost more the more documents there are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import DBAPIError

from operations.backup.newest import NewestBackup, read_newest
from schema.database import dead_letters
from schema.database.clock import utc_now
from schema.database.tables import (
    DOCUMENT_STATES,
    SINK_STATES,
    documents,
    histories,
    outbox,
    processing_tasks,
    sink_states,
    sinks,
)

_PRIVILEGE_MISSING = 1227  # of MySQL
_WAITING = tuple(state for state in SINK_STATES if state != "applied")
_OPEN_TASKS = ("queued", "running", "failed")
_UNFINISHED = tuple(state for state in DOCUMENT_STATES if state != "completed")


@dataclass(frozen=True)
class SinkBacklog:
    """`documents` are those whose version the sink does not hold, by state. The age is in seconds; 0 when none waits.

    A failed document does not wait: it needs a person. `postponed_seconds`: the longest time until a refill that lacked
    a vector or a file is tried again; 0 when there is none.
    """

    documents: Mapping[str, int]
    oldest_age_seconds: float
    role: str = "active"  # or "joining", "leaving"
    postponed_seconds: float = 0.0


@dataclass(frozen=True)
class Backlog:
    """Ages in seconds by the clock of the database; 0 when nothing waits."""

    pending_events: int
    pending_bytes: int
    oldest_pending_age_seconds: float
    documents: Mapping[str, int]  # that are not completed, by status
    sinks: Mapping[str, SinkBacklog]
    dead_letters: Mapping[str, int]  # that need a person, by stage
    suspects: int
    tasks: Mapping[str, int]  # that are queued, running or failed, by status
    oldest_task_age_seconds: float  # since the oldest queued task could have been run
    unchecked_histories: int  # whose lost events nobody has looked for yet
    history_list_length: int | None  # of InnoDB: old row versions; None on SQLite, or without the privilege PROCESS
    backups: Mapping[str, NewestBackup] = field(default_factory=dict)  # by place


Partition = tuple[str, int]  # topic and number


@dataclass(frozen=True)
class GroupBacklog:
    """`lag`: offsets that a consumer may read and the group has not committed, by partition."""

    lag: Mapping[Partition, int]
    members: int
    unassigned: int  # partitions without a member
    assigned: Mapping[str, Sequence[int]] = field(default_factory=dict)  # partitions by member


def read(connection: Connection) -> Backlog:
    now = connection.execute(select(utc_now())).scalar_one()
    # The index ix_outbox_lane_id_payload_bytes holds all that this counts; no payload is read.
    events, size_bytes = connection.execute(
        select(func.count(), func.coalesce(func.sum(outbox.c.payload_bytes), 0)).select_from(outbox)
    ).one()
    oldest = connection.execute(select(outbox.c.created_at).order_by(outbox.c.id).limit(1)).scalar_one_or_none()
    unfinished = (
        select(documents.c.status, func.count()).where(documents.c.status.in_(_UNFINISHED)).group_by(documents.c.status)
    )
    unchecked = select(func.count()).select_from(histories).where(histories.c.checked_at.is_(None))
    by_sink = _read_sinks(connection, now)
    tasks = read_tasks(connection)
    return Backlog(
        pending_events=events,
        pending_bytes=int(size_bytes),
        oldest_pending_age_seconds=_age(now, oldest),
        documents=dict.fromkeys(_UNFINISHED, 0) | {row[0]: row[1] for row in connection.execute(unfinished)},
        sinks=by_sink,
        dead_letters=dict.fromkeys(("relay", *by_sink), 0) | dead_letters.count_open(connection),
        suspects=connection.execute(select(func.count()).where(documents.c.lost_version > 0)).scalar_one(),
        tasks={status: count for status, (count, _) in tasks.items()},
        oldest_task_age_seconds=_age(now, tasks["queued"][1]),
        unchecked_histories=connection.execute(unchecked).scalar_one(),
        history_list_length=_read_history_list_length(connection),
        backups=read_newest(connection),
    )


def _read_sinks(connection: Connection, now: datetime) -> dict[str, SinkBacklog]:
    """A sink that was asked for nothing yet waits for nothing."""
    roles = {row.name: row.state for row in connection.execute(select(sinks.c.name, sinks.c.state))}
    names = sorted(roles)
    state = sink_states.c
    counted = (
        select(state.sink, state.state, func.count(), func.min(state.requested_at), func.max(state.requested_at))
        .where(state.sink.in_(names), state.state.in_(_WAITING))
        .group_by(state.sink, state.state)
    )
    found: dict[str, dict[str, tuple[int, datetime]]] = {name: {} for name in names}
    due = dict.fromkeys(names, now)
    for name, of_state, count, since, last in connection.execute(counted):
        found[name][of_state] = (count, since)
        if of_state == "absent":
            due[name] = last
    return {
        name: SinkBacklog(
            {one: by_state[one][0] if one in by_state else 0 for one in _WAITING},
            max((_age(now, since) for one, (_, since) in by_state.items() if one != "failed"), default=0.0),
            roles[name],
            _age(due[name], now),
        )
        for name, by_state in found.items()
    }


def read_tasks(connection: Connection) -> dict[str, tuple[int, datetime | None]]:
    """The tasks per status that is not final, and since when the oldest of them could have been run."""
    status = processing_tasks.c.status
    counted = select(status, func.count(), func.min(processing_tasks.c.available_at))
    rows = connection.execute(counted.where(status.in_(_OPEN_TASKS)).group_by(status))
    return dict.fromkeys(_OPEN_TASKS, (0, None)) | {row[0]: (row[1], row[2]) for row in rows}


def _read_history_list_length(connection: Connection) -> int | None:
    if connection.dialect.name != "mysql":
        return None
    statement = "SELECT count FROM information_schema.innodb_metrics WHERE name = 'trx_rseg_history_len'"
    try:
        return connection.execute(text(statement)).scalar_one_or_none()
    except DBAPIError as error:
        if error.orig is not None and error.orig.args[0] == _PRIVILEGE_MISSING:
            return None
        raise


def _age(now: datetime, since: datetime | None) -> float:
    return 0.0 if since is None else round(max(0.0, (now - since).total_seconds()), 3)
