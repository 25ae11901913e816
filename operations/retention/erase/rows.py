"""The rows of the database that keep text of earlier versions: log payloads, closed dead letters, ended tasks."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Engine, case, delete, func, insert, null, or_, select, update

import producer
from consumers import marks
from operations.retention.erase.refusals import Erasable, require_erasable
from operations.retention.processing_tasks import ENDED
from operations.retention.purge import purge
from schema.database import history
from schema.database.clock import utc_now
from schema.database.connection import reading
from schema.database.dead_letters import is_superseded
from schema.database.tables import LETTER_STATES, operation_logs, outbox_dead_letters, processing_tasks, sink_states

ERASED = "erased"  # the key of the payload that an erase logs, and the reason of a dead letter without its own
_LOGS = 200  # per transaction
_LETTERS = 20

_log, _letter, _task = operation_logs.c, outbox_dead_letters.c, processing_tasks.c


def begin(engine: Engine, doc_id: str, operator: str) -> Erasable:
    """Check the document under its lock, purge it if it is deleted, and log the erase: one transaction.

    The marks of its sinks move on, by which a process that tidies its archive now notices it. Raises CannotErase.
    """

    def work(connection: Connection) -> Erasable:
        history.lock_identity(connection)
        marks.lock_documents(connection, [doc_id])
        found = require_erasable(connection, doc_id)
        if found.is_deleted:
            purge(connection, [doc_id])
        else:
            for sink in found.lagging:
                marks.mark_absent(connection, sink, {doc_id: "the document is erased"})
        moved = update(sink_states).where(sink_states.c.doc_id == doc_id)
        connection.execute(moved.values(marks=sink_states.c.marks + 1))
        connection.execute(
            insert(operation_logs).values(
                operation_type="SYNC",
                target_table="documents",
                target_id=doc_id,
                payload={ERASED: {"version": found.version, "deleted": found.is_deleted}},
                operator=operator,
            )
        )
        return found

    return producer.run(engine, work)


def count(engine: Engine, doc_id: str) -> dict[str, int]:
    """What `erase` would change, by kind."""
    letters = select(func.count()).where(*_of_letters(doc_id), or_(_letter.state != "open", is_superseded()))
    tasks = select(func.count()).where(_task.doc_id == doc_id, _task.status.in_(ENDED))
    with reading(engine) as connection:
        logs = sum(len(ids) for ids in _pages_of_logs(connection, doc_id))
        return {
            "operation_logs": logs,
            "dead_letters": connection.execute(letters).scalar_one(),
            "processing_tasks": connection.execute(tasks).scalar_one(),
        }


def erase(engine: Engine, doc_id: str) -> dict[str, int]:
    """Empty payloads of logs and of dead letters that need nobody, and delete ended tasks. Returns how many.

    The rows of logs and dead letters stay. Interrupted at any point, it can be repeated.
    """
    with reading(engine) as connection:
        logs = list(_pages_of_logs(connection, doc_id))
    for ids in logs:
        _run(engine, update(operation_logs).where(_log.log_id.in_(ids)).values(payload=null()))
    return {
        "operation_logs": sum(map(len, logs)),
        "dead_letters": _erase_letters(engine, doc_id),
        "processing_tasks": _run(
            engine, delete(processing_tasks).where(_task.doc_id == doc_id, _task.status.in_(ENDED))
        ),
    }


def _pages_of_logs(connection: Connection, doc_id: str) -> Iterator[list[int]]:
    """The ids of logs that have a payload, except those of an erase."""
    last = 0
    with_payload = select(_log.log_id, _log.payload).where(_log.target_id == doc_id, _log.payload.is_not(None))
    while True:
        page = connection.execute(with_payload.where(_log.log_id > last).order_by(_log.log_id).limit(_LOGS)).all()
        if not page:
            return
        last = page[-1].log_id
        if ids := [row.log_id for row in page if not _is_of_erase(row.payload)]:
            yield ids


def _is_of_erase(payload: Any) -> bool:
    return isinstance(payload, dict) and set(payload) == {ERASED}


def _erase_letters(engine: Engine, doc_id: str) -> int:
    """Close those that are superseded, then empty all that are closed."""
    closed = {"state": "superseded", "closed_at": utc_now(), "closed_by": "rag-outbox", "closed_reason": ERASED}
    superseded = select(_letter.id).where(*_of_letters(doc_id), _letter.state == "open", is_superseded())
    with reading(engine) as connection:
        ids = list(connection.execute(superseded).scalars())
    _run(engine, update(outbox_dead_letters).where(_letter.id.in_(ids), _letter.state == "open").values(closed))
    with reading(engine) as connection:
        chosen = select(_letter.id).where(*_of_letters(doc_id), _letter.state != "open")
        ids = list(connection.execute(chosen.order_by(_letter.id)).scalars())
    emptied = {
        "payload": case((_letter.payload.is_(None), null()), else_=b""),  # NULL: Kafka has it
        "headers": null(),
        "error": ERASED,
    }
    done = 0
    for start in range(0, len(ids), _LETTERS):
        some = _letter.id.in_(ids[start : start + _LETTERS])
        done += _run(engine, update(outbox_dead_letters).where(some, _letter.state != "open").values(emptied))
    return done


def _of_letters(doc_id: str) -> tuple[Any, ...]:
    """With every state: the index begins with it."""
    return _letter.state.in_(LETTER_STATES), _letter.aggregate_id == doc_id


def _run(engine: Engine, statement: Any) -> int:
    return producer.run(engine, lambda connection: int(connection.execute(statement).rowcount))
