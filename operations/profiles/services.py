"""`rag-outbox relay` and `rag-outbox consume SINK`: the processes of the services profile."""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from sqlalchemy.exc import DBAPIError

from operations.settings import PREFIX, SettingsError
from operations.signals import end_in_time
from operations.sinks import names as sink_names
from operations.staging import sweep_hourly
from operations.wiring import System
from relays.ports import OutboxRow
from schema.failures import Retryable
from schema.sinks import MINIO


def relay(system: System, stop: threading.Event) -> int:
    """Publish outbox rows to Kafka until `stop` is set. Returns the number of rows."""
    from operations import history
    from operations.monitoring.process import Process
    from operations.monitoring.work_log import WorkLog
    from relays.kafka import kafka_relay
    from relays.metrics import RelayMetrics
    from schema.kafka.topics import RequiredTopics

    published = 0

    def report(rows: Sequence[OutboxRow]) -> None:
        nonlocal published
        published += len(rows)
        work.count(len(rows))
        if tracing is not None:
            tracing.note_published(rows)

    kafka, names = _kafka(system), system.names
    if system.engine.dialect.name == "sqlite":
        raise SettingsError(f"{PREFIX}DATABASE_URL: the relay to Kafka needs MySQL; with SQLite, use: rag-outbox run")
    _enable_info_logs("relays", "operations")
    topics = RequiredTopics(kafka, [names.documents_topic, names.lanes_topic], system.identity.lanes)
    topics.require()
    end_in_time(stop)
    process, work = Process(system, "relay"), WorkLog("published")
    relay = kafka_relay(
        system.engine,
        names,
        kafka,
        lanes=system.identity.lanes,
        leave_after_seconds=system.settings.leave_after_seconds,
        check_history=lambda is_stopped: history.check_if_due(system.engine, names, kafka, is_stopped),
        report=report,
        metrics=None if system.settings.metrics_port == 0 else RelayMetrics(process.registry),
        progress=process.metrics.note_progress,
    )
    with process.tracing() as tracing, process.serve({"topics": topics.check}, is_member=lambda: relay.is_member):
        relay.run(stop)
    return published


def consume(system: System, kind: str, stop: threading.Event) -> int:
    """Apply events to every sink of a kind until `stop` is set. Returns the number of events."""
    from consumers.metrics import ConsumerMetrics
    from operations.monitoring.process import Process
    from operations.monitoring.work_log import WorkLog
    from operations.profiles.sink_loop import Shared
    from operations.profiles.sink_loops import SinkLoops
    from schema.kafka.topics import RequiredTopics

    consumed = 0
    lock = threading.Lock()

    def count(events: int) -> None:
        nonlocal consumed
        with lock:
            consumed += events
            work.count(events)

    kafka, names = _kafka(system), system.names
    _enable_info_logs("consumers", "operations")
    end_in_time(stop)
    process, work = Process(system, "consumer"), WorkLog(f"applied sink={kind}")
    with ExitStack() as stack:
        tracing = stack.enter_context(process.tracing())
        loops = SinkLoops(Shared(system, kafka, process, ConsumerMetrics(process.registry), tracing, count), kind)
        first = loops.open_first(stop)
        for loop in first:
            stack.callback(loop.close)
        topics = RequiredTopics(kafka, [names.documents_topic], system.identity.lanes)
        topics.require()
        if kind == MINIO:
            stack.enter_context(_tidy_store_hourly(system))
        serving = process.serve({"topics": topics.check}, lambda: loops.is_member, loops.find_checks)
        stack.enter_context(serving)
        loops.run(first, stop)
    return consumed


@contextmanager
def _tidy_store_hourly(system: System) -> Iterator[None]:
    """Sweep staged objects, and remove what retention does not keep in the object store, until the context ends."""
    from operations.retention.hourly import retain_hourly
    from operations.retention.run import policies_of_store

    policies = policies_of_store(system.engine, system.store, system.settings)
    with sweep_hourly(system.engine, system.store), retain_hourly(system.engine, policies):
        yield


def monitor(system: System, stop: threading.Event) -> None:
    """Watch the backlog, and remove what retention does not keep, until `stop` is set."""
    from operations.monitoring.kafka_backlog import KafkaBacklog
    from operations.monitoring.metrics import BacklogMetrics
    from operations.monitoring.monitor import Monitor
    from operations.monitoring.process import Process
    from operations.retention.hourly import retain_hourly
    from operations.retention.metrics import RetentionMetrics
    from operations.retention.policy import ARCHIVES
    from operations.retention.run import policies_of_database

    names, kafka = system.names, _kafka(system)
    _enable_info_logs("operations")
    process = Process(system, "monitor")
    policies = policies_of_database(system.engine, system.settings)
    in_store = [ARCHIVES] if system.settings.retention_archives_days else []  # `consume minio` works on it
    retention = RetentionMetrics(process.registry, [*(policy.name for policy in policies), *in_store])
    metrics = BacklogMetrics(process.registry, names.relays_group)
    known = sink_names(system)

    def find_sinks() -> list[str]:
        nonlocal known
        with suppress(DBAPIError):  # Kafka is watched also while the database is away
            known = sink_names(system)
        return known

    groups = KafkaBacklog(kafka, names, system.identity.lanes, find_sinks)

    def check_kafka() -> None:
        if not metrics.up.get("kafka"):
            raise Retryable("the last look failed, or there was none")

    with process.serve({"kafka": check_kafka}), retain_hourly(system.engine, policies, retention):
        Monitor(system.engine, metrics, groups).run(stop, process.metrics.note_progress)


def _enable_info_logs(*packages: str) -> None:
    """A long-running process logs its routine changes, too: a relay, for instance, the lanes that it gets and loses."""
    for package in packages:
        logging.getLogger(package).setLevel(logging.INFO)


def _kafka(system: System) -> dict[str, str]:
    kafka = system.settings.kafka
    if kafka is None:
        raise SettingsError(f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS is not set; without Kafka, use: rag-outbox run")
    return kafka
