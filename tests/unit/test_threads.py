"""The executor whose thread may hang."""

import subprocess
import sys
import threading
from concurrent.futures import CancelledError

import pytest

from schema.threads import DaemonExecutor

pytestmark = pytest.mark.unit

HANGING = """
import threading
from schema.threads import DaemonExecutor
DaemonExecutor("hangs").submit(threading.Event().wait)
"""


def test_calls_run_in_order_on_one_thread() -> None:
    seen: list[tuple[int, str]] = []
    executor = DaemonExecutor("worker")

    def note(number: int) -> None:
        seen.append((number, threading.current_thread().name))

    futures = [executor.submit(note, number) for number in range(3)]
    failed = executor.submit(lambda: 1 / 0)
    executor.shutdown()
    assert seen == [(0, "worker"), (1, "worker"), (2, "worker")]
    assert all(future.done() for future in futures)
    assert isinstance(failed.exception(0), ZeroDivisionError)
    with pytest.raises(RuntimeError):
        executor.submit(lambda: None)


def test_waiting_calls_are_cancelled_on_shutdown() -> None:
    release = threading.Event()
    executor = DaemonExecutor("worker")
    running, waiting = executor.submit(release.wait), executor.submit(lambda: None)
    executor.shutdown(wait=False, cancel_futures=True)
    release.set()
    assert running.result(5)
    with pytest.raises(CancelledError):
        waiting.result(5)


def test_process_ends_although_a_call_hangs() -> None:
    assert subprocess.run([sys.executable, "-c", HANGING], check=False, timeout=30).returncode == 0
