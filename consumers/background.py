"""Calls of a consumer on another thread: the group is served while they run, with all partitions paused."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, wait
from typing import Any, ParamSpec, TypeVar

from consumers.subscription import Subscription
from schema.outage import DatabaseOutage
from schema.threads import DRAIN_SECONDS

P = ParamSpec("P")
T = TypeVar("T")

_PATIENCE_SECONDS = 3.0  # how long a call may take before partitions are paused, which drops what was fetched ahead
_SERVE_SECONDS = 0.05


class Background:
    """Runs one call after another on `executor`; `clock` returns seconds.

    `wait` gives up when `database` says that the consumer must leave its group, and DRAIN_SECONDS after `stop` was set.
    """

    def __init__(
        self, executor: Executor, subscription: Subscription, database: DatabaseOutage, clock: Callable[[], float]
    ) -> None:
        self.stop = threading.Event()
        self._executor = executor
        self._subscription = subscription
        self._database = database
        self._clock = clock
        self._give_up_at: float | None = None

    def start(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        return self._executor.submit(call, *args, **kwargs)

    def wait(self, call: "Future[Any]") -> bool:
        """Serve the group until the call ends. Returns False if it gave up."""
        wait([call], _PATIENCE_SECONDS)
        self._serve_until(lambda: call.done() or self._database.must_leave or self._is_over())
        return call.done()

    def pause(self, seconds: float) -> None:
        """Serve the group for this time, or until the consumer must stop."""
        deadline = self._clock() + seconds
        self._serve_until(lambda: self.stop.is_set() or self._clock() >= deadline)

    def close(self, calls: Sequence["Future[Any]"]) -> bool:
        """Wait for these calls, without serving the group. Returns whether all have ended."""
        self.stop.set()
        while not all(call.done() for call in calls) and not self._is_over():
            wait(calls, _SERVE_SECONDS)
        self._executor.shutdown(wait=False)
        return all(call.done() for call in calls)

    def _serve_until(self, done: Callable[[], bool]) -> None:
        if done():
            return
        self._subscription.pause()
        while not done():
            self._subscription.serve(_SERVE_SECONDS)

    def _is_over(self) -> bool:
        if not self.stop.is_set():
            return False
        if self._give_up_at is None:
            self._give_up_at = self._clock() + DRAIN_SECONDS
        return self._clock() >= self._give_up_at
