"""*Overview*: is everything current? From the commit through the topic to every store."""

from collections.abc import Iterator

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Panel

from compose.grafana.panels import (
    EVENTS_PER_SECOND,
    INTERVAL,
    Query,
    board,
    graph,
    group,
    number,
    quantiles,
    sink,
)

_SINK = '{sink=~"$sink"}'
_GROUP = '{consumergroup=~"$group"}'
_AGE = f"max by (sink) (rag_outbox_oldest_unapplied_age_seconds{_SINK})"
_APPLIED = f"sum by (sink) (rate(rag_outbox_applied_total{_SINK}[{INTERVAL}]))"
_WAITING = 'sum by (sink) (rag_outbox_unapplied_documents{sink=~"$sink", state!="failed"})'
# Without a consumer there is no rate: it is then 0, and the time is long. Below one event per 1,000 s, too.
TO_EMPTY = f"{_WAITING} / clamp_min({_APPLIED} or 0 * {_WAITING}, 0.001)"
COMMITTED = (
    f"clamp_min(sum(rate(rag_outbox_relay_published_total[{INTERVAL}]))"
    f" + sum(deriv(rag_outbox_pending_events[{INTERVAL}])), 0)"
)


def overview() -> Dashboard:
    made = board("Overview", "Is everything current? From the commit to every store.", sink(), group())
    for panel in (*_numbers(), *_way(), *_work()):
        made.with_panel(panel)
    return made


def _numbers() -> Iterator[Builder[Panel]]:
    yield number(
        "Oldest event in the outbox",
        "Committed and not published yet. 0 when the outbox is empty. Publishing takes less than a second.",
        "s",
        Query("outbox", "rag_outbox_oldest_pending_age_seconds"),
        limits=(10, 60),
    )
    yield number(
        "Oldest document that a store lacks",
        "Since its commit. 0 when the store holds every document. From 300 s on, an alert fires.",
        "s",
        Query("{{sink}}", _AGE),
        limits=(60, 300),
    )
    yield number(
        "Documents not completed",
        "At least one required sink does not hold their newest version.",
        "short",
        Query("documents", "sum(rag_outbox_unfinished_documents)"),
        limits=(1_000, 100_000),
    )
    yield number(
        "Time to empty",
        "At the present rate. Very long: nothing is applied.",
        "dtdurations",
        Query("{{sink}}", TO_EMPTY),
        limits=(300, 3_600),
    )
    yield number(
        "Refused",
        "Dead letters of the last hour, and documents that are failed now. Each needs a person.",
        "short",
        Query("dead letters", "sum(increase(rag_outbox_dead_letters_total[1h]))"),
        Query("failed", 'sum(rag_outbox_unfinished_documents{status="failed"})'),
        limits=(1, 10),
    )
    yield number(
        "Alerts",
        "Alerts that fire now; docs/runbooks has a page for each.",
        "short",
        Query("firing", 'count(ALERTS{alertstate="firing"}) or vector(0)'),
        limits=(1, 3),
    )


def _way() -> Iterator[Builder[Panel]]:
    yield graph(
        "Offsets that wait",
        "Events in the outbox, and offsets that a group has not read: each event and each end of a transaction is one. "
        "The first that grows is the slow one.",
        "short",
        Query("outbox", "rag_outbox_pending_events"),
        Query("{{consumergroup}}", f"sum by (consumergroup) (kafka_consumergroup_lag{_GROUP})"),
    )
    yield graph(
        "Oldest age",
        "Of the oldest event in the outbox, and of the oldest document that each store lacks.",
        "s",
        Query("outbox", "rag_outbox_oldest_pending_age_seconds"),
        Query("{{sink}}", _AGE),
        limits=(60, 300),
    )
    yield graph(
        "Rate in and out",
        "Committed is computed: published, plus the growth of the outbox. Lines apart for long: a backlog grows.",
        EVENTS_PER_SECOND,
        Query("committed", COMMITTED),
        Query("published", f"sum(rate(rag_outbox_relay_published_total[{INTERVAL}]))"),
        Query("applied, {{sink}}", _APPLIED),
    )


def _work() -> Iterator[Builder[Panel]]:
    yield graph(
        "From the commit to the store",
        "Seconds from the insert of an outbox row to its mark. Empty while nothing is written.",
        "s",
        *quantiles("rag_outbox_end_to_end_seconds", "sink", _SINK),
        limits=(60, 300),
    )
    yield graph(
        "Documents not completed",
        "By status. Failed ones stay until they are written again.",
        "short",
        Query("{{status}}", "sum by (status) (rag_outbox_unfinished_documents)"),
    )
    yield graph("Time to empty", "At the rate of each moment.", "s", Query("{{sink}}", TO_EMPTY))
    yield graph(
        "Dead letters",
        "Events that were refused for good, by the stage that refused them.",
        "short",
        Query("{{stage}}", f"sum by (stage) (increase(rag_outbox_dead_letters_total[{INTERVAL}]))"),
    )
    yield graph(
        "Without an owner",
        "Lanes without a relay and partitions without a consumer. 0, but for seconds after a process left.",
        "short",
        Query("lanes", "rag_outbox_lanes_unassigned"),
        Query("{{consumergroup}}", f"rag_outbox_partitions_unassigned{_GROUP}"),
        limits=(1,),
    )
    yield graph(
        "Processes",
        "By kind, that Prometheus reaches.",
        "short",
        Query("{{kind}}", "count by (kind) (rag_outbox_process_info)"),
    )
