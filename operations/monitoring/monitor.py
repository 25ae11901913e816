"""The monitor: watches the backlog of the whole system, even when every other process is dead."""

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from operations.monitoring import backlog
from operations.monitoring.metrics import BacklogMetrics
from schema.database import dead_letters
from schema.database.connection import reading
from schema.failures import Retryable

if TYPE_CHECKING:
    from operations.monitoring.kafka_backlog import KafkaBacklog

_log = logging.getLogger(__name__)

T = TypeVar("T")

READ_SECONDS = 5.0  # between two looks
_CLOSE_SECONDS = 60.0
_REPEAT_SECONDS = 60.0  # between two log lines about the same source


class Monitor:
    """Reads the database and, with `kafka`, the consumer groups; each by itself, since the other may be away.

    It also closes dead letters that are superseded, so that counting the open ones stays cheap.
    """

    def __init__(self, engine: Engine, metrics: BacklogMetrics, kafka: "KafkaBacklog | None" = None) -> None:
        self._engine = engine
        self._metrics = metrics
        self._kafka = kafka
        self._close_at = 0.0
        self._said_at: dict[str, float] = {}  # by source that cannot be read

    def run(self, stop: threading.Event, progress: Callable[[], None] = lambda: None) -> None:
        """Look every few seconds until `stop` is set; `progress` is called after each look."""
        while not stop.is_set():
            self.look()
            self.close_superseded()
            progress()
            stop.wait(READ_SECONDS)

    def look(self) -> None:
        """Read every source once, into the metrics."""
        self._metrics.backlog = self._read("database", self._read_database)
        if self._kafka is not None:
            self._metrics.groups = self._read("kafka", self._kafka.read)

    def close_superseded(self) -> None:
        """Close some superseded dead letters, once per minute."""
        if time.monotonic() >= self._close_at:
            self._close_at = time.monotonic() + _CLOSE_SECONDS
            self._read("database", self._close_superseded)

    def _close_superseded(self) -> None:
        with reading(self._engine) as connection:
            found = dead_letters.find_superseded(connection)
        if found:
            with self._engine.begin() as connection:
                dead_letters.close_superseded(connection, found)

    def _read_database(self) -> backlog.Backlog:
        with reading(self._engine) as connection:
            return backlog.read(connection)

    def _read(self, source: str, read: Callable[[], T]) -> T | None:
        try:
            found = read()
        except (DBAPIError, Retryable) as error:
            self._metrics.up[source] = False
            if time.monotonic() - self._said_at.get(source, -_REPEAT_SECONDS) >= _REPEAT_SECONDS:
                _log.warning("cannot_read source=%s reason=%s", source, str(error).splitlines()[0])
                self._said_at[source] = time.monotonic()
            return None
        self._metrics.up[source] = True
        self._said_at.pop(source, None)
        return found
