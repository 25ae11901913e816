"""The documents of a sink that joins or is rebuilt: which of them it holds, and bounded changes of many of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, and_, delete, exists, func, insert, literal, or_, select

from consumers import marks
from schema.database.clock import utc_now
from schema.database.connection import reading
from schema.database.statements import IDS_PER_STATEMENT
from schema.database.tables import documents, outbox, sink_states, sinks
from schema.retry import call_with_retry

_PATIENCE_SECONDS = 60.0  # for a transaction of the metadata database
_LACKING = ("absent", "failed")
_HAS_EVENT = sink_states.c.doc_id.in_(select(outbox.c.aggregate_id))
_SHOWN = 5  # documents whose refill lacks something


@dataclass(frozen=True)
class Progress:
    """Documents by state. `lacking` are some of those whose refill failed, each with its reason."""

    applied: int
    pending: int
    absent: int
    failed: int
    lacking: Mapping[str, str]

    @property
    def total(self) -> int:
        return self.applied + self.pending + self.absent + self.failed


def read_progress(engine: Engine, sink: str) -> Progress:
    state = sink_states.c
    counted = select(state.state, func.count()).where(state.sink == sink).group_by(state.state)
    postponed = select(state.doc_id, state.last_error).where(
        state.sink == sink, state.state == "absent", state.requested_at > utc_now()
    )
    with reading(engine) as connection:
        counts = Counter({row[0]: row[1] for row in connection.execute(counted)})
        lacking = {row.doc_id: row.last_error or "" for row in connection.execute(postponed.limit(_SHOWN))}
    return Progress(counts["applied"], counts["pending"], counts["absent"], counts["failed"], lacking)


def is_behind(engine: Engine, sink: str, other: str, most_pending: int) -> bool:
    """Whether `sink` lacks a document that `other` holds; of those whose event is on its way, it may lack a few."""
    mine, others = sink_states.alias("mine"), sink_states.alias("other")
    joined = mine.join(others, and_(others.c.doc_id == mine.c.doc_id, others.c.sink == other))
    held = select(mine.c.doc_id).select_from(joined).where(mine.c.sink == sink, others.c.state == "applied")
    with reading(engine) as connection:
        if connection.execute(held.where(mine.c.state.in_(_LACKING)).limit(1)).all():
            return True
        pending = connection.execute(held.where(mine.c.state == "pending").limit(most_pending + 1)).all()
    return len(pending) > most_pending


def is_lacking(engine: Engine, sink: str) -> bool:
    """Whether the sink lacks a document whose event does not wait in the outbox; for the embedded profile."""
    state = sink_states.c
    with reading(engine) as connection:
        lacking = select(state.doc_id).where(state.sink == sink, state.state.in_(_LACKING), ~_HAS_EVENT)
        return bool(connection.execute(lacking.limit(1)).all())


def add_states(engine: Engine, sink: str) -> int:
    """Let every document without a state in this sink be absent there. Returns how many. May be repeated."""
    of_sink = and_(sink_states.c.doc_id == documents.c.doc_id, sink_states.c.sink == sink)
    missing = select(documents.c.doc_id).select_from(documents.outerjoin(sink_states, of_sink))
    missing = missing.where(sink_states.c.doc_id.is_(None)).order_by(documents.c.doc_id).limit(IDS_PER_STATEMENT)
    added, last = 0, ""
    while True:
        with reading(engine) as connection:
            found = list(connection.execute(missing.where(documents.c.doc_id > last)).scalars())
        if not found:
            return added
        added += call_with_retry(lambda: _add(engine, sink, found), seconds=_PATIENCE_SECONDS)  # noqa: B023
        last = found[-1]


def _add(engine: Engine, sink: str, doc_ids: Sequence[str]) -> int:
    of_sink = and_(sink_states.c.doc_id == documents.c.doc_id, sink_states.c.sink == sink)
    reason = literal("the sink joined after the document was written")
    is_registered = exists().where(sinks.c.name == sink, sinks.c.state != "leaving")
    with engine.begin() as connection:
        marks.lock_documents(connection, doc_ids)
        rows = (
            select(documents.c.doc_id, literal(sink), documents.c.version, literal("absent"), reason)
            .select_from(documents.outerjoin(sink_states, of_sink))
            .where(documents.c.doc_id.in_(doc_ids), sink_states.c.doc_id.is_(None), is_registered)
        )
        columns = ["doc_id", "sink", "desired_version", "state", "last_error"]
        return connection.execute(insert(sink_states).from_select(columns, rows)).rowcount


def mark_pending_absent(engine: Engine, sink: str) -> int:
    """Let a refill bring what no event brings any more: a process without this sink has settled it."""
    return _mark_absent(engine, sink, and_(sink_states.c.state == "pending", ~_HAS_EVENT), "settled without the sink")


def end_postponement(engine: Engine, sink: str) -> int:
    """Let documents whose refill lacked something be due again: their event, which brings it, waits in the outbox."""
    is_postponed = and_(sink_states.c.state == "absent", sink_states.c.requested_at > utc_now())
    return _mark_absent(engine, sink, is_postponed, "its event waited in the outbox")


def mark_older_absent(engine: Engine, sink: str, since: datetime) -> int:
    """Let a refill bring every document that was not applied since then. Returns how many. May be repeated."""
    state = sink_states.c
    is_older = and_(state.state != "absent", or_(state.applied_at.is_(None), state.applied_at < since))
    return _mark_absent(engine, sink, is_older, "the sink is rebuilt")


def mark_absent(engine: Engine, sink: str, reasons: Mapping[str, str]) -> None:
    def work(connection: Connection) -> None:
        marks.lock_documents(connection, reasons)
        marks.mark_absent(connection, sink, reasons)

    call_with_retry(lambda: _run(engine, work), seconds=_PATIENCE_SECONDS)


def delete_states(engine: Engine, sink: str) -> int:
    """Delete the states of a sink that leaves. Returns how many."""
    deleted, last = 0, ""
    state = sink_states.c
    keys = select(state.doc_id).where(state.sink == sink).order_by(state.doc_id).limit(IDS_PER_STATEMENT)
    while True:
        with reading(engine) as connection:
            found = list(connection.execute(keys.where(state.doc_id > last)).scalars())
        if not found:
            return deleted

        def work(connection: Connection, doc_ids: Sequence[str] = tuple(found)) -> None:
            marks.lock_documents(connection, doc_ids)
            connection.execute(delete(sink_states).where(state.doc_id.in_(doc_ids), state.sink == sink))

        call_with_retry(lambda: _run(engine, work), seconds=_PATIENCE_SECONDS)
        deleted, last = deleted + len(found), found[-1]


def _mark_absent(engine: Engine, sink: str, condition: Any, reason: str) -> int:
    state = sink_states.c
    keys = select(state.doc_id).where(state.sink == sink, condition).order_by(state.doc_id).limit(IDS_PER_STATEMENT)
    marked, last = 0, ""
    while True:
        with reading(engine) as connection:
            found = list(connection.execute(keys.where(state.doc_id > last)).scalars())
        if not found:
            return marked
        mark_absent(engine, sink, dict.fromkeys(found, reason))
        marked, last = marked + len(found), found[-1]


def _run(engine: Engine, work: Any) -> None:
    with engine.begin() as connection:
        work(connection)
