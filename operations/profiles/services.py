"""`rag-outbox relay` and `rag-outbox consume SINK`: the processes of the services profile."""

import logging
from contextlib import ExitStack
from typing import Any

from operations.settings import PREFIX, SettingsError
from operations.signals import stop_on_signals
from operations.sinks import open_sink
from operations.staging import sweep_hourly
from operations.wiring import System
from schema.sinks import MINIO


def relay(system: System) -> int:
    """Publish outbox rows to Kafka until SIGTERM or SIGINT. Returns the number of rows."""
    from operations import history
    from relays.kafka import kafka_relay

    published = 0

    def report(rows: Any) -> None:
        nonlocal published
        published += len(rows)

    kafka, names = _kafka(system), system.names
    if system.engine.dialect.name == "sqlite":
        raise SettingsError(f"{PREFIX}DATABASE_URL: the relay to Kafka needs MySQL; with SQLite, use: rag-outbox run")
    _enable_info_logs("relays")
    _enable_info_logs("operations")  # the check of a new history
    stop = stop_on_signals()
    kafka_relay(
        system.engine,
        names,
        kafka,
        lanes=system.identity.lanes,
        check_history=lambda is_stopped: history.check_if_due(system.engine, names, kafka, is_stopped),
        report=report,
    ).run(stop)
    return published


def consume(system: System, sink_name: str) -> int:
    """Apply events to one sink until SIGTERM or SIGINT. Returns the number of events."""
    from consumers.applier import Applier
    from consumers.dead_letters import KafkaDeadLetters
    from consumers.kafka import KafkaConsumer
    from consumers.kafka_subscription import KafkaSubscription
    from consumers.refill import Refill

    consumed = 0

    def report(applied: Any, _dead: Any) -> None:
        nonlocal consumed
        consumed += len(applied)

    kafka, names = _kafka(system), system.names
    _enable_info_logs("consumers")
    _enable_info_logs("operations.staging")
    stop = stop_on_signals()
    with ExitStack() as stack:
        sink, sink_marks = open_sink(system, sink_name)
        stack.callback(sink.close)
        sink.ensure()
        if sink_name == MINIO:
            stack.enter_context(sweep_hourly(system.engine, system.store))
        KafkaConsumer(
            Applier(system.engine, sink, sink_marks),
            KafkaSubscription(kafka, names, sink_name),
            KafkaDeadLetters(kafka, names.dead_letters_topic(sink_name), system.engine, sink_name),
            report=report,
            refill=Refill(system.engine, sink, sink_marks, system.store),
        ).run(stop)
    return consumed


def _enable_info_logs(package: str) -> None:
    """A long-running process logs its routine changes, too: a relay, for instance, the lanes that it gets and loses."""
    logging.getLogger(package).setLevel(logging.INFO)


def _kafka(system: System) -> dict[str, str]:
    kafka = system.settings.kafka
    if kafka is None:
        raise SettingsError(f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS is not set; without Kafka, use: rag-outbox run")
    return kafka
