"""Calls in threads that may hang: nobody has to wait for their end, not even the process."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

STOP_SECONDS = 20.0  # a process ends this long after SIGTERM at the latest, whatever hangs
DRAIN_SECONDS = STOP_SECONDS / 2  # of those for the batch in flight; then it is abandoned


def start_in_thread(call: Callable[[], object], name: str) -> Future[None]:
    """Start the call in a daemon thread; the future has its end, or its error."""
    ended: Future[None] = Future()

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001  # raised by result()
            ended.set_exception(error)
        else:
            ended.set_result(None)

    threading.Thread(target=run, name=name, daemon=True).start()
    return ended


@contextmanager
def run_in_background(
    run: Callable[[threading.Event], object], name: str, stop_seconds: float | None = None
) -> Iterator[None]:
    """Run a loop in a daemon thread until the context ends. Then its event is set, and it has `stop_seconds` to end.

    Without `stop_seconds` the context waits until it has ended.
    """
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(stop,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(stop_seconds)


class DaemonExecutor(Executor):
    """Runs calls one after another in a daemon thread: a process may end before it, unlike a ThreadPoolExecutor's."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_shut_down = False
        self._is_cancelled = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._is_shut_down:
            raise RuntimeError("the executor is shut down")
        future: Future[T] = Future()

        def call() -> None:
            if self._is_cancelled:
                future.cancel()
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  # raised by result()
                future.set_exception(error)
            else:
                future.set_result(result)

        self._calls.put(call)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._is_shut_down = True
        self._is_cancelled = self._is_cancelled or cancel_futures
        self._calls.put(None)
        if wait and self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
