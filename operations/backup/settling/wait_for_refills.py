"""Waits until consumers have applied and refilled what a restore left to them."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine, and_, func, select

from schema.database.connection import reading
from schema.database.tables import outbox, sink_states, sinks

_LOOK_SECONDS = 1.0
_STILL_SECONDS = 30.0


@dataclass(frozen=True)
class Waiting:
    """`events` in the outbox, `states` of documents that a sink lacks, and those that `lack` a vector or a file."""

    events: int
    states: int
    lack: int

    @property
    def is_over(self) -> bool:
        return self.events == 0 and self.states == 0


def wait_for_refills(
    engine: Engine, stop: threading.Event, *, advance: Callable[[int], None], note: Callable[[str], None]
) -> Waiting:
    """Wait until nothing is left to do, or `stop` is set. `note` gets a line when nothing moves."""
    last, moved_at = count_waiting(engine), time.monotonic()
    while not (last.is_over or stop.wait(_LOOK_SECONDS)):
        now = count_waiting(engine)
        if now != last:
            advance(max(0, last.states - now.states))
            moved_at = time.monotonic()
        elif time.monotonic() - moved_at >= _STILL_SECONDS:
            note(
                f"nothing has moved for {_STILL_SECONDS:.0f} s ({now.events} events and {now.states} documents wait): "
                "do rag-outbox relay, consume milvus and consume minio run?"
            )
            moved_at = time.monotonic()
        last = now
    return last


def count_waiting(engine: Engine) -> Waiting:
    state = sink_states.c
    joined = sink_states.join(sinks, and_(sinks.c.name == state.sink, sinks.c.state != "leaving"))
    lacks = and_(state.state == "absent", state.attempts > 0)
    waits = state.state.in_(("pending", "absent"))
    counted = select(func.count()).select_from(joined)
    with reading(engine) as connection:
        events = connection.execute(select(func.count()).select_from(outbox)).scalar_one()
        lack = connection.execute(counted.where(lacks)).scalar_one()
        both = connection.execute(counted.where(waits)).scalar_one()
    return Waiting(events, max(0, both - lack), lack)
