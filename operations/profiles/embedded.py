"""`rag-outbox run`: relay and sinks in one process, for the embedded profile.

One such process per data folder: it holds the lock `run.lock`.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import func, select

from consumers.applier import Applier
from consumers.refill import Refill
from operations.cli.output import Output
from operations.errors import OperationError
from operations.settings import PREFIX, SettingsError
from operations.signals import stop_on_signals
from operations.sinks import names, open_sink
from operations.staging import sweep_hourly
from operations.wiring import System
from relays.direct import direct_relay
from schema.database.connection import reading
from schema.database.tables import outbox


class AlreadyRunning(OperationError):
    """Raised when `rag-outbox run` already works on this data folder; the message names its process."""


def run(
    system: System,
    stop: threading.Event,
    *,
    until_idle: bool,
    patience_seconds: float | None,
    report: Callable[[int], None],
    failing: Callable[[str, float], None],
) -> int:
    """Relay until `stop` is set, or with `until_idle` until the outbox is empty. Returns the number of events.

    Raises AlreadyRunning, and what DirectRelay.run raises.
    """
    relayed = 0

    def count(events: int) -> None:
        nonlocal relayed
        relayed += events
        report(events)

    with _hold_lock(system.settings.data_dir):
        sinks = [open_sink(system, name) for name in names(system)]
        appliers = [Applier(system.engine, sink, marks) for sink, marks in sinks]
        refills = [Refill(system.engine, sink, marks, system.store) for sink, marks in sinks]

        def refill() -> int:
            return sum(one.run_round() for one in refills)

        relay = direct_relay(system.engine, appliers, report=count, failing=failing, refill=refill)
        try:
            for sink, _ in sinks:
                sink.ensure()
            with sweep_hourly(system.engine, system.store):
                relay.run(stop, until_idle=until_idle, patience_seconds=patience_seconds)
        finally:
            relay.close()
            for sink, _ in sinks:
                sink.close()
    return relayed


def run_until_signalled(system: System, output: Output, *, until_idle: bool, patience_seconds: float | None) -> int:
    """`run`, until SIGTERM or SIGINT ends it after the current batch. Returns the number of events."""
    if system.settings.kafka is not None:  # both kinds of relay would publish the same rows
        raise SettingsError(f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS is set; with Kafka, use: rag-outbox relay and consume")
    stop = stop_on_signals()
    with output.progress("Relaying events", pending_events(system)) as bar:

        def failing(reason: str, seconds: float) -> None:
            output.note(f"{reason}; again in {seconds:.1f} s")

        return run(
            system,
            stop,
            until_idle=until_idle,
            patience_seconds=patience_seconds,
            report=bar.advance,
            failing=failing,
        )


def pending_events(system: System) -> int:
    """The number of rows in the outbox."""
    with reading(system.engine) as connection:
        return connection.execute(select(func.count()).select_from(outbox)).scalar_one()


@contextmanager
def _hold_lock(data_dir: Path) -> Iterator[None]:
    """Hold the lock of the data folder; the operating system releases it when this process dies."""
    holder = data_dir / "run.json"
    lock = FileLock(data_dir / "run.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with suppress(OSError, ValueError, KeyError):
            by = json.loads(holder.read_text())
            raise AlreadyRunning(f"rag-outbox run holds {data_dir} since {by['since']} (process {by['pid']})") from None
        raise AlreadyRunning(f"another rag-outbox run holds {data_dir}") from None
    try:
        holder.write_text(json.dumps({"pid": os.getpid(), "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"}))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
