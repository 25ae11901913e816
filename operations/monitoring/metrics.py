"""The metrics of the monitor: the state of the whole system, which no other process knows."""

from collections.abc import Iterable, Mapping
from datetime import UTC

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily

from operations.backup.newest import NewestBackup
from operations.monitoring.backlog import Backlog, GroupBacklog

Sample = tuple[tuple[str, ...], float]

_SINGLE = {  # fields of Backlog
    "pending_events": ("rag_outbox_pending_events", "Events in the outbox: committed, and not published yet."),
    "pending_bytes": ("rag_outbox_pending_bytes", "Payload bytes of the events in the outbox."),
    "oldest_pending_age_seconds": (
        "rag_outbox_oldest_pending_age_seconds",
        "Age of the oldest event in the outbox; 0 when it is empty.",
    ),
    "oldest_task_age_seconds": (
        "rag_outbox_oldest_task_age_seconds",
        "How long the oldest queued task of the task queue could have been run; 0 when none is queued.",
    ),
    "suspects": ("rag_outbox_suspects", "Documents that an event of a lost history was seen for."),
    "unchecked_histories": (
        "rag_outbox_unchecked_histories",
        "Histories that began after a failover, and whose lost events have not been searched for yet.",
    ),
    "history_list_length": (
        "rag_outbox_history_list_length",
        "InnoDB's old row versions that wait for purge; a transaction that stays open makes it grow.",
    ),
}


class BacklogMetrics:
    """Gives what was read last; what could not be read has no samples, so that nobody believes an old value."""

    def __init__(self, registry: CollectorRegistry, relays_group: str = "") -> None:
        self.backlog: Backlog | None = None
        self.groups: Mapping[str, GroupBacklog] | None = None
        self.up: dict[str, bool] = {}  # by source
        self._relays_group = relays_group
        registry.register(self)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        yield _family(
            "rag_outbox_monitor_up",
            "Whether the monitor's last look at this source (database, kafka) succeeded.",
            ["source"],
            [((source,), float(is_up)) for source, is_up in self.up.items()],
        )
        yield from _of_database(self.backlog)
        yield from _of_backups({} if self.backlog is None else self.backlog.backups)
        yield from _of_kafka(self.groups, self._relays_group)


def _of_database(backlog: Backlog | None) -> Iterable[GaugeMetricFamily]:
    for field, (name, text) in _SINGLE.items():
        value = None if backlog is None else getattr(backlog, field)
        yield _family(name, text, [], [] if value is None else [((), value)])
    yield _family(
        "rag_outbox_unfinished_documents",
        "Documents that are not completed, by status.",
        ["status"],
        [] if backlog is None else [((status,), count) for status, count in backlog.documents.items()],
    )
    yield _family(
        "rag_outbox_tasks",
        "Tasks of the task queue that are queued, running or failed.",
        ["status"],
        [] if backlog is None else [((status,), count) for status, count in backlog.tasks.items()],
    )
    sinks = {} if backlog is None else backlog.sinks
    yield _family(
        "rag_outbox_unapplied_documents",
        "Documents whose version the sink does not hold, by state: pending, absent (it is refilled) or failed.",
        ["sink", "state"],
        [((sink, state), count) for sink, one in sinks.items() for state, count in one.documents.items()],
    )
    yield _family(
        "rag_outbox_oldest_unapplied_age_seconds",
        "How long the oldest document has waited for the sink; 0 when none waits. A failed one does not wait.",
        ["sink"],
        [((sink,), one.oldest_age_seconds) for sink, one in sinks.items()],
    )
    yield _family(
        "rag_outbox_open_dead_letters",
        "Dead letters that were not replayed or discarded and have no newer version, by the stage that refused them.",
        ["stage"],
        [] if backlog is None else [((stage,), count) for stage, count in backlog.dead_letters.items()],
    )


def _of_backups(backups: Mapping[str, NewestBackup]) -> Iterable[GaugeMetricFamily]:
    yield _family(
        "rag_outbox_backup_newest_timestamp_seconds",
        "When the newest complete backup was made, by place: bucket, or copy; 0: one was begun, and none has ended.",
        ["place"],
        [
            ((place,), 0.0 if one.made_at is None else one.made_at.replace(tzinfo=UTC).timestamp())
            for place, one in backups.items()
        ],
    )
    made = {place: one for place, one in backups.items() if one.made_at is not None}
    yield _family(
        "rag_outbox_backup_size_bytes",
        "Bytes of the newest complete backup: the dump and, in a copy, the objects.",
        ["place"],
        [((place,), one.size_bytes) for place, one in made.items()],
    )
    yield _family(
        "rag_outbox_backup_seconds",
        "How long the newest complete backup took.",
        ["place"],
        [((place,), one.seconds) for place, one in made.items() if one.seconds is not None],
    )


def _of_kafka(groups: Mapping[str, GroupBacklog] | None, relays_group: str) -> Iterable[GaugeMetricFamily]:
    found = groups or {}
    lag = [
        ((group, topic, str(number)), count)
        for group, backlog in found.items()
        for (topic, number), count in backlog.lag.items()
    ]
    yield _family(
        "kafka_consumergroup_lag",
        "Offsets that a consumer may read and its group has not committed; 0 when the group is idle.",
        ["consumergroup", "topic", "partition"],
        lag,
    )
    yield _family(
        "kafka_consumergroup_members",
        "Members of a consumer group.",
        ["consumergroup"],
        [((group,), backlog.members) for group, backlog in found.items()],
    )
    relays = found.get(relays_group)
    yield _family(
        "rag_outbox_lanes_unassigned",
        "Lanes without a relay: their events stay in the outbox.",
        [],
        [] if relays is None else [((), relays.unassigned)],
    )
    yield _family(
        "rag_outbox_partitions_unassigned",
        "Partitions of the documents' topic without a consumer of this group.",
        ["consumergroup"],
        [((group,), backlog.unassigned) for group, backlog in found.items() if group != relays_group],
    )


def _family(name: str, text: str, labels: list[str], samples: Iterable[Sample]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
