"""Sinks of other packages: add one, change whether it is required, and rebuild one in place."""

import re
from contextlib import closing
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from operations import sinks
from operations.errors import UsageError
from operations.rebuild import states, worker
from operations.rebuild.errors import NotPossible
from operations.rebuild.fill import Watch, fill
from operations.rebuild.roles import ANY_NUMBER, MOST_BEHIND, activate, change_sink, register, run_exclusively
from operations.rebuild.states import Progress
from operations.wiring import System
from schema.database.clock import utc_now
from schema.database.tables import sinks as sinks_table
from schema.retry import call_with_retry
from schema.sinks import SINKS, RegisteredSink, kind_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_SINCE = "rebuilt_since"  # in `options`, while a rebuild in place is under way


def add(system: System, name: str, *, required: bool | None, watch: Watch) -> Progress:
    """Let a sink join, refill it with every document, and make it active; `required` None: as it is, or optional.

    For a sink that is active already, only change whether it is required. Raises UnknownSink, NotPossible, Stalled,
    AlreadyRunning. Interrupted at any point, it continues when it is called again.
    """
    if not _NAME.fullmatch(name) or kind_of(name) in SINKS:
        known = f"{' and '.join(SINKS)} are built in; another instance of milvus: rag-outbox rebuild milvus"
        raise UsageError(
            f"NAME {name!r}: must be a sink of another package, of 1 to 32 letters, digits, . _ - ({known})"
        )
    with worker.exclusive(system):
        found = next((one for one in sinks.read_all(system) if one.name == name), None)
        if found is not None and found.state == "leaving":
            raise NotPossible(f"{name} is being removed: finish it first: rag-outbox sinks remove {name}")
        if found is None:
            found = _join(system, name)
        wanted = found.required if required is None else required
        if found.state == "active" and found.required == wanted:
            return states.read_progress(system.engine, name)
        if not wanted and found.state == "active":
            activate(system.engine, name, required=False)
            return states.read_progress(system.engine, name)
        most = ANY_NUMBER if worker.is_embedded(system) else MOST_BEHIND  # there their events wait for `run`
        with worker.refilling(system, name) as work:
            while True:
                progress = _fill(system, name, work, watch)
                if activate(system.engine, name, required=wanted, most=most) <= most:
                    return progress


def rebuild_in_place(system: System, name: str, watch: Watch) -> Progress:
    """Replace all that a sink of another package holds, document by document: each is written before it is deleted.

    Raises UnknownSink, NotPossible, Stalled, AlreadyRunning.
    """
    with worker.exclusive(system):
        found = sinks.require_registered(sinks.read_all(system), name)
        if found.state != "active":
            raise NotPossible(f"{name} is {found.state}: rag-outbox sinks list")
        since = _begin(system, name)
        states.mark_older_absent(system.engine, name, since)
        with worker.refilling(system, name) as work:
            progress = _fill(system, name, work, watch)
        _end(system, name)
        return progress


def _join(system: System, name: str) -> RegisteredSink:
    sink = sinks.make_plugin(system, name)
    with closing(sink):
        call_with_retry(sink.create)
        joining = RegisteredSink(name, False, sink.takes_vectors, sink.takes_files, "joining")
    worker.prepare_group(system, name)
    register(system.engine, joining)
    return joining


def _fill(system: System, name: str, work: Any, watch: Watch) -> Progress:
    engine = system.engine
    states.add_states(engine, name)
    return fill(
        name,
        lambda: states.read_progress(engine, name),
        lambda progress: _is_filled(system, name, progress),
        work,
        lambda: worker.explain_stillness(system, name),
        watch,
    )


def _is_filled(system: System, name: str, progress: Progress) -> bool:
    if worker.is_embedded(system):
        return not states.is_lacking(system.engine, name)
    return progress.absent + progress.failed == 0 and progress.pending <= MOST_BEHIND


def _begin(system: System, name: str) -> datetime:
    """When the rebuild began, by the clock of the database; that of an interrupted one."""

    def work(connection: Connection, _: object) -> datetime:
        options = dict(_read(connection, name))
        if _SINCE not in options:
            options[_SINCE] = str(connection.execute(select(utc_now())).scalar_one())
            change_sink(connection, name, options=options)
        return datetime.fromisoformat(options[_SINCE])

    return run_exclusively(system.engine, work)


def _end(system: System, name: str) -> None:
    def work(connection: Connection, _: object) -> None:
        options = {key: value for key, value in _read(connection, name).items() if key != _SINCE}
        change_sink(connection, name, options=options or None)

    run_exclusively(system.engine, work)


def _read(connection: Connection, name: str) -> dict[str, Any]:
    statement = select(sinks_table.c.options).where(sinks_table.c.name == name)
    return connection.execute(statement).scalar_one_or_none() or {}
