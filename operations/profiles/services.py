"""`rag-outbox relay` and `rag-outbox consume SINK`: the processes of the services profile."""

import logging
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from operations.settings import PREFIX, SettingsError
from operations.signals import end_in_time
from operations.sinks import names as sink_names
from operations.sinks import open_sink
from operations.staging import sweep_hourly
from operations.wiring import System, wait_for_dependency
from relays.ports import OutboxRow
from schema import sinks as port
from schema.database.connection import probe
from schema.events.events import Envelope
from schema.failures import DeadLetter, Retryable
from schema.outage import DatabaseOutage
from schema.retry import translate_transient
from schema.sinks import MINIO
from schema.threads import DaemonExecutor


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


def consume(system: System, sink_name: str, stop: threading.Event) -> int:
    """Apply events to one sink until `stop` is set. Returns the number of events."""
    from consumers.applier import Applier
    from consumers.dead_letters import KafkaDeadLetters
    from consumers.kafka import KafkaConsumer
    from consumers.kafka_subscription import KafkaSubscription
    from consumers.metrics import ConsumerMetrics, MeasuredApplier, MeasuredRefill
    from consumers.refill import Refill, mark_all_absent
    from operations.monitoring.process import Process
    from operations.monitoring.work_log import WorkLog
    from schema.kafka.topics import RequiredTopics

    consumed = 0

    def report(applied: Sequence[Envelope], dead: Sequence[DeadLetter]) -> None:
        nonlocal consumed
        consumed += len(applied)
        work.count(len(applied))
        metrics.note_done(sink_name, [one.headers.get("ce_time", "") for one in applied], len(dead))

    kafka, names = _kafka(system), system.names
    _enable_info_logs("consumers", "operations")
    end_in_time(stop)
    process, work = Process(system, "consumer"), WorkLog(f"applied sink={sink_name}")
    metrics, retries = ConsumerMetrics(process.registry), process.metrics.retries
    with ExitStack() as stack:
        sink, sink_marks = open_sink(system, sink_name)
        stack.callback(sink.close)
        wait_for_dependency(sink.ensure, sink_name, stop)
        topics = RequiredTopics(kafka, [names.documents_topic], system.identity.lanes)
        topics.require()
        if sink_name == MINIO:
            stack.enter_context(_tidying_store(system))

        def mark_gap(lanes: Collection[int]) -> None:
            marked = mark_all_absent(system.engine, sink_name, "the topic lost events before they were read", lanes)
            logging.getLogger(__name__).warning("topic_gap_marked sink=%s documents=%d", sink_name, marked)

        subscription = KafkaSubscription(kafka, names, sink_name, on_gap=mark_gap)
        metrics.start(sink_name)

        def progress() -> None:
            process.metrics.note_progress()
            metrics.note_foreign(sink_name, subscription.foreign.count)

        def probe_database() -> None:
            with translate_transient():
                probe(system.engine)

        metrics.partitions_owned.labels(sink_name).set_function(lambda: len(subscription.owned))
        database = DatabaseOutage(system.settings.leave_after_seconds)
        plain = Applier(
            system.engine,
            sink,
            sink_marks,
            new_executor=lambda: DaemonExecutor("mark"),
            note_database=database.note_success,
        )
        applier: port.Applier = MeasuredApplier(plain, metrics, retries)
        if (tracing := stack.enter_context(process.tracing())) is not None:
            applier = tracing.traced(applier)
        checks = {sink_name: sink.ensure, "topics": topics.check}
        stack.enter_context(process.serve(checks, is_member=lambda: subscription.is_member))
        KafkaConsumer(
            applier,
            subscription,
            KafkaDeadLetters(kafka, names.dead_letters_topic(sink_name), system.engine, sink_name),
            report=report,
            progress=progress,
            refill=MeasuredRefill(Refill(system.engine, sink, sink_marks, system.store), sink_name, metrics, retries),
            database=database,
            probe=probe_database,
        ).run(stop)
    return consumed


@contextmanager
def _tidying_store(system: System) -> Iterator[None]:
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
    groups = KafkaBacklog(kafka, names, system.identity.lanes, sink_names(system))

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
