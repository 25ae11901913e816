"""What every process measures; the metrics of one kind of process are in a `metrics.py` next to its code."""

import threading
import time
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, PlatformCollector, ProcessCollector
from prometheus_client.core import HistogramMetricFamily

WORK_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # of one batch or one write
DELAY_SECONDS = (*WORK_SECONDS, 60, 120, 300, 600, 1_800, 7_200)  # since a commit


class ProcessMetrics:
    """The process as a whole. `kind` is relay, consumer, run or monitor."""

    def __init__(self, registry: CollectorRegistry, kind: str) -> None:
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        information = Gauge(
            "rag_outbox_process_info",
            "The kind and the version of this process; always 1.",
            ["kind", "version"],
            registry=registry,
        )
        information.labels(kind, version("rag-outbox")).set(1)
        self.progress = Gauge(
            "rag_outbox_last_progress_timestamp_seconds",
            "When the main loop last went round, as seconds since 1970; it goes round when idle, too.",
            registry=registry,
        )
        self.dependency_up = Gauge(
            "rag_outbox_dependency_up",
            "Whether the last check reached this store (1) or not (0).",
            ["dependency"],
            registry=registry,
        )
        self.retries = Counter(
            "rag_outbox_retries_total",
            "Attempts that failed and are made again, by the store that failed and its kind of error.",
            ["dependency", "reason"],
            registry=registry,
        )
        self._progressed_at = time.monotonic()
        self.note_progress()

    @property
    def seconds_since_progress(self) -> float:
        return time.monotonic() - self._progressed_at

    def note_progress(self) -> None:
        self._progressed_at = time.monotonic()
        self.progress.set_to_current_time()


class BatchHistogram:
    """A histogram without labels that observes a batch at once: one call per event would slow the relay down.

    `bounds` are the upper bounds of the buckets, in ascending order.
    """

    def __init__(self, name: str, documentation: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)  # cumulative; the last one counts all
        self._sum = 0.0
        self._lock = threading.Lock()
        registry.register(self)

    def observe_many(self, values: Iterable[float], of: int | None = None) -> None:
        """Observe `values`, or `of` observations of which they are an even sample."""
        ordered = sorted(values)
        share = 1.0 if of is None or not ordered else of / len(ordered)
        found = (*(bisect_right(ordered, bound) for bound in self._bounds), len(ordered))
        with self._lock:
            self._counts = [old + round(new * share) for old, new in zip(self._counts, found, strict=True)]
            self._sum += sum(ordered) * share

    def collect(self) -> Iterable[HistogramMetricFamily]:
        with self._lock:
            counts, total = list(self._counts), self._sum
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        family = HistogramMetricFamily(self._name, self._documentation)
        family.add_metric([], list(zip(bounds, counts, strict=True)), total)
        yield family
