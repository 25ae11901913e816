"""The consumer loop of one sink, with all that it needs, for a process that may run several of them."""

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consumers.applier import Applier
from consumers.dead_letters import KafkaDeadLetters
from consumers.kafka import KafkaConsumer
from consumers.kafka_subscription import KafkaSubscription
from consumers.metrics import ConsumerMetrics, MeasuredApplier, MeasuredRefill
from consumers.refill import Refill, mark_all_absent
from operations.monitoring.process import Process
from operations.sinks import open_sink
from operations.wiring import System, wait_for_dependency
from schema import sinks as port
from schema.database.connection import probe
from schema.events.events import Envelope
from schema.failures import DeadLetter
from schema.outage import DatabaseOutage
from schema.retry import translate_transient
from schema.threads import DaemonExecutor

if TYPE_CHECKING:
    from operations.tracing import Tracing

_READERS = 8  # requests of a refill to the object store at the same time; its client keeps 10 connections
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shared:
    """What the loops of one process share. `count` is called with the number of events that a loop has done."""

    system: System
    kafka: Mapping[str, Any]
    process: Process
    metrics: ConsumerMetrics
    tracing: "Tracing | None"
    count: Callable[[int], None]


class SinkLoop:
    """Keeps one sink up to date: `open`, then `run` once, then `close`.

    `progress` is called in every round of the loop; setting `stop` ends `run`.
    """

    def __init__(self, shared: Shared, name: str, progress: Callable[[], None]) -> None:
        self.name = name
        self.stop = threading.Event()
        self._shared = shared
        self._progress = progress
        self._opened = ExitStack()
        self._subscription: KafkaSubscription | None = None
        self.check: Callable[[], None] | None = None  # of the store, once it is open

    @property
    def is_member(self) -> bool:
        return self._subscription is not None and self._subscription.is_member

    def open(self, stop: threading.Event) -> None:
        """Open the sink, and wait for its store until `stop` is set. Raises UnknownSink, StoreMissing, OtherSystem."""
        sink, self._sink_marks = open_sink(self._shared.system, self.name, self._progress)
        self._sink = sink
        self._opened.callback(sink.close)
        wait_for_dependency(sink.ensure, self.name, stop)
        self.check = sink.ensure

    def run(self) -> None:
        """Consume until `stop` is set."""
        shared, name = self._shared, self.name
        system, metrics, retries = shared.system, shared.metrics, shared.process.metrics.retries
        subscription = KafkaSubscription(shared.kafka, system.names, name, on_gap=self._mark_gap)
        self._subscription = subscription
        metrics.start(name)
        metrics.partitions_owned.labels(name).set_function(lambda: len(subscription.owned))

        def progress() -> None:
            self._progress()
            metrics.note_foreign(name, subscription.foreign.count)

        def report(applied: Sequence[Envelope], dead: Sequence[DeadLetter]) -> None:
            shared.count(len(applied))
            metrics.note_done(name, [one.headers.get("ce_time", "") for one in applied], len(dead))

        database = DatabaseOutage(system.settings.leave_after_seconds)
        plain = Applier(
            system.engine,
            self._sink,
            self._sink_marks,
            new_executor=lambda: DaemonExecutor("mark"),
            note_database=database.note_success,
        )
        applier: port.Applier = MeasuredApplier(plain, metrics, retries)
        if shared.tracing is not None:
            applier = shared.tracing.traced(applier)
        refill = Refill(system.engine, self._sink, self._sink_marks, system.store, readers=_READERS)
        letters_topic = system.names.dead_letters_topic(name)
        KafkaConsumer(
            applier,
            subscription,
            KafkaDeadLetters(shared.kafka, letters_topic, system.engine, name),
            report=report,
            progress=progress,
            refill=MeasuredRefill(refill, name, metrics, retries),
            database=database,
            probe=self._probe_database,
        ).run(self.stop)

    def close(self) -> None:
        self._opened.close()

    def _mark_gap(self, lanes: Collection[int]) -> None:
        reason = "the topic lost events before they were read"
        marked = mark_all_absent(self._shared.system.engine, self.name, reason, lanes)
        _log.warning("topic_gap_marked sink=%s documents=%d", self.name, marked)

    def _probe_database(self) -> None:
        with translate_transient():
            probe(self._shared.system.engine)
