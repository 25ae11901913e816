"""`rag-outbox status`: waiting events, lag per sink, and failures, read from the metadata database alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, case, func, select

from operations import sinks
from operations.backup import keys
from operations.backup.newest import read_newest
from operations.monitoring.backlog import read_tasks
from operations.wiring import System
from schema.database import dead_letters
from schema.database.clock import utc_now
from schema.database.connection import reading
from schema.database.tables import documents, outbox, outbox_dead_letters, sink_states

_FAILURES_SHOWN = 20
_LOOKED_AT = 200  # documents that wait, per sink and state
_OLDEST_EVENT = select(outbox.c.created_at).order_by(outbox.c.id).limit(1)  # by id: created_at has no index


@dataclass(frozen=True)
class Status:
    """Ages in seconds by the clock of the database; None when nothing waits."""

    documents: dict[str, int]  # per state; "deleted" once every sink has confirmed the deletion
    pending_events: int
    oldest_pending_age_seconds: float | None
    sinks: dict[str, dict[str, Any]]
    failed: list[dict[str, Any]]
    failing: list[
        dict[str, Any]
    ]  # that wait for a reason: a sink keeps failing on them, or their refill lacks something
    dead_letters: int  # that need a person
    tasks: dict[str, int]  # queued, running and failed ones
    backups: dict[str, dict[str, Any]]  # the newest by place: bucket, copy; see operations/backup/newest.py


def status(system: System) -> Status:
    with reading(system.engine) as connection:
        now = connection.execute(select(utc_now())).scalar_one()
        registered = sinks.names(system)
        return Status(
            documents=_documents(connection),
            pending_events=connection.execute(select(func.count(outbox.c.lane))).scalar_one(),
            oldest_pending_age_seconds=_age(now, connection.execute(_OLDEST_EVENT).scalar()),
            sinks={sink: _sink(connection, sink, now) for sink in registered},
            failed=_read_failed(connection, registered) + _read_never_published(connection),
            failing=_read_failing(connection, registered),
            dead_letters=sum(dead_letters.count_open(connection).values()),
            tasks={state: count for state, (count, _) in read_tasks(connection).items()},
            backups=_backups(connection),
        )


def _documents(connection: Connection) -> dict[str, int]:
    deleted = (documents.c.status == "completed") & documents.c.deleted_at.is_not(None)
    state = case((deleted, "deleted"), else_=documents.c.status).label("state")
    rows = connection.execute(select(state, func.count()).group_by(state).order_by(state))
    return {row[0]: row[1] for row in rows}


def _sink(connection: Connection, sink: str, now: datetime) -> dict[str, Any]:
    """The lag of one sink. A failed document is not lag: it waits for a person."""
    counted = select(sink_states.c.state, func.count(), func.min(sink_states.c.requested_at))
    rows = connection.execute(counted.where(sink_states.c.sink == sink).group_by(sink_states.c.state))
    by_state = {row[0]: (row[1], row[2]) for row in rows}
    waiting = [by_state[state] for state in ("pending", "absent") if state in by_state]
    return {
        "applied": by_state.get("applied", (0, None))[0],
        "unapplied": sum(count for count, _ in waiting),
        "oldest_unapplied_age_seconds": _age(now, min((since for _, since in waiting), default=None)),
        "failed": by_state.get("failed", (0, None))[0],
    }


def _read_failed(connection: Connection, registered: Sequence[str]) -> list[dict[str, Any]]:
    """The newest of all sinks. A statement per sink reads them from the index."""
    columns = sink_states.c
    shown = (columns.doc_id, columns.sink, columns.desired_version, columns.last_error, columns.requested_at)
    newest = select(*shown).order_by(columns.requested_at.desc()).limit(_FAILURES_SHOWN)
    rows = [
        row
        for sink in registered
        for row in connection.execute(newest.where(columns.sink == sink, columns.state == "failed"))
    ]
    rows.sort(key=lambda row: row.requested_at, reverse=True)
    return [
        {"doc_id": row.doc_id, "sink": row.sink, "version": row.desired_version, "reason": row.last_error}
        for row in rows[:_FAILURES_SHOWN]
    ]


def _read_failing(connection: Connection, registered: Sequence[str]) -> list[dict[str, Any]]:
    """Documents that wait, and whose consumer noted why: the pending ones at once, the absent ones with an attempt.

    The backlog may be long. So only the oldest pending ones are looked at, and the absent ones that are due last: a
    refill that lacks something is postponed.
    """
    columns = sink_states.c
    shown = select(
        *(columns[name] for name in ("doc_id", "sink", "desired_version", "state", "attempts", "last_error"))
    )
    pending = shown.where(columns.state == "pending").order_by(columns.requested_at)
    absent = shown.where(columns.state == "absent").order_by(columns.requested_at.desc())
    rows = [
        row
        for sink in registered
        for statement in (pending, absent)
        for row in connection.execute(statement.where(columns.sink == sink).limit(_LOOKED_AT))
        if row.last_error is not None and (row.state == "pending" or row.attempts)
    ]
    return [
        {"doc_id": row.doc_id, "sink": row.sink, "version": row.desired_version, "reason": row.last_error}
        for row in rows[:_FAILURES_SHOWN]
    ]


def _read_never_published(connection: Connection) -> list[dict[str, Any]]:
    """Events that Kafka rejected: no sink has seen them."""
    columns = outbox_dead_letters.c
    shown = select(columns.aggregate_id, columns.stage, columns.aggregate_version, columns.error)
    is_open = columns.state == "open", ~dead_letters.is_superseded()
    newest = shown.where(columns.stage == "relay", *is_open).order_by(columns.dead_at.desc())
    return [
        {"doc_id": row.aggregate_id, "sink": row.stage, "version": row.aggregate_version, "reason": row.error}
        for row in connection.execute(newest.limit(_FAILURES_SHOWN))
    ]


def _backups(connection: Connection) -> dict[str, dict[str, Any]]:
    """`timestamp` is None where one was begun and none has ended; the age is then that of the first attempt."""
    return {
        place: {
            "timestamp": None if one.made_at is None else keys.format_timestamp(one.made_at.replace(tzinfo=UTC)),
            "age_seconds": one.age_seconds,
            "size_bytes": one.size_bytes,
            "seconds": one.seconds,
        }
        for place, one in read_newest(connection).items()
    }


def _age(now: datetime, since: datetime | None) -> float | None:
    return None if since is None else round(max(0.0, (now - since).total_seconds()), 3)
