"""`rag-outbox run`: relay and sinks in one process, for the embedded profile.

One such process per data folder: it holds the lock `run.lock`.
"""

import json
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from consumers.metrics import ConsumerMetrics
from consumers.refill import mark_all_absent
from operations.cli.output import Output
from operations.errors import OperationError
from operations.monitoring.health import Check
from operations.monitoring.metrics import BacklogMetrics
from operations.monitoring.monitor import Monitor
from operations.monitoring.process import Process
from operations.monitoring.work_log import WorkLog
from operations.processing import TaskMetrics, has_tasks, work, work_in_background
from operations.profiles.embedded_sinks import await_store, open_sinks
from operations.profiles.unapplied import require_applied
from operations.retention.hourly import retain_hourly
from operations.retention.metrics import RetentionMetrics
from operations.retention.run import policies_of_database, policies_of_store
from operations.settings import PREFIX, SettingsError
from operations.signals import stop_on_signals
from operations.sinks import names_in_use, read_all
from operations.staging import sweep_hourly
from operations.wiring import System
from relays.direct import direct_relay
from relays.ports import OutboxRow
from schema.database import history
from schema.database.clock import utc_now
from schema.database.connection import reading
from schema.database.tables import outbox
from schema.failures import DeadLetter, Retryable
from schema.outage import Outage
from schema.retry import call_with_retry
from schema.threads import run_in_background


class AlreadyRunning(OperationError):
    """Raised when `rag-outbox run` already works on this data folder; the message names its process."""


