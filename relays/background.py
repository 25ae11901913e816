"""Database calls of the relay to Kafka, on another thread: the group must be served while they run."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import TypeVar

from relays.ports import Lanes
from schema.retry import Backoff, call_with_retry

T = TypeVar("T")

_SERVE_SECONDS = 0.05  # between two polls of the group


class Background:
    """Runs calls one after another, each retried while the database is away. Owns `executor`, which has one thread."""

    def __init__(
        self, executor: Executor, lanes: Lanes, backoff: Backoff, progress: Callable[[], None] = lambda: None
    ) -> None:
        self._executor = executor
        self._lanes = lanes
        self._backoff = backoff
        self._progress = progress  # called before each further attempt
        self._stop: threading.Event | None = None

    def open(self, stop: threading.Event) -> None:
        """Calls are no longer retried once `stop` is set."""
        self._stop = stop

    def start(self, call: Callable[[], T]) -> "Future[T]":
        def again(_error: BaseException, _seconds: float) -> None:
            self._progress()

        return self._executor.submit(call_with_retry, call, backoff=self._backoff, stop=self._stop, report=again)

    def wait(self, future: "Future[T]") -> T:
        """Return the future's result; serve the group until it is there."""
        while not future.done():
            with suppress(TimeoutError):
                future.exception(_SERVE_SECONDS)
                break
            self._lanes.poll(0)
        return future.result()

    def close(self) -> None:
        """Wait for the call that runs."""
        self._executor.shutdown()
