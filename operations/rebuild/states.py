"""The documents of a sink that joins or is rebuilt: which of them it holds, and bounded changes of many of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, and_, delete, func, insert, literal, or_, select

from consumers import marks
from schema.database.clock import utc_now
from schema.database.connection import reading
from schema.database.statements import IDS_PER_STATEMENT
from schema.database.tables import documents, sink_states
from schema.retry import call_with_retry

_PATIENCE_SECONDS = 60.0  # for a transaction of the metadata database
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


def count_lacking(engine: Engine, sink: str, other: str | None) -> int:
    """Documents that are absent or failed in `sink`; of those that `other` lacks as well, none counts."""
    mine, others = sink_states.alias("mine"), sink_states.alias("other")
    lacking = ("absent", "failed")
    statement = select(func.count()).select_from(mine).where(mine.c.sink == sink, mine.c.state.in_(lacking))
    if other is not None:
        same = and_(others.c.doc_id == mine.c.doc_id, others.c.sink == other, others.c.state.in_(lacking))
        statement = statement.where(~select(others.c.doc_id).where(same).correlate(mine).exists())
    with reading(engine) as connection:
        return connection.execute(statement).scalar_one()


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
    with engine.begin() as connection:
        marks.lock_documents(connection, doc_ids)
        rows = (
            select(documents.c.doc_id, literal(sink), documents.c.version, literal("absent"), reason)
            .select_from(documents.outerjoin(sink_states, of_sink))
            .where(documents.c.doc_id.in_(doc_ids), sink_states.c.doc_id.is_(None))
        )
        columns = ["doc_id", "sink", "desired_version", "state", "last_error"]
        return connection.execute(insert(sink_states).from_select(columns, rows)).rowcount


def mark_pending_absent(engine: Engine, sink: str) -> int:
    """Let a refill bring what an event would: the caller applies no events. Returns how many."""
    return _mark_absent(engine, sink, sink_states.c.state == "pending", "refilled without its event")


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