class GaveUp(OperationError):
    """Raised when a sink or the database failed for longer than the patience; the message says why and what waits."""


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

    Raises AlreadyRunning, NotApplied, GaveUp, and what DirectRelay.run raises.
    """
    relayed = 0
    process, work = Process(system, "run"), WorkLog("applied", lambda: _describe_pending(system))
    metrics = ConsumerMetrics(process.registry)
    registered = names_in_use(read_all(system))
    for name in registered:
        metrics.start(name)

    def count(rows: Sequence[OutboxRow], dead: Sequence[DeadLetter]) -> None:
        nonlocal relayed
        relayed += len(rows)
        report(len(rows))
        work.count(len(rows))
        for name in registered:
            metrics.note_done(name, [row.created_at for row in rows], sum(letter.stage == name for letter in dead))

    with ExitStack() as stack:
        stack.enter_context(hold_lock(system.settings.data_dir))
        tracing = stack.enter_context(process.tracing())
        sinks = open_sinks(system, process, metrics, registered, stack)
        appliers = [one.applier for one in sinks]
        relay = direct_relay(
            system.engine,
            appliers if tracing is None else [tracing.traced(one) for one in appliers],
            report=count,
            failing=failing,
            progress=process.metrics.note_progress,
            refill=lambda: sum(one.refill.run_round() for one in sinks if until_idle or one.refill.is_due()),
        )
        stack.callback(relay.close)
        with _raise_gave_up(system, patience_seconds):
            for one in sinks:
                await_store(one, stop, patience_seconds, failing)
        stack.enter_context(_watch(system, process, {one.sink.name: one.sink.ensure for one in sinks}))
        _prepare_new_history(system, registered, stop, patience_seconds, failing)
        began = _read_clock(system)
        stack.enter_context(_tidy_hourly(system, process))
        with _raise_gave_up(system, patience_seconds), _work_on_uploads(system, process, stop, until_idle=until_idle):
            relay.run(stop, until_idle=until_idle, patience_seconds=patience_seconds)
        if until_idle and not stop.is_set():
            require_applied(system.engine, began)
    return relayed


def run_until_signalled(system: System, output: Output, *, until_idle: bool, patience_seconds: float | None) -> int:
    """`run`, until SIGTERM or SIGINT ends it after the current batch. Returns the number of events."""
    if system.settings.kafka is not None:  # both kinds of relay would publish the same rows
        raise SettingsError(f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS is set; with Kafka, use: rag-outbox relay and consume")
    logging.getLogger("operations.monitoring").setLevel(logging.INFO)
    stop = stop_on_signals()
    with output.progress("Relaying events", pending_events(system)) as bar:
        outage = Outage(
            lambda reason, seconds: output.note(f"{reason}; trying again, for {seconds:.0f} s so far"),
            lambda seconds: output.note(f"works again after {seconds:.1f} s"),
        )

        def report(rows: int) -> None:
            outage.note_success()
            bar.advance(rows)

        return run(
            system,
            stop,
            until_idle=until_idle,
            patience_seconds=patience_seconds,
            report=report,
            failing=lambda reason, _seconds: outage.note_failure(reason),
        )


@contextmanager
def _tidy_hourly(system: System, process: Process) -> Iterator[None]:
    """Sweep staged objects, and remove what retention does not keep, until the context ends."""
    policies = [
        *policies_of_database(system.engine, system.settings),
        *policies_of_store(system.engine, system.store, system.settings),
    ]
    metrics = RetentionMetrics(process.registry, [policy.name for policy in policies])
    with sweep_hourly(system.engine, system.store), retain_hourly(system.engine, policies, metrics):
        yield


@contextmanager
def _raise_gave_up(system: System, patience_seconds: float | None) -> Iterator[None]:
    """Raise GaveUp in place of the error that outlasted the patience."""
    try:
        yield
    except Retryable as error:
        if patience_seconds is None:
            raise
        waiting = find_pending(system)
        left = "" if not waiting else f"; {waiting} {'event waits' if waiting == 1 else 'events wait'}"
        raise GaveUp(f"gave up after {patience_seconds:g} s: {error}{left}") from error


def _describe_pending(system: System) -> str:
    waiting = find_pending(system)
    return f"pending={'unknown' if waiting is None else waiting}"


def find_pending(system: System) -> int | None:
    """As `pending_events`; None while the database is away, for a message that must not end the process."""
    try:
        return pending_events(system)
    except DBAPIError:
        return None


def pending_events(system: System) -> int:
    """The number of rows in the outbox."""
    with reading(system.engine) as connection:
        return connection.execute(select(func.count()).select_from(outbox)).scalar_one()


def _prepare_new_history(
    system: System,
    sinks: Collection[str],
    stop: threading.Event,
    patience_seconds: float | None,
    failing: Callable[[str, float], None],
) -> None:
    """Make all documents absent if a history began; retry while the database is busy or away."""
    call_with_retry(
        lambda: _mark_absent_in_new_history(system, sinks),
        stop=stop,
        seconds=patience_seconds,
        report=lambda error, seconds: failing(f"metadata database: {getattr(error, 'orig', error)}", seconds),
    )


def _mark_absent_in_new_history(system: System, sinks: Collection[str]) -> None:
    """The sinks may hold what the database lost, and no topic tells of which documents."""
    with system.engine.begin() as connection:
        history_id = history.lock_identity(connection).history_id
    with reading(system.engine) as connection:
        if history.find_unchecked(connection) is None:
            return
    for sink in sinks:
        mark_all_absent(system.engine, sink, "a new history began")
    with system.engine.begin() as connection:
        history.note_checked(connection, history_id)


def _read_clock(system: System) -> datetime:
    with reading(system.engine) as connection:
        now: datetime = connection.execute(select(utc_now())).scalar_one()
    return now


@contextmanager
def _work_on_uploads(system: System, process: Process, stop: threading.Event, *, until_idle: bool) -> Iterator[None]:
    """Work on uploaded files until the context ends, or with `until_idle` until none is left, before it begins."""
    if system.embedder is None:  # nothing here makes vectors; `rag-outbox process` says so
        yield
        return
    metrics = TaskMetrics(process.registry)
    if until_idle:
        if has_tasks(system):
            work(system, stop, until_idle=True, report=metrics.note)
        yield
        return
    with work_in_background(system, metrics.note, stop.set):
        yield


@contextmanager
def _watch(system: System, process: Process, stores: Mapping[str, Check]) -> Iterator[None]:
    """Serve the metrics of this process and of the backlog, if a port is set; `stores` are checked for its health."""
    if not system.settings.metrics_port:
        yield
        return
    monitor = Monitor(system.engine, BacklogMetrics(process.registry))
    with process.serve(stores), run_in_background(monitor.run, "monitor"):
        yield


@contextmanager
def hold_lock(data_dir: Path) -> Iterator[None]:
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
