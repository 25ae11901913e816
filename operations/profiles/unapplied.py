"""What `rag-outbox run --until-idle` leaves behind: failed tasks, dead letters, and documents that a sink lacks."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection, Engine, func, select

from operations.errors import OperationError
from operations.sinks import names_in_use
from schema.database import dead_letters
from schema.database.connection import reading
from schema.database.history import read_identity
from schema.database.tables import outbox, outbox_dead_letters, processing_tasks, sink_states

_SHOWN = 20  # tasks or dead letters that the message names
_REASON_CHARACTERS = 200


class NotApplied(OperationError):
    """Raised when nothing is left to do with `until_idle`, and a sink lacks documents, or a file could not be read.

    Documents that a sink refused before this run are not named.
    """


def require_applied(engine: Engine, began: datetime) -> None:
    """Raise NotApplied if a task failed or an event became a dead letter since `began`, or a sink lacks a document."""
    with reading(engine) as connection:
        left = {
            "not every file could be processed": _describe_failed(connection, began),
            "not every sink holds its documents": [
                *_describe_refused(connection, began),
                *_describe_lacking(connection, names_in_use(read_identity(connection).sinks)),
            ],
        }
    if any(left.values()):
        raise NotApplied("; ".join(f"{what}: {'; '.join(lines)}" for what, lines in left.items() if lines))


def _describe_failed(connection: Connection, began: datetime) -> list[str]:
    """The tasks of uploaded files that failed in this run."""
    task = processing_tasks.c
    is_new = task.status == "failed", task.completed_at >= began
    count = connection.execute(select(func.count()).where(*is_new)).scalar_one()
    columns = select(task.task_type, task.doc_id, task.error_message).where(*is_new)
    lines = [
        f"{one.task_type} of {one.doc_id!r} failed: {one.error_message[:_REASON_CHARACTERS]}"
        for one in connection.execute(columns.order_by(task.completed_at).limit(_SHOWN))
    ]
    if count > len(lines):
        lines.append(f"and {count - len(lines)} more tasks; rag-outbox tasks list shows them")
    return lines


def _describe_refused(connection: Connection, began: datetime) -> list[str]:
    """The dead letters of this run, except those whose document has a newer version in every sink."""
    letter = outbox_dead_letters.c
    is_new = letter.dead_at >= began, letter.state == "open", ~dead_letters.is_superseded()
    count = connection.execute(select(func.count()).where(*is_new)).scalar_one()
    columns = select(letter.stage, letter.aggregate_id, letter.aggregate_version, letter.error)
    shown = connection.execute(columns.where(*is_new).order_by(letter.id).limit(_SHOWN)).all()
    lines = [
        f"{one.stage} refused {one.aggregate_id!r} version {one.aggregate_version}: {one.error[:_REASON_CHARACTERS]}"
        for one in shown
    ]
    if count > len(shown):
        lines.append(f"and {count - len(shown)} more events; rag-outbox dead-letters list shows them")
    return lines


def _describe_lacking(connection: Connection, registered: Collection[str]) -> list[str]:
    """The documents that a sink lacks, and whose event is not in the outbox; refused ones are dead letters."""
    state = sink_states.c
    lacking = state.state.in_(("pending", "absent")) & state.sink.in_(registered)
    is_waiting = state.doc_id.in_(select(outbox.c.aggregate_id))  # written since the outbox was empty
    first = func.min(state.doc_id).label("first")
    counted = select(state.sink, func.count().label("number"), first).where(lacking, ~is_waiting).group_by(state.sink)
    found = counted.subquery()
    joined = found.join(sink_states, (state.sink == found.c.sink) & (state.doc_id == found.c.first))
    columns = (found, state.state, state.last_error)
    rows = connection.execute(select(*columns).select_from(joined).order_by(found.c.sink)).all()
    return [f"{one.sink} lacks {one.number}, one is {one.first!r}: {one.last_error or one.state}" for one in rows]
