"""`rag-outbox status`: waiting events, lag per sink, and failures, read from the metadata database alone."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, select

from operations import sinks
from operations.wiring import System
from schema.database.clock import utc_now
from schema.database.connection import reading
from schema.database.tables import documents, outbox, outbox_dead_letters, sink_states

_FAILURES_SHOWN = 20


@dataclass(frozen=True)
class Status:
    """Ages in seconds by the clock of the database; None when nothing waits."""

    documents: dict[str, int]  # per state; "deleted" once every sink has confirmed the deletion
    pending_events: int
    oldest_pending_age_seconds: float | None
    sinks: dict[str, dict[str, Any]]
    failed: list[dict[str, Any]]
    dead_letters: int  # except those whose document has a newer version in every sink


def status(system: System) -> Status:
    with reading(system.engine) as connection:
        now = connection.execute(select(utc_now())).scalar_one()
        pending = connection.execute(select(func.count(), func.min(outbox.c.created_at)).select_from(outbox)).one()
        return Status(
            documents=_documents(connection),
            pending_events=pending[0],
            oldest_pending_age_seconds=_age(now, pending[1]),
            sinks={sink: _sink(connection, sink, now) for sink in sinks.names(system)},
            failed=_failed(connection) + _never_published(connection),
            dead_letters=connection.execute(select(func.count()).where(~_superseded())).scalar_one(),
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


def _failed(connection: Connection) -> list[dict[str, Any]]:
    columns = (sink_states.c.doc_id, sink_states.c.sink, sink_states.c.desired_version, sink_states.c.last_error)
    newest = select(*columns).where(sink_states.c.state == "failed").order_by(sink_states.c.requested_at.desc())
    return [
        {"doc_id": row.doc_id, "sink": row.sink, "version": row.desired_version, "reason": row.last_error}
        for row in connection.execute(newest.limit(_FAILURES_SHOWN))
    ]


def _never_published(connection: Connection) -> list[dict[str, Any]]:
    """Events that Kafka rejected: no sink has seen them."""
    letters = select(outbox_dead_letters).where(outbox_dead_letters.c.stage == "relay", ~_superseded())
    return [
        {"doc_id": row.aggregate_id, "sink": row.stage, "version": row.aggregate_version, "reason": row.error}
        for row in connection.execute(letters.order_by(outbox_dead_letters.c.id.desc()).limit(_FAILURES_SHOWN))
    ]


def _superseded() -> ColumnElement[bool]:
    """Whether every sink holds a newer version of the dead letter's document."""
    applied = select(func.min(sink_states.c.applied_version)).where(
        sink_states.c.doc_id == outbox_dead_letters.c.aggregate_id
    )
    return func.coalesce(applied.scalar_subquery(), 0) > outbox_dead_letters.c.aggregate_version


def _age(now: datetime, since: datetime | None) -> float | None:
    return None if since is None else round(max(0.0, (now - since).total_seconds()), 3)
