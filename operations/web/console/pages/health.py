"""Health: is everything current?"""

from datetime import UTC, datetime
from typing import Any

from litestar import Response

from operations.web.console import chart, conditions, processes
from operations.web.console.live import Sampler, open_tasks, waiting_in
from operations.web.console.rendering import Asked, console_of, render, texts_of

_UNFINISHED = ("pending", "processing", "failed", "deleting")


def show_health(request: Asked) -> Response[str]:
    """All of it comes from the sampler's memory: the page asks no store."""
    console = console_of(request)
    sampler, settings = console.sampler, console.system.settings
    samples = sampler.samples
    last = samples[-1] if samples else None
    found = conditions.judge(sampler)
    words = texts_of(request)
    labels = {"outbox": words("health.outbox"), "tasks": words("health.tasks")}
    working = processes.of_groups(sampler.groups or {}) if sampler.has_kafka else processes.of_folder(settings.data_dir)
    return render(
        request,
        "health.html",
        conditions=found,
        problems=sum(one.level != conditions.OK for one in found),
        last=last,
        read_at=None if last is None else datetime.fromtimestamp(last.at, UTC),
        stages=_stages(sampler),
        documents={} if last is None or last.backlog is None else _unfinished(last.backlog.documents),
        tasks={} if last is None or last.backlog is None else last.backlog.tasks,
        labels=labels,
        chart=chart.draw(samples, labels),
        written=sampler.rates().written,
        processes=working,
        has_kafka=sampler.has_kafka,
        kafka_problem=sampler.kafka_problem,
    )


def _stages(sampler: Sampler) -> list[dict[str, Any]]:
    """Tasks, the outbox and each sink, from the newest look that the database answered."""
    backlog = next((one.backlog for one in reversed(sampler.samples) if one.backlog is not None), None)
    if backlog is None:
        return []
    done = sampler.rates().done
    outbox = {
        "name": "outbox",
        "waiting": backlog.pending_events,
        "age": backlog.oldest_pending_age_seconds if backlog.pending_events else None,
        "failed": backlog.dead_letters.get("relay", 0),
        "done": done.get("outbox"),
    }
    sinks = [
        {
            "name": name,
            "waiting": waiting_in(one.documents),
            "age": one.oldest_age_seconds if waiting_in(one.documents) else None,
            "failed": one.documents.get("failed", 0),
            "done": done.get(name),
        }
        for name, one in backlog.sinks.items()
    ]
    waiting = open_tasks(backlog.tasks)
    tasks = {
        "name": "tasks",
        "waiting": waiting,
        "age": backlog.oldest_task_age_seconds if waiting else None,
        "failed": backlog.tasks.get("failed", 0),
        "done": None,
    }
    return [tasks, outbox, *sinks]


def _unfinished(documents: Any) -> dict[str, int]:
    return {state: documents.get(state, 0) for state in _UNFINISHED}
