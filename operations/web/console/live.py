"""The numbers of the last 15 minutes, read by one sampler per server, whatever the number of readers.

It reads what the monitor reads, so that the charts need no Prometheus.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from operations.monitoring import backlog
from operations.monitoring.backlog import Backlog, GroupBacklog
from operations.reconcile.checkpoints import last_report
from operations.wiring import System
from schema.database.connection import reading
from schema.database.tables import operation_logs
from schema.failures import Retryable

if TYPE_CHECKING:
    from operations.monitoring.kafka_backlog import KafkaBacklog

_log = logging.getLogger(__name__)

READ_SECONDS = 5.0
KEPT_SECONDS = 900.0
RATE_SECONDS = 60.0  # over which a rate is averaged
_REPORT_SECONDS = 60.0  # between two looks at the report of reconcile
_DATABASE, _KAFKA = "database", "kafka"


@dataclass(frozen=True)
class Sample:
    """One look. `at` is Unix time; `operations` is the highest id of the operation log: it counts writes.

    `backlog` is None when the database did not answer, `problem` then says why.
    """

    at: float
    backlog: Backlog | None
    operations: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class Rates:
    """Per second. `done` is what was written less what the backlog grew by; None before there are two looks."""

    written: float | None
    done: Mapping[str, float]  # by stage: outbox, and each sink


class Sampler:
    """Reads the database and, with `kafka`, the consumer groups, each in its own thread: the other may be away."""

    def __init__(self, system: System, kafka: "KafkaBacklog | None" = None, *, seconds: float = READ_SECONDS) -> None:
        self._engine = system.engine
        self._kafka = kafka
        self._seconds = seconds
        self._samples: deque[Sample] = deque(maxlen=round(KEPT_SECONDS / READ_SECONDS))
        self._stop = threading.Event()
        self._report_at = 0.0
        self._said: dict[str, str] = {}  # what was logged last, by source
        self._threads: list[threading.Thread] = []
        self.report: Mapping[str, Any] | None = None  # of the last run of reconcile that ended
        self.groups: Mapping[str, GroupBacklog] | None = None  # None: no Kafka, or no answer
        self.kafka_problem: str | None = None

    def start(self) -> None:
        works = [self.look, *([self.look_at_kafka] if self._kafka is not None else [])]
        self._threads = [
            threading.Thread(target=self._repeat, args=(work,), name="console-sampler", daemon=True) for work in works
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Does not wait for a look that hangs."""
        self._stop.set()

    @property
    def has_kafka(self) -> bool:
        return self._kafka is not None

    @property
    def samples(self) -> list[Sample]:
        """The oldest first."""
        return list(self._samples)

    def look(self) -> None:
        """Read the database once."""
        now = time.time()
        try:
            with reading(self._engine) as connection:
                found = backlog.read(connection)
                last = connection.execute(select(func.max(operation_logs.c.log_id))).scalar() or 0
            if time.monotonic() >= self._report_at:
                self.report = last_report(self._engine)
                self._report_at = time.monotonic() + _REPORT_SECONDS
        except (DBAPIError, PoolTimeout) as error:
            problem = _first_line(getattr(error, "orig", None) or error)
            self._samples.append(Sample(now, None, problem=problem))
            self._say(_DATABASE, problem)
        else:
            self._samples.append(Sample(now, found, int(last)))
            self._say(_DATABASE, "")

    def look_at_kafka(self) -> None:
        """Read the consumer groups once."""
        assert self._kafka is not None
        try:
            self.groups = self._kafka.read()
        except Retryable as error:
            self.groups, self.kafka_problem = None, _first_line(error)
        except (DBAPIError, PoolTimeout):
            return  # it names the sinks; the other thread says that it is away
        else:
            self.kafka_problem = None
        self._say(_KAFKA, self.kafka_problem or "")

    def note_report(self) -> None:
        """Read the report of reconcile again at the next look: a run may have ended."""
        self._report_at = 0.0

    def rates(self) -> Rates:
        return rates_of(self.samples)

    def _repeat(self, look: Callable[[], None]) -> None:
        """A bug in a look is logged, and the next look is tried: a page must not show old numbers for ever."""
        while not self._stop.is_set():
            try:
                look()
            except Exception as error:  # noqa: BLE001  # the next look may succeed
                _log.exception("console_look_failed error=%s", type(error).__name__)
            self._stop.wait(self._seconds)

    def _say(self, source: str, problem: str) -> None:
        if problem != self._said.get(source, ""):
            self._said[source] = problem
            if problem:
                _log.warning("console_cannot_read source=%s reason=%s", source, problem)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def rates_of(samples: Sequence[Sample]) -> Rates:
    """Averages over the last minute of the samples."""
    read = [one for one in samples if one.backlog is not None]
    recent = [one for one in read if read[-1].at - one.at <= RATE_SECONDS]
    if len(recent) < 2 or recent[-1].at <= recent[0].at:
        return Rates(None, {})
    first, last = recent[0], recent[-1]
    seconds = last.at - first.at
    written = max(0, last.operations - first.operations)
    before, after = waiting(first), waiting(last)
    del after["tasks"]  # the operation log does not count tasks
    done = {name: max(0.0, (written - (after[name] - before.get(name, 0))) / seconds) for name in after}
    return Rates(written / seconds, done)


def waiting(sample: Sample) -> dict[str, int]:
    """What waits, by stage: tasks, events in the outbox, and documents that wait for each sink."""
    found = sample.backlog
    if found is None:
        return {}
    return {
        "outbox": found.pending_events,
        **{name: waiting_in(one.documents) for name, one in found.sinks.items()},
        "tasks": open_tasks(found.tasks),
    }


def open_tasks(tasks: Mapping[str, int]) -> int:
    """A failed task does not wait: it needs a person."""
    return sum(tasks.get(state, 0) for state in ("queued", "running"))


def waiting_in(documents: Mapping[str, int]) -> int:
    """A failed document does not wait: it needs a person."""
    return sum(documents.get(state, 0) for state in ("pending", "absent"))
