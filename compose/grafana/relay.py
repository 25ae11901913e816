"""*Relay*: from the outbox to the topic."""

from collections.abc import Iterator

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Panel

from compose.grafana.panels import EVENTS_PER_SECOND, INTERVAL, Query, board, graph, number, of_kind, quantiles

_PUBLISHED = f"rate(rag_outbox_relay_published_total[{INTERVAL}])"
_RELAYS = 'kafka_consumergroup_members{consumergroup=~".+-relays"}'


def relay() -> Dashboard:
    made = board("Relay", "From the outbox to the topic.")
    for panel in (*_numbers(), *_events(), *_transactions(), *_lanes()):
        made.with_panel(panel)
    return made


def _numbers() -> Iterator[Builder[Panel]]:
    yield number(
        "Published",
        "Events per second, of all relays.",
        EVENTS_PER_SECOND,
        Query("published", f"sum({_PUBLISHED})"),
        columns=4,
    )
    yield number(
        "Oldest event in the outbox",
        "From 60 s on without a published event, an alert fires.",
        "s",
        Query("outbox", "rag_outbox_oldest_pending_age_seconds"),
        limits=(10, 60),
        columns=4,
    )
    yield number("Relays", "Members of their group.", "short", Query("members", f"sum({_RELAYS})"), columns=4)
    yield number(
        "Lanes without a relay",
        "Their events stay in the outbox. After two minutes an alert fires.",
        "short",
        Query("lanes", "rag_outbox_lanes_unassigned"),
        limits=(1, 1),
        columns=4,
    )


def _events() -> Iterator[Builder[Panel]]:
    yield graph("Published events", "Per relay.", EVENTS_PER_SECOND, Query("{{instance}}", _PUBLISHED))
    yield graph(
        "Published bytes",
        "Payload per second and relay.",
        "Bps",
        Query("{{instance}}", f"rate(rag_outbox_relay_published_bytes_total[{INTERVAL}])"),
    )
    yield graph(
        "From the insert to the topic",
        "Seconds from the insert of an outbox row to the commit of its transaction. Empty while nothing is written.",
        "s",
        *quantiles("rag_outbox_relay_publish_seconds"),
        limits=(10, 60),
    )
    yield graph(
        "Events in the outbox", "Committed and not published.", "short", Query("events", "rag_outbox_pending_events")
    )
    yield graph("Bytes in the outbox", "Their payloads.", "bytes", Query("bytes", "rag_outbox_pending_bytes"))
    yield graph(
        "Refused and recovered",
        "Events that Kafka refused for good, and rows that a relay settled for an earlier owner of their lane.",
        "short",
        Query("dead letters", f'sum(increase(rag_outbox_dead_letters_total{{stage="relay"}}[{INTERVAL}]))'),
        Query("recovered", f"sum(increase(rag_outbox_relay_recovered_total[{INTERVAL}]))"),
    )


def _transactions() -> Iterator[Builder[Panel]]:
    batches = f"rate(rag_outbox_relay_batches_total[{INTERVAL}])"
    yield graph(
        "Kafka transactions",
        "By outcome. Undone: Kafka rejected them for now. Fenced: the relay had lost its lanes.",
        "suffix: /s",
        Query("{{outcome}}", f"sum by (outcome) ({batches})"),
    )
    yield graph(
        "Seconds per transaction",
        "Whatever its outcome. Empty while nothing is written.",
        "s",
        *quantiles("rag_outbox_relay_batch_seconds"),
    )
    yield graph(
        "Events per transaction",
        "Few: the relay waits for writers. Many: it works on a backlog. Empty while nothing is written.",
        "short",
        Query(
            "events",
            f'sum({_PUBLISHED}) / sum(rate(rag_outbox_relay_batches_total{{outcome="published"}}[{INTERVAL}]))',
        ),
    )


def _lanes() -> Iterator[Builder[Panel]]:
    yield graph(
        "Lanes per relay", "That it publishes now.", "short", Query("{{instance}}", "rag_outbox_relay_lanes_owned")
    )
    yield graph(
        "Lanes on their way",
        "Arriving: assigned to a relay that settles what the owner before published. Unassigned: nobody has them.",
        "short",
        Query("arriving", "sum(rag_outbox_relay_lanes_arriving)"),
        Query("unassigned", "rag_outbox_lanes_unassigned"),
        limits=(1,),
    )
    yield graph(
        "Processor",
        "Processors in use, per relay. One relay uses a little more than one at most.",
        "short",
        Query("{{instance}}", of_kind(f"rate(process_cpu_seconds_total[{INTERVAL}])", "relay")),
    )
    yield graph(
        "Memory",
        "Resident, per relay.",
        "bytes",
        Query("{{instance}}", of_kind("process_resident_memory_bytes", "relay")),
    )
