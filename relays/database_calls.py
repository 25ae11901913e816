"""Database calls of the relay to Kafka, on another thread: the group must be served while they run."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, TypeVar

from schema.outage import DatabaseOutage
from schema.retry import Backoff, call_with_retry, is_transient

T = TypeVar("T")

_SERVE_SECONDS = 0.05  # between two polls of the group


class Abandoned(Exception):
    """Raised when a call is no longer waited for: the database is away for too long, or the relay must stop."""


class DatabaseCalls:
    """Runs calls one after another on a thread of its own, each retried while the database is away.

    `serve` is called while a call is waited for, and may raise Abandoned; `progress` before each further attempt.
    `outage` notes what the attempts say of the database; `clock` is its clock.
    """

    def __init__(
        self,
        new_executor: Callable[[], Executor],
        serve: Callable[[], None],
        backoff: Backoff,
        outage: DatabaseOutage,
        *,
        progress: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._new_executor = new_executor
        self._serve = serve
        self._backoff = backoff
        self._outage = outage
        self._progress = progress
        self._clock = clock
        self._executor: Executor | None = None
        self._is_abandoned = threading.Event()  # of the calls of this executor
        self._last: Future[Any] | None = None
        self._stop: threading.Event | None = None

    def open(self, stop: threading.Event) -> None:
        """Start a new thread. Calls are no longer retried once `stop` is set."""
        self._executor = self._new_executor()
        self._is_abandoned = threading.Event()
        self._stop = stop

    def start(self, call: Callable[[], T]) -> "Future[T]":
        if self._executor is None:
            raise RuntimeError("the thread of the calls is not open")
        is_abandoned = self._is_abandoned

        def attempt() -> T:
            if is_abandoned.is_set():
                raise Abandoned
            began = self._clock()
            try:
                result = call()
            except Exception as error:
                if is_transient(error) and not is_abandoned.is_set():
                    self._outage.note(error, began)
                raise
            if not is_abandoned.is_set():
                self._outage.note_success()
            return result

        def note_attempt(_error: BaseException, _seconds: float) -> None:
            self._progress()

        future = self._executor.submit(
            call_with_retry, attempt, backoff=self._backoff, stop=self._stop, clock=self._clock, report=note_attempt
        )
        self._last = future
        return future

    def wait(self, future: "Future[T]") -> T:
        """Return the future's result; serve the group until it is there. Raises Abandoned."""
        self.await_end(future)
        return future.result()

    def await_end(self, future: "Future[Any]", seconds: float | None = None) -> bool:
        """Serve the group until the call has ended, for at most `seconds`. Returns whether it has. Raises Abandoned."""
        deadline = None if seconds is None else self._clock() + seconds
        while not future.done():
            if deadline is not None and self._clock() >= deadline:
                return False
            with suppress(TimeoutError):
                future.exception(_SERVE_SECONDS)
                break
            self._serve()
        return True

    def close(self) -> bool:
        """Wait for the call that runs, whatever its result. Returns whether it has ended."""
        last = self._last
        if last is not None:
            with suppress(Exception):  # its error is that of a call which nobody needs any more
                self.wait(last)
        self.abandon()
        return last is None or last.done()

    def abandon(self) -> None:
        """Leave the call that runs to itself; it is not retried."""
        self._is_abandoned.set()
        self._last = None
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None
