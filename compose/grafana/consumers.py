"""*Consumers*: from the topic to every store."""

from collections.abc import Iterator

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Panel

from compose.grafana.overview import TO_EMPTY
from compose.grafana.panels import (
    EVENTS_PER_SECOND,
    INTERVAL,
    Query,
    board,
    graph,
    group,
    number,
    of_kind,
    quantiles,
    sink,
)

_SINK = '{sink=~"$sink"}'
_GROUP = '{consumergroup=~"$group"}'
_LAG = f"sum by (consumergroup) (kafka_consumergroup_lag{_GROUP})"
_APPLIED = f"rate(rag_outbox_applied_total{_SINK}[{INTERVAL}])"
_RARE = {  # legend by counter
    "rag_outbox_late_applies_total": "{{sink}}: written too late",
    "rag_outbox_missing_parts_total": "{{sink}}: part missing",
    "rag_outbox_lost_history_events_total": "{{sink}}: of a lost history",
    "rag_outbox_foreign_events_total": "{{sink}}: of another system",
}


def consumers() -> Dashboard:
    made = board("Consumers", "From the topic to every store.", sink(), group())
    for panel in (*_numbers(), *_lag(), *_work(), *_rare(), *_processes()):
        made.with_panel(panel)
    return made


def _numbers() -> Iterator[Builder[Panel]]:
    yield number(
        "Lag",
        "Offsets that a group has not committed: events, and ends of transactions.",
        "short",
        Query("{{consumergroup}}", _LAG),
        limits=(1_000, 20_000),
        columns=4,
    )
    yield number(
        "Oldest document",
        "That the store lacks, since its commit.",
        "s",
        Query("{{sink}}", f"max by (sink) (rag_outbox_oldest_unapplied_age_seconds{_SINK})"),
        limits=(60, 300),
        columns=4,
    )
    yield number(
        "Time to empty",
        "At the present rate.",
        "dtdurations",
        Query("{{sink}}", TO_EMPTY),
        limits=(300, 3_600),
        columns=4,
    )
    yield number(
        "Partitions without a consumer",
        "Their events stay in Kafka. After two minutes an alert fires.",
        "short",
        Query("{{consumergroup}}", f"rag_outbox_partitions_unassigned{_GROUP}"),
        limits=(1, 1),
        columns=4,
    )


def _lag() -> Iterator[Builder[Panel]]:
    yield graph("Lag", "By group. An idle system has 0.", "short", Query("{{consumergroup}}", _LAG), limits=(20_000,))
    yield graph(
        "Lag by partition",
        "The five longest. One alone: one document is written very often, or one version is very large.",
        "short",
        Query("{{consumergroup}} {{partition}}", f"topk(5, kafka_consumergroup_lag{_GROUP})"),
    )
    yield graph(
        "Documents that the store lacks",
        "Pending: an event is on its way. Absent: a refill brings the document back. Failed: the store refused it.",
        "short",
        Query("{{sink}} {{state}}", f"sum by (sink, state) (rag_outbox_unapplied_documents{_SINK})"),
    )


def _work() -> Iterator[Builder[Panel]]:
    yield graph("Applied", "Events that are done.", EVENTS_PER_SECOND, Query("{{sink}}", f"sum by (sink) ({_APPLIED})"))
    yield graph(
        "Seconds per batch",
        "To apply and mark. High: the store is slow. Empty while nothing is written.",
        "s",
        *quantiles("rag_outbox_apply_seconds", "sink", _SINK),
    )
    yield graph(
        "From the commit to the store",
        "Seconds from the insert of an outbox row to its mark. Empty while nothing is written.",
        "s",
        *quantiles("rag_outbox_end_to_end_seconds", "sink", _SINK),
        limits=(60, 300),
    )


def _rare() -> Iterator[Builder[Panel]]:
    yield graph(
        "Refused",
        "Events that the store refused for good.",
        "short",
        Query(
            "{{stage}}",
            f'sum by (stage) (increase(rag_outbox_dead_letters_total{{stage=~"$sink", stage!="relay"}}[{INTERVAL}]))',
        ),
    )
    yield graph(
        "Refilled",
        "Documents that were brought back without an event.",
        "short",
        Query("{{sink}}", f"sum by (sink) (increase(rag_outbox_refilled_total{_SINK}[{INTERVAL}]))"),
    )
    yield graph(
        "Rare events",
        "All are normally 0. docs/logs.md explains the log line of each.",
        "short",
        *(Query(legend, f"sum by (sink) (increase({metric}{_SINK}[{INTERVAL}]))") for metric, legend in _RARE.items()),
    )


def _processes() -> Iterator[Builder[Panel]]:
    yield graph(
        "Partitions per consumer",
        "That it owns now.",
        "short",
        Query("{{sink}} {{instance}}", f"rag_outbox_consumer_partitions_owned{_SINK}"),
    )
    yield graph(
        "Members", "Of each group.", "short", Query("{{consumergroup}}", f"kafka_consumergroup_members{_GROUP}")
    )
    yield graph(
        "Processor",
        "Processors in use, per consumer.",
        "short",
        Query("{{instance}}", of_kind(f"rate(process_cpu_seconds_total[{INTERVAL}])", "consumer")),
    )
    yield graph(
        "Memory",
        "Resident, per consumer.",
        "bytes",
        Query("{{instance}}", of_kind("process_resident_memory_bytes", "consumer")),
    )
