"""The metrics of a writer, in the registry of the service that uses it."""

import time
import weakref
from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from sqlalchemy import Connection, Engine, event

from producer.errors import ProducerError
from producer.plan import Plan
from schema.metrics import WORK_SECONDS

_KEY = "rag_outbox_written"  # in Connection.info


class WriterMetrics:
    """Counts a write when its transaction ends, since the writer itself never commits.

    A commit is counted when it is sent; one that fails on the way is counted, too. What a savepoint rolls back is
    counted with the outcome of the whole transaction.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._writes = Counter(
            "rag_outbox_writes_total",
            "Documents written, by operation (INSERT, UPDATE, DELETE, SYNC) and outcome (committed, rolled_back).",
            ["operation", "outcome"],
            registry=registry,
        )
        self._refused = Counter(
            "rag_outbox_refused_writes_total",
            "Calls of the writer that raised an error, by its class; nothing was written.",
            ["reason"],
            registry=registry,
        )
        self._seconds = Histogram(
            "rag_outbox_write_seconds",
            "Seconds that a call of the writer took, without the commit.",
            buckets=WORK_SECONDS,
            registry=registry,
        )
        self._bytes = Counter("rag_outbox_written_bytes_total", "Payload bytes of committed events.", registry=registry)
        self._watched: weakref.WeakSet[Engine] = weakref.WeakSet()

    @contextmanager
    def call(self) -> Iterator[None]:
        """One call of the writer."""
        began = time.monotonic()
        try:
            yield
        except ProducerError as error:
            self._refused.labels(type(error).__name__).inc()
            raise
        self._seconds.observe(time.monotonic() - began)

    def note_written(self, connection: Connection, plans: Sequence[Plan], size_bytes: int) -> None:
        """Count these plans once their transaction has ended."""
        if connection.engine not in self._watched:
            self._watched.add(connection.engine)
            event.listen(connection.engine, "commit", self._note_commit)
            event.listen(connection.engine, "rollback", self._note_rollback)
        written: Counts[str] = connection.info.setdefault(_KEY, Counts())
        written.update(plan.operation.value for plan in plans)
        written[""] += size_bytes

    def _note_commit(self, connection: Connection) -> None:
        self._bytes.inc(self._count(connection, "committed"))

    def _note_rollback(self, connection: Connection) -> None:
        self._count(connection, "rolled_back")

    def _count(self, connection: Connection, outcome: str) -> int:
        written: Counts[str] = connection.info.pop(_KEY, None) or Counts()
        size_bytes = written.pop("", 0)
        for operation, count in written.items():
            self._writes.labels(operation, outcome).inc(count)
        return size_bytes
