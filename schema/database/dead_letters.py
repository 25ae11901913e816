"""Dead letters in the database: every stage stores one row per refused event, and the limit and `status` count them.

Invariant 11: a refused event has its row before it leaves the outbox, or before its offset is committed.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, insert, null, or_, select, true, update

from schema.database.clock import utc_now
from schema.database.tables import documents, outbox_dead_letters, sink_states, sinks
from schema.failures import DeadLetter, DeadLetterLimit
from schema.limits import DOC_ID_BYTES, LAST_VERSION

RECENT = timedelta(seconds=DeadLetterLimit.WITHIN_SECONDS)
_SUPERSEDED = "every required sink holds a newer version, or the document is deleted"
_ERROR_CHARACTERS = 10_000  # of a reason; it may quote a document
_REFUSED_AGAIN = {
    "attempts": outbox_dead_letters.c.attempts + 1,
    "dead_at": utc_now(),
    "state": "open",
    **dict.fromkeys(("closed_at", "closed_by", "closed_reason"), null()),
}


def row_of(
    letter: DeadLetter,
    *,
    outbox_id: int = 0,
    headers: Mapping[str, str] | None = None,
    kafka_position: str | None = None,
) -> dict[str, Any]:
    """The row of a letter. With `kafka_position`, Kafka has the payload there, and the row does not."""
    envelope = letter.envelope
    return {
        "stage": letter.stage,
        "outbox_id": outbox_id,
        "event_id": envelope.event_id[-36:],  # without a header ce_id: the end of its place in the topic
        "aggregate_type": "document",
        "aggregate_id": envelope.doc_id[:DOC_ID_BYTES],
        "aggregate_version": min(envelope.version, LAST_VERSION + 1),
        "event_type": envelope.event_type[:64],
        "content_type": envelope.content_type[:64],
        "headers": dict(envelope.headers if headers is None else headers) or null(),
        "payload": None if kafka_position is not None else envelope.payload,
        "kafka_position": kafka_position,
        "error": letter.reason[:_ERROR_CHARACTERS],
        "attempts": 1,
    }


def store(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Store rows of `row_of`. Of two letters with one event id at one stage the newest is kept, and is open.

    A stage may read only the key and `attempts`, so an upsert, which reads the other columns too, is no choice.
    """
    key = outbox_dead_letters.c
    new = insert(outbox_dead_letters).prefix_with("IGNORE", dialect="mysql").prefix_with("OR IGNORE", dialect="sqlite")
    for row in rows:
        known = update(outbox_dead_letters).where(key.stage == row["stage"], key.event_id == row["event_id"])
        if connection.execute(known.values({**row, **_REFUSED_AGAIN})).rowcount == 0:
            connection.execute(new.values(row))  # ignored: another process has just stored the same event


def count_recent(connection: Connection, stages: Collection[str]) -> int:
    """How many events became dead letters of these stages in the last hour, by the clock of the database.

    Those that a person replayed or discarded do not count.
    """
    columns = outbox_dead_letters.c
    recent = columns.stage.in_(sorted(stages)), columns.dead_at > _limit_since(connection), columns.state == "open"
    counted = select(func.count(columns.event_id.distinct())).where(*recent)
    return int(connection.execute(counted).scalar_one())


def count_open(connection: Connection) -> dict[str, int]:
    """The number of letters that need a person, by stage."""
    columns = outbox_dead_letters.c
    counted = select(columns.stage, func.count()).where(columns.state == "open", ~is_superseded())
    return {row[0]: row[1] for row in connection.execute(counted.group_by(columns.stage))}


def find_superseded(connection: Connection, most: int = 500) -> list[int]:
    """The ids of open letters that need nobody, the oldest first. Those that the limit still counts stay open."""
    columns = outbox_dead_letters.c
    found = select(columns.id).where(columns.state == "open", columns.dead_at <= _limit_since(connection))
    return list(connection.execute(found.where(is_superseded()).order_by(columns.id).limit(most)).scalars())


def close_superseded(connection: Connection, letter_ids: Collection[int]) -> None:
    """Close these letters, except those that were closed, or refused again, in the meantime."""
    columns = outbox_dead_letters.c
    closed = {"state": "superseded", "closed_at": utc_now(), "closed_by": "rag-outbox", "closed_reason": _SUPERSEDED}
    still_open = columns.state == "open", columns.dead_at <= _limit_since(connection)
    given = update(outbox_dead_letters).where(columns.id.in_(letter_ids), *still_open)
    connection.execute(given.values(closed))


def _limit_since(connection: Connection) -> datetime:
    now: datetime = connection.execute(select(utc_now())).scalar_one()
    return now - RECENT


def is_superseded() -> ColumnElement[bool]:
    """Whether nothing is left to do for a letter.

    Every required sink, and the one that refused the event, holds a newer version; or every required sink has
    confirmed that the document is deleted.
    """
    letter = outbox_dead_letters.c
    applied = and_(sink_states.c.doc_id == letter.aggregate_id, sink_states.c.sink == sinks.c.name)
    holds_newer = (
        select(true())
        .where(applied, sink_states.c.applied_version > letter.aggregate_version)
        .correlate(outbox_dead_letters, sinks)
        .exists()
    )
    is_asked = or_(and_(sinks.c.required, sinks.c.state == "active"), sinks.c.name == letter.stage)
    behind = select(true()).select_from(sinks).where(is_asked, ~holds_newer).correlate(outbox_dead_letters).exists()
    gone = (
        select(true())
        .where(
            documents.c.doc_id == letter.aggregate_id,
            documents.c.version >= letter.aggregate_version,
            documents.c.status == "completed",
            documents.c.deleted_at.is_not(None),
        )
        .correlate(outbox_dead_letters)
        .exists()
    )
    return or_(~behind, gone)
