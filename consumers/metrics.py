"""The metrics of a consumer, and an applier and a refill that record them."""

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from consumers.applier import Applier
from consumers.refill import Refill
from schema.events.events import Envelope
from schema.failures import DatabaseAway, DeadLetter, Retryable
from schema.metrics import DELAY_SECONDS, WORK_SECONDS

_FOUND = {  # in Applier.counts
    "lost_history": ("rag_outbox_lost_history_events_total", "Events of a lost history; none is applied."),
    "part_missing": ("rag_outbox_missing_parts_total", "Versions that wait for a part that has not arrived."),
    "applied_late": (
        "rag_outbox_late_applies_total",
        "Versions that a consumer wrote after losing the partition; the document is refilled.",
    ),
}


class ConsumerMetrics:
    """Counts what the sink holds and the marks show."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.applied = Counter(
            "rag_outbox_applied_total",
            "Events that are done: the sink holds them or a newer version, and the marks are committed.",
            ["sink"],
            registry=registry,
        )
        self.apply_seconds = Histogram(
            "rag_outbox_apply_seconds",
            "Seconds to apply and mark a batch; failed attempts are not counted.",
            ["sink"],
            buckets=WORK_SECONDS,
            registry=registry,
        )
        self.end_to_end_seconds = Histogram(
            "rag_outbox_end_to_end_seconds",
            "Seconds from the insert of an outbox row to the mark of its event in the sink.",
            ["sink"],
            buckets=DELAY_SECONDS,
            registry=registry,
        )
        self.dead_letters = Counter(
            "rag_outbox_dead_letters_total",
            "Events that became dead letters, by the stage that refused them.",
            ["stage"],
            registry=registry,
        )
        self.refilled = Counter(
            "rag_outbox_refilled_total",
            "Documents that were brought back from the metadata database and the archive.",
            ["sink"],
            registry=registry,
        )
        self.failing = Gauge(
            "rag_outbox_failing_documents",
            "Documents on which the sink has failed for over five minutes while its store answers; the log names them.",
            ["sink"],
            registry=registry,
        )
        self.foreign = Counter(
            "rag_outbox_foreign_events_total",
            "Events of another system in a shared topic; none is applied.",
            ["sink"],
            registry=registry,
        )
        self._foreign: dict[str, int] = {}
        self.partitions_owned = Gauge(
            "rag_outbox_consumer_partitions_owned",
            "Partitions of the documents' topic that this consumer owns now.",
            ["sink"],
            registry=registry,
        )
        self.found = {
            name: Counter(metric, text, ["sink"], registry=registry) for name, (metric, text) in _FOUND.items()
        }

    def start(self, sink: str) -> None:
        """Let every series of this sink begin at 0: a counter that appears with 1 shows no increase."""
        for metric in (self.applied, self.apply_seconds, self.end_to_end_seconds, self.refilled, self.foreign):
            metric.labels(sink)
        for counter in self.found.values():
            counter.labels(sink)
        self.dead_letters.labels(sink)

    def note_foreign(self, sink: str, count: int) -> None:
        """`count`: all that this process has seen."""
        self.foreign.labels(sink).inc(count - self._foreign.get(sink, 0))
        self._foreign[sink] = count

    def note_done(self, sink: str, created_at: Collection[str], dead: int) -> None:
        """Events that are marked, or stored as dead letters; `created_at`: when their outbox rows were inserted."""
        self.applied.labels(sink).inc(len(created_at) - dead)
        self.dead_letters.labels(sink).inc(dead)
        now = datetime.now(UTC)
        for inserted in created_at:
            with suppress(ValueError, TypeError):  # another producer may write anything, or leave out the zone
                age = (now - datetime.fromisoformat(inserted)).total_seconds()
                self.end_to_end_seconds.labels(sink).observe(max(age, 0.0))


class MeasuredApplier:
    """An applier that records what it does."""

    def __init__(self, applier: Applier, metrics: ConsumerMetrics, retries: Counter) -> None:
        self._applier = applier
        self._metrics = metrics
        self._retries = retries
        self._found = dict(applier.counts)
        metrics.failing.labels(applier.name).set_function(applier.count_failing)

    @property
    def name(self) -> str:
        return self._applier.name

    def apply(self, envelopes: Sequence[Envelope]) -> list[DeadLetter]:
        began = time.monotonic()
        try:
            dead = self._applier.apply(envelopes)
        except DatabaseAway:  # counted by its engine
            raise
        except Retryable as error:
            self._retries.labels(self.name, reason_of(error)).inc()
            raise
        finally:
            self._note_found()
        self._metrics.apply_seconds.labels(self.name).observe(time.monotonic() - began)
        return dead

    def _note_found(self) -> None:
        for name, counter in self._metrics.found.items():
            found = self._applier.counts[name]
            counter.labels(self.name).inc(found - self._found.get(name, 0))
            self._found[name] = found


class MeasuredRefill:
    """A refill that records what it does; see `consumers.refill`."""

    def __init__(self, refill: Refill, sink: str, metrics: ConsumerMetrics, retries: Counter) -> None:
        self._refill = refill
        self._sink = sink
        self._metrics = metrics
        self._retries = retries

    def is_due(self) -> bool:
        return self._refill.is_due()

    def mark_written(self) -> None:
        self._refill.mark_written()

    def run_round(self, lanes: Collection[int] | None = None) -> int:
        try:
            refilled = self._refill.run_round(lanes)
        except DatabaseAway:  # counted by its engine
            raise
        except Retryable as error:
            self._retries.labels(self._sink, reason_of(error)).inc()
            raise
        self._metrics.refilled.labels(self._sink).inc(refilled)
        return refilled


def reason_of(error: Retryable) -> str:
    """The kind of error behind a failed attempt; its message has too many forms for a label."""
    return type(error.__cause__ or error).__name__
