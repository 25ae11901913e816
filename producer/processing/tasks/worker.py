"""Workers: threads that claim tasks and run their steps, next to the workers of any number of other processes.

Invariant 11: a step that fails is repeated later, or its task fails with the reason; a worker that dies leaves a lease
that ends.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_EXCEPTION, wait
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from sqlalchemy import Engine

from producer.errors import Backpressure, ProducerError, WriteConflict, WrongModel, WrongRelease
from producer.processing.embed.port import EmbedError
from producer.processing.tasks import queue
from producer.processing.tasks.queue import LeaseLost, Task
from producer.processing.tasks.steps import Steps, Superseded
from schema.database.tables import TASK_TYPES
from schema.failures import Retryable, StoreMissing
from schema.retry import Backoff, call_with_retry, is_transient
from schema.threads import DRAIN_SECONDS, start_in_thread

_log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
_IDLE_SECONDS = 1.0
_REAP_SECONDS = 10.0
_BACKOFF = Backoff(0.5, 10.0)

T = TypeVar("T")
Open = Callable[[], AbstractContextManager[Steps]]


class Workers:
    """`open_steps` makes the steps of one thread; `translate_errors` raises errors of the object store as Retryable.

    `report` is called with each task that ended, its status and the seconds that it took. A step that runs for long
    keeps its lease of `lease_seconds`, which is extended three times as often.
    """

    def __init__(
        self,
        engine: Engine,
        open_steps: Open,
        *,
        threads: int = 1,
        task_types: Collection[str] = TASK_TYPES,
        lease_seconds: float = LEASE_SECONDS,
        translate_errors: Callable[[], AbstractContextManager[None]] = nullcontext,
        report: Callable[[Task, str, float], None] = lambda _task, _status, _seconds: None,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._open_steps = open_steps
        self._threads = threads
        self._task_types = frozenset(task_types)
        self._lease_seconds = lease_seconds
        self._translate_errors = translate_errors
        self._report = report
        self._progress = progress
        self._lock = threading.Lock()
        self._running: dict[str, Task] = {}
        self._reap_at = 0.0

    def run(self, stop: threading.Event, *, until_idle: bool = False) -> None:
        """Work until `stop` is set or, with `until_idle`, until no task is queued or running that is or leads to one of
        its types.

        Steps that do not end in time after `stop` are abandoned: their tasks are queued again.
        """
        ended = threading.Event()
        start_in_thread(lambda: self._extend_leases(ended), "task-leases")
        calls = [start_in_thread(lambda: self._work(stop, until_idle), f"task-{n}") for n in range(self._threads)]
        try:
            while not stop.is_set() and wait(calls, _IDLE_SECONDS, FIRST_EXCEPTION).not_done:
                if any(call.done() and call.exception() is not None for call in calls):
                    stop.set()
            left = wait(calls, DRAIN_SECONDS).not_done
        finally:
            ended.set()
        if left:
            self._abandon()
        for call in calls:
            if call.done():
                call.result()

    def _abandon(self) -> None:
        with self._lock:
            running = list(self._running.values())
        for task in running:
            queue.release(self._engine, task, "its worker was stopped", is_counted=False)

    def _work(self, stop: threading.Event, until_idle: bool) -> None:
        with self._open_steps() as steps:
            while not stop.is_set():
                self._progress()
                task = self._retry(self._claim, stop)
                if task is not None:
                    self._do(steps, task, stop)
                elif until_idle and not self._retry(lambda: queue.count_open(self._engine, self._task_types), stop):
                    return
                else:
                    stop.wait(_IDLE_SECONDS)

    def _claim(self) -> Task | None:
        with self._lock:
            now = time.monotonic()
            if is_due := now >= self._reap_at:
                self._reap_at = now + min(_REAP_SECONDS, self._lease_seconds)
        if is_due and (reaped := queue.reap(self._engine)):
            _log.warning("tasks_reaped count=%d", reaped)
        task = queue.claim(self._engine, self._task_types, self._lease_seconds)
        if task is not None:
            with self._lock:
                self._running[task.task_id] = task
        return task

    def _do(self, steps: Steps, task: Task, stop: threading.Event) -> None:
        began = time.monotonic()
        try:
            status = self._run_step(steps, task, stop)
        finally:
            with self._lock:
                self._running.pop(task.task_id, None)
        self._report(task, status, time.monotonic() - began)

    def _run_step(self, steps: Steps, task: Task, stop: threading.Event) -> str:
        """Returns the task's status, or "retried" or "lost"."""
        try:
            with self._translate_errors():
                steps.run(task)
        except LeaseLost:
            return "lost"
        except Superseded as error:
            return self._supersede(steps, task, str(error), stop)
        except (Backpressure, WriteConflict, Retryable, StoreMissing) as error:
            return self._release(task, str(error), stop, is_counted=False)
        except (WrongModel, WrongRelease) as error:  # this process is at fault: every task would fail
            self._release(task, str(error), stop, is_counted=False)
            raise
        except ProducerError as error:
            if isinstance(error, EmbedError) and error.index is None:  # the model is the cause
                return self._release(task, str(error), stop, is_counted=False)
            return self._fail(task, str(error), stop)
        except Exception as error:  # noqa: BLE001  # of a library, or a bug: it must not end the worker
            if is_transient(error):
                return self._release(task, str(getattr(error, "orig", error)), stop, is_counted=False)
            _log.exception("task_error task=%s doc_id=%s", task.task_type, task.doc_id)
            return self._release(task, f"{type(error).__name__}: {error}", stop, is_counted=True)
        return "completed"

    def _supersede(self, steps: Steps, task: Task, reason: str, stop: threading.Event) -> str:
        def end() -> None:
            with self._engine.begin() as connection:
                queue.finish(connection, task, {"reason": reason}, "superseded")

        try:
            self._retry(end, stop)
            with self._translate_errors():
                steps.clean_up(task)
        except (LeaseLost, Retryable, StoreMissing):
            return "lost"
        return "superseded"

    def _fail(self, task: Task, reason: str, stop: threading.Event) -> str:
        _log.warning("task_failed task=%s doc_id=%s reason=%s", task.task_type, task.doc_id, reason)
        self._retry(lambda: queue.fail(self._engine, task, reason), stop)
        return "failed"

    def _release(self, task: Task, reason: str, stop: threading.Event, *, is_counted: bool) -> str:
        _log.warning("task_repeats task=%s doc_id=%s reason=%s", task.task_type, task.doc_id, reason)
        self._retry(lambda: queue.release(self._engine, task, reason, is_counted=is_counted), stop)
        return "retried"

    def _extend_leases(self, ended: threading.Event) -> None:
        while not ended.wait(self._lease_seconds / 3):
            with self._lock:
                running = list(self._running.values())
            try:
                queue.extend(self._engine, running, self._lease_seconds)
            except Exception as error:  # noqa: BLE001  # the leases end if this lasts; another worker takes over
                _log.warning("lease_not_extended reason=%s", error)

    def _retry(self, work: Callable[[], T], stop: threading.Event) -> T:
        return call_with_retry(work, backoff=_BACKOFF, stop=stop)
