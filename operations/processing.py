"""Workers of the task queue, with the stores, the model and the metrics of this process."""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram

from operations.wiring import System
from schema.database.tables import TASK_TYPES
from schema.retry import call_with_retry
from schema.threads import DRAIN_SECONDS, start_in_thread

if TYPE_CHECKING:
    from producer.processing.tasks.queue import Task
    from producer.processing.tasks.steps import Steps

_BUCKETS = (0.1, 0.3, 1, 3, 10, 30, 100, 300)
Report = Callable[["Task", str, float], None]


class TaskMetrics:
    """`status` is that in which a step ended: completed, failed, superseded, retried, or lost to another worker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ended = Counter(
            "rag_outbox_tasks_total",
            "Steps of the task queue that this process ran, by their end.",
            ["task", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "rag_outbox_task_seconds",
            "How long a step of the task queue took.",
            ["task"],
            buckets=_BUCKETS,
            registry=registry,
        )
        for task_type in TASK_TYPES:
            self._seconds.labels(task_type)
            for status in ("completed", "failed", "superseded", "retried", "lost"):
                self._ended.labels(task_type, status)

    def note(self, task: "Task", status: str, seconds: float) -> None:
        self._ended.labels(task.task_type, status).inc()
        self._seconds.labels(task.task_type).observe(seconds)


def work(
    system: System,
    stop: threading.Event,
    *,
    threads: int = 1,
    task_types: Collection[str] = TASK_TYPES,
    until_idle: bool = False,
    report: Report,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Run tasks until `stop` is set, or with `until_idle` until none is left. Raises SettingsError without a model."""
    from consumers.minio.translate import translate_errors
    from producer.processing.tasks.worker import Workers

    system.require_embedder()
    Workers(
        system.engine,
        lambda: _open_steps(system),
        threads=threads,
        task_types=task_types,
        lease_seconds=system.settings.task_lease_seconds,
        translate_errors=translate_errors,
        report=report,
        progress=progress,
    ).run(stop, until_idle=until_idle)


@contextmanager
def work_in_background(system: System, report: Report, note_failure: Callable[[], None]) -> Iterator[None]:
    """Run tasks in a thread until the context ends; the libraries that this needs are imported at the first task.

    If no task can be run any more, `note_failure` is called; the end of the context then raises the error.
    """
    stop = threading.Event()

    def run() -> None:
        try:
            _work_when_needed(system, stop, report)
        except BaseException:
            note_failure()
            raise

    ended = start_in_thread(run, "tasks")
    try:
        yield
    finally:
        stop.set()
        ended.result(2 * DRAIN_SECONDS)


def has_tasks(system: System) -> bool:
    """Whether a task is queued or running."""
    from producer.processing.tasks import queue

    return queue.count_open(system.engine) > 0


def _work_when_needed(system: System, stop: threading.Event, report: Report) -> None:
    while not call_with_retry(lambda: has_tasks(system), stop=stop):
        if stop.wait(1.0):
            return
    work(system, stop, report=report)


@contextmanager
def _open_steps(system: System) -> "Iterator[Steps]":
    from producer.processing.extract.extract import FileExtractor
    from producer.processing.tasks.steps import Steps

    with FileExtractor() as extractor:
        yield Steps(system.engine, system.store, system.writer(), system.require_embedder(), extractor)
