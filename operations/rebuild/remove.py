"""Remove a sink that is not required: its states, its group, and for an instance of Milvus its collection."""

from dataclasses import dataclass

from sqlalchemy import update

from operations import sinks
from operations.rebuild import worker
from operations.rebuild.errors import NotPossible
from operations.rebuild.roles import forget, start_leaving
from operations.rebuild.states import delete_states
from operations.wiring import System
from schema.database.clock import utc_now
from schema.database.tables import outbox_dead_letters
from schema.failures import Retryable
from schema.retry import Backoff, call_with_retry
from schema.sinks import MILVUS, MINIO, RegisteredSink

_LEAVE_SECONDS = 90.0  # for its consumers to notice that it leaves, and to finish a batch
_BACKOFF = Backoff(0.5, 1.0)


@dataclass(frozen=True)
class Removed:
    """`documents` is the number of its states. `left` says what stays in Kafka or elsewhere."""

    name: str
    documents: int
    left: str


def require_removable(system: System, name: str) -> RegisteredSink:
    """The row of the sink. Raises UnknownSink, and NotPossible with the command to run first."""
    found = sinks.require_registered(sinks.read_all(system), name)
    if name == MINIO:
        raise NotPossible(f"{MINIO} cannot be removed: it has the files, and the archive that refills every other sink")
    if found.is_serving:
        raise NotPossible(f"{name} cannot be removed, searches use it; another instance: rag-outbox rebuild {MILVUS}")
    if found.required:
        raise NotPossible(f"{name} is required; first run rag-outbox sinks add {name} --optional")
    return found


def remove(system: System, name: str) -> Removed:
    """Remove it. Interrupted at any point, it continues when it is called again.

    Raises NotPossible if it is required, or if a process still serves it.
    """

    found = require_removable(system, name)
    start_leaving(system.engine, name)
    if not worker.is_embedded(system):
        _wait_for_consumers(system, name)
    documents = delete_states(system.engine, name)
    _close_letters(system, name)
    left = "" if worker.is_embedded(system) else _describe_left(system, name)
    if found.kind == MILVUS:
        from operations.rebuild.collections import drop_collection, serve

        serving = sinks.find_serving(system)  # an interrupted swap may have left the alias on the one that goes
        system.with_milvus(lambda client: serve(system, client, serving.name))
        system.with_milvus(lambda client: drop_collection(system, client, name))
    forget(system.engine, name)
    return Removed(name, documents, left)


def _wait_for_consumers(system: System, name: str) -> None:
    group = worker.group_of(system, name)

    def check() -> None:
        if members := group.count_members():
            raise Retryable(f"{members} processes still serve {name}")

    try:
        call_with_retry(check, backoff=_BACKOFF, seconds=_LEAVE_SECONDS)
    except Retryable as error:
        raise NotPossible(f"{error}; stop them, then repeat rag-outbox sinks remove {name}") from error


def _close_letters(system: System, name: str) -> None:
    """Its open dead letters need nobody any more."""
    letter = outbox_dead_letters.c
    closed = {"state": "discarded", "closed_at": utc_now(), "closed_by": system.operator}

    def work() -> None:
        with system.engine.begin() as connection:
            its_own = update(outbox_dead_letters).where(letter.stage == name, letter.state == "open")
            connection.execute(its_own.values(**closed, closed_reason="the sink was removed"))

    call_with_retry(work)


def _describe_left(system: System, name: str) -> str:
    group = worker.group_of(system, name)
    topic = system.names.dead_letters_topic(name)
    gone = "is deleted" if group.delete() else "stays, since Kafka does not let this user delete it"
    return f"Its consumer group {group.name} {gone}; its topic {topic} stays until its retention ends."
