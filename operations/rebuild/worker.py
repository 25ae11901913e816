"""Who refills a sink: its consumers (services profile), or this command itself, under the lock of `rag-outbox run`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from operations.rebuild.states import end_postponement, mark_pending_absent
from operations.sinks import open_sink
from operations.wiring import System
from schema.failures import Retryable
from schema.kafka.topics import ensure as ensure_topics
from schema.retry import call_with_retry
from schema.sinks import kind_of

if TYPE_CHECKING:
    from operations.rebuild.group import SinkGroup

_SINK_SECONDS = 60.0  # that a sink may fail for


def is_embedded(system: System) -> bool:
    return system.settings.kafka is None


@contextmanager
def exclusive(system: System) -> Iterator[None]:
    """In the embedded profile, hold the lock of `rag-outbox run`: it would apply events to the same stores.

    Raises AlreadyRunning.
    """
    if not is_embedded(system):
        yield
        return
    from operations.profiles.embedded import AlreadyRunning, hold_lock

    with ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(system.settings.data_dir))
        except AlreadyRunning as error:
            raise AlreadyRunning(f"{error}; stop it first: writers may go on") from None
        yield


def group_of(system: System, sink: str) -> "SinkGroup":
    """The consumer group of a sink (services profile)."""
    from operations.rebuild.group import SinkGroup

    return SinkGroup(system.settings.kafka or {}, system.names, sink, system.identity.lanes)


def prepare_group(system: System, sink: str) -> None:
    """Before a sink joins: its topic of dead letters, and a group that begins at the end of the topic."""
    if is_embedded(system):
        return
    ensure_topics(system.settings.kafka or {}, system.names, system.identity.lanes, [sink])
    call_with_retry(group_of(system, sink).commit_ends, seconds=_SINK_SECONDS)


@contextmanager
def refilling(system: System, sink: str) -> Iterator[Callable[[], int] | None]:
    """What refills some documents of the sink; None if its consumers do it."""
    if not is_embedded(system):
        yield None
        return
    from consumers.refill import Refill

    opened, marks = open_sink(system, sink)
    with closing(opened):
        call_with_retry(opened.ensure, seconds=_SINK_SECONDS)
        refill = Refill(system.engine, opened, marks, system.store)

        def work() -> int:
            mark_pending_absent(system.engine, sink)
            return call_with_retry(refill.run_round, seconds=_SINK_SECONDS)

        yield work
    end_postponement(system.engine, sink)


def explain_stillness(system: System, sink: str) -> str:
    """Why a sink may not move; empty if nobody knows."""
    if is_embedded(system):
        return ""
    try:
        members = group_of(system, sink).count_members()
    except Retryable as error:
        return str(error)
    return "" if members else f"no process serves it: start rag-outbox consume {kind_of(sink)}"
