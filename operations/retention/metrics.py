"""The metrics of retention, from the table `retention_runs`: what every process and command did."""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

Family = CounterMetricFamily | GaugeMetricFamily


class RetentionMetrics:
    """Gives what was read last of the policies `names`; nothing if it could not be read."""

    def __init__(self, registry: CollectorRegistry, names: Collection[str]) -> None:
        self.runs: Mapping[str, Any] = {}  # rows of `retention_runs` by policy
        self._names = frozenset(names)
        registry.register(self)

    def collect(self) -> Iterable[Family]:
        rows = [row for name, row in sorted(self.runs.items()) if name in self._names]
        removed = CounterMetricFamily(
            "rag_outbox_retention_removed_total",
            "Rows, documents or objects that retention removed, by all processes.",
            labels=["policy"],
        )
        success = GaugeMetricFamily(
            "rag_outbox_retention_last_success_timestamp_seconds",
            "When the last run of the policy ended without an error.",
            labels=["policy"],
        )
        seconds = GaugeMetricFamily(
            "rag_outbox_retention_seconds", "How long the last run of the policy took.", labels=["policy"]
        )
        blocked = GaugeMetricFamily(
            "rag_outbox_retention_blocked",
            "What is old enough and must be kept for now, as the last whole run of the policy found it.",
            labels=["policy"],
        )
        for row in rows:
            labels = [row.policy]
            removed.add_metric(labels, row.removed)
            if row.ended_at is not None:
                success.add_metric(labels, row.ended_at.replace(tzinfo=UTC).timestamp())
                seconds.add_metric(labels, row.seconds)
                blocked.add_metric(labels, row.blocked)
        return removed, success, seconds, blocked
