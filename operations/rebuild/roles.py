"""Changes of the table `sinks`, each in one transaction that no writer and no mark overlaps.

It locks the identity's row and the rows of `sinks` exclusively: every writer takes the shared lock of both in its first
statement, and every mark that of `sinks`. So every writer under way has ended, and every later one sees the change.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, delete, insert, select, update

from consumers import completion, marks
from operations.rebuild.errors import NotPossible
from schema.batches import bounded
from schema.database import history
from schema.database.connection import reading
from schema.database.statements import IDS_PER_STATEMENT
from schema.database.tables import sink_states, sinks, system_identity
from schema.retry import call_with_retry
from schema.sinks import RegisteredSink

T = TypeVar("T")

MOST_BEHIND = 500  # documents that one transaction may change: writers wait for it
ANY_NUMBER = 1_000_000_000
_PATIENCE_SECONDS = 60.0  # for a transaction of the metadata database


def run_exclusively(engine: Engine, work: Callable[[Connection, Sequence[RegisteredSink]], T]) -> T:
    """Call `work` in a transaction with the locks; again after a transient error. Returns its result."""

    def once() -> T:
        with engine.begin() as connection:
            one_row = select(system_identity.c.id).where(system_identity.c.id == 1)
            connection.execute(one_row.with_for_update()).one()
            history.lock_identity(connection)  # begins a new history on another server, as every write does
            connection.execute(select(sinks.c.name).with_for_update()).all()
            return work(connection, history.read_identity(connection).sinks)

    return call_with_retry(once, seconds=_PATIENCE_SECONDS)


def register(engine: Engine, sink: RegisteredSink, options: dict[str, Any] | None = None) -> None:
    """Insert the row of a sink that joins, unless there is one."""

    def work(connection: Connection, found: Sequence[RegisteredSink]) -> None:
        if all(one.name != sink.name for one in found):
            names = ("name", "required", "takes_vectors", "takes_files", "state")
            row = {name: getattr(sink, name) for name in names}
            connection.execute(insert(sinks).values(**row, options=options))

    run_exclusively(engine, work)


def change_options(engine: Engine, name: str, options: dict[str, Any]) -> None:
    """Change what a re-creation of the sink's store needs."""
    run_exclusively(engine, lambda connection, _: change_sink(connection, name, options=options))


def activate(engine: Engine, name: str, *, required: bool, most: int = MOST_BEHIND) -> int:
    """End the joining of a sink, or change whether it is required. Returns how many documents it does not hold yet.

    If they are more than `most` and it shall be required, nothing changes. A document that the sink does not hold
    is not completed any more. Raises NotPossible if the sink is gone.
    """

    def work(connection: Connection, found: Sequence[RegisteredSink]) -> int:
        if all(one.name != name or one.state == "leaving" for one in found):
            raise NotPossible(f"{name} was removed meanwhile: rag-outbox sinks list")
        behind = find_behind(connection, name, most + 1) if required else []
        if len(behind) > most:
            return len(behind)
        change_sink(connection, name, required=required, state="active")
        if behind:
            marks.lock_documents(connection, behind)
            completion.judge_documents(connection, behind)
        return len(behind)

    behind = run_exclusively(engine, work)
    if not required:
        _judge_all_behind(engine, name)
    return behind


def start_leaving(engine: Engine, name: str) -> None:
    """From now on nobody asks anything of the sink. Raises NotPossible if it is required."""

    def work(connection: Connection, found: Sequence[RegisteredSink]) -> None:
        if any(one.name == name and one.required for one in found):
            raise NotPossible(f"{name} is required")
        change_sink(connection, name, state="leaving")

    run_exclusively(engine, work)


def forget(engine: Engine, name: str) -> None:
    """Delete the row of a sink that leaves."""

    def work(connection: Connection, _: Sequence[RegisteredSink]) -> None:
        connection.execute(delete(sinks).where(sinks.c.name == name, sinks.c.state == "leaving"))

    run_exclusively(engine, work)


def change_sink(connection: Connection, name: str, **values: Any) -> None:
    connection.execute(update(sinks).where(sinks.c.name == name).values(**values))


def find_behind(connection: Connection, name: str, limit: int, after: str = "") -> list[str]:
    """Documents that the sink does not hold, at most `limit`, in the order of their ids."""
    state = sink_states.c
    is_behind = (state.sink == name) & state.state.in_(("pending", "absent", "failed")) & (state.doc_id > after)
    return list(connection.execute(select(state.doc_id).where(is_behind).order_by(state.doc_id).limit(limit)).scalars())


def _judge_all_behind(engine: Engine, name: str) -> None:
    """Documents that only waited for this sink are completed now."""
    last = ""
    while True:
        with reading(engine) as connection:
            found = find_behind(connection, name, IDS_PER_STATEMENT, last)
        if not found:
            return
        for some in bounded(found, IDS_PER_STATEMENT):
            call_with_retry(lambda: _judge(engine, some), seconds=_PATIENCE_SECONDS)  # noqa: B023
        last = found[-1]


def _judge(engine: Engine, doc_ids: Sequence[str]) -> None:
    with engine.begin() as connection:
        marks.lock_documents(connection, doc_ids)
        completion.judge_documents(connection, doc_ids)
