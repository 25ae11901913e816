"""The conditions of the alert rules that the console can see, each with what it found.

The limits are those of compose/prometheus/rules.yml; what a rule says about processes and disks only Prometheus knows.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from operations.monitoring.backlog import Backlog, GroupBacklog, SinkBacklog
from operations.web.console.live import Rates, Sample, Sampler, waiting_in

PUBLISH_SECONDS = 60.0
APPLY_SECONDS = 300.0
TASK_SECONDS = 300.0
POSTPONED_SECONDS = 20.0  # an event on its way ends shorter ones
LAG_OFFSETS = 20_000
OLD_ROW_VERSIONS = 100_000
BACKUP_SECONDS = 108_000.0
STALE_SECONDS = 20.0  # a look that takes so long hangs, and the numbers are those before it

OK, WARNING, CRITICAL = "ok", "warning", "critical"
_ORDER = (CRITICAL, WARNING, OK)


@dataclass(frozen=True)
class Condition:
    """`name` is the key of its texts; `seconds` is an age that the template formats; `link` is a page that shows more.

    `runbook` is a page in `folder`.
    """

    name: str
    level: str
    runbook: str
    values: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    link: str | None = None
    folder: str = "docs/runbooks"


def judge(sampler: Sampler) -> list[Condition]:
    """The most urgent first."""
    samples = sampler.samples
    found = list(_judge_sources(sampler, samples[-1] if samples else None))
    if samples and (backlog := samples[-1].backlog) is not None:
        found += _judge_backlog(backlog, sampler.rates())
    if sampler.groups is not None:
        found += _judge_groups(sampler.groups)
    if sampler.report is not None:
        count = sampler.report["differences"]
        level = WARNING if count else OK
        found.append(Condition("differences", level, "reconcile-differences", {"n": count}, link="/consistency"))
    return sorted(found, key=lambda one: _ORDER.index(one.level))


def _judge_sources(sampler: Sampler, last: Sample | None) -> Iterator[Condition]:
    if last is not None:
        age = time.time() - last.at
        if age > STALE_SECONDS:
            yield Condition("stale", CRITICAL, "monitor-blind", seconds=age)
        level = OK if last.problem is None else CRITICAL
        yield Condition("database", level, "store-unreachable", {"reason": last.problem or ""})
    if sampler.has_kafka and (sampler.groups is not None or sampler.kafka_problem is not None):
        level = OK if sampler.kafka_problem is None else CRITICAL
        yield Condition("kafka", level, "store-unreachable", {"reason": sampler.kafka_problem or ""})


def _judge_backlog(now: Backlog, rates: Rates) -> Iterator[Condition]:
    waits = now.oldest_pending_age_seconds
    stands = waits > PUBLISH_SECONDS and rates.done.get("outbox", 0.0) == 0
    level = CRITICAL if stands else OK
    yield Condition("publishing", level, "relay-not-publishing", {"n": now.pending_events}, seconds=waits)
    for name, sink in now.sinks.items():
        if sink.role == "leaving":
            continue
        if sink.role == "joining":
            yield _judge_joining(name, sink)
            continue
        level = WARNING if sink.oldest_age_seconds > APPLY_SECONDS else OK
        yield Condition("sink_age", level, "oldest-age-high", {"sink": name}, seconds=sink.oldest_age_seconds)
        if sink.postponed_seconds > POSTPONED_SECONDS:
            yield Condition("sink_lacks", WARNING, "oldest-age-high", {"sink": name}, link="/documents?state=pending")
    failed = now.documents.get("failed", 0)
    link = "/documents?state=failed"
    yield Condition("failed", WARNING if failed else OK, "dead-letters-rising", {"n": failed}, link=link)
    letters = sum(now.dead_letters.values())
    level = WARNING if letters else OK
    yield Condition("dead_letters", level, "dead-letters-rising", {"n": letters}, link="/dead-letters")
    yield from _judge_tasks(now)
    for place, backup in now.backups.items():
        name = f"backup_{place}" if backup.made_at is not None else "backup_unended"
        level = WARNING if backup.age_seconds > BACKUP_SECONDS else OK
        yield Condition(name, level, "backup-too-old", {"place": place}, seconds=backup.age_seconds)
    if now.unchecked_histories:
        yield Condition("history", WARNING, "unchecked-history", {"n": now.unchecked_histories})
    length = now.history_list_length
    if length is not None:
        level = WARNING if length > OLD_ROW_VERSIONS else OK
        yield Condition("row_versions", level, "history-list-growing", {"n": length})


def _judge_joining(name: str, sink: SinkBacklog) -> Condition:
    """Its age says nothing: every document waits for it since it began to join."""
    if refused := sink.documents.get("failed", 0):
        return Condition("sink_joins", WARNING, "rebuild", {"sink": name, "n": refused})
    return Condition("sink_joins", OK, "rebuild", {"sink": name, "n": waiting_in(sink.documents)})


def _judge_tasks(now: Backlog) -> Iterator[Condition]:
    """Nothing for a system that does not use the queue."""
    if not any(now.tasks.values()):
        return
    queued, failed = now.tasks.get("queued", 0), now.tasks.get("failed", 0)
    level = WARNING if now.oldest_task_age_seconds > TASK_SECONDS else OK
    values = {"n": queued}
    yield Condition("tasks", level, "processing", values, seconds=now.oldest_task_age_seconds, folder="docs")
    level = WARNING if failed else OK
    link = "/documents?state=failed"
    yield Condition("failed_tasks", level, "processing", {"n": failed}, link=link, folder="docs")


def _judge_groups(groups: Mapping[str, GroupBacklog]) -> Iterator[Condition]:
    for number, (group, found) in enumerate(groups.items()):  # that of the relays is the first
        values = {"group": group, "n": found.unassigned}
        level = CRITICAL if found.unassigned else OK
        kind, runbook = ("lanes", "lanes-unassigned") if number == 0 else ("partitions", "partitions-unassigned")
        yield Condition(kind, level, runbook, values)
        if number:
            lag = sum(found.lag.values())
            yield Condition("lag", WARNING if lag > LAG_OFFSETS else OK, "sink-lag-high", {"group": group, "n": lag})
