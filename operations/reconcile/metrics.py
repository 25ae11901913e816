"""The metrics of `rag-outbox reconcile --every`: what the last run found."""

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from operations.reconcile.difference import DATABASE, KINDS
from operations.reconcile.report import Report


class ReconcileMetrics:
    """Every kind of every compared store has a value from the first run on; before it, nobody knows."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._stores: set[str] = set()
        self._differences = Gauge(
            "rag_outbox_reconcile_differences",
            "Differences that the last run found, by store and kind.",
            ["store", "kind"],
            registry=registry,
        )
        self._last_success = Gauge(
            "rag_outbox_reconcile_last_success_timestamp_seconds",
            "When the last run ended; 0 before the first one.",
            registry=registry,
        )
        self._seconds = Gauge("rag_outbox_reconcile_seconds", "How long the last run took.", registry=registry)
        self._compared = Counter(
            "rag_outbox_reconcile_compared", "Keys that were compared, by store.", ["store"], registry=registry
        )
        self.failures = Counter(
            "rag_outbox_reconcile_failures", "Runs that did not end, since a store did not answer.", registry=registry
        )

    def note(self, report: Report, sinks: Sequence[str]) -> None:
        found = report.findings
        stores = {DATABASE, *sinks}
        for store in self._stores - stores:  # sinks that are no longer compared
            for kind in KINDS:
                self._differences.remove(store, kind)
        self._stores = stores
        for store in sorted(stores):
            for kind in KINDS:
                self._differences.labels(store, kind).set(found.counts[store, kind])
        for store, count in found.compared.items():
            self._compared.labels(store).inc(count)
        self._seconds.set(report.seconds)
        self._last_success.set(time.time())
