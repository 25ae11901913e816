"""The check of a new history runs in the background of the relay that owns lane 0."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from relays.history_check import HistoryCheck
from tests.support.inline_executor import InlineExecutor
from tests.support.memory_kafka import MemoryBroker, MemoryLanes
from tests.support.waiting import wait_for

pytestmark = pytest.mark.unit


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def owner(broker: MemoryBroker) -> MemoryLanes:
    lanes = broker.lanes()
    lanes.join()
    lanes.poll(0)
    lanes.take_over(lanes.read_committed())
    assert 0 in lanes.owned
    return lanes


def checking(check: Callable[[Callable[[], bool]], object], lanes: MemoryLanes, clock: Clock) -> HistoryCheck:
    executor: Executor = InlineExecutor()
    return HistoryCheck(check, lanes, executor, clock=clock)


def test_only_the_owner_of_lane_zero_checks() -> None:
    runs: list[object] = []
    broker = MemoryBroker()
    first, clock = broker.lanes(), Clock()
    one = checking(runs.append, first, clock)
    one.tend()
    assert runs == []
    first.join()
    first.poll(0)
    first.take_over(first.read_committed())
    one.tend()
    assert len(runs) == 1


def test_check_pauses_between_runs() -> None:
    runs: list[object] = []
    clock = Clock()
    one = checking(runs.append, owner(MemoryBroker()), clock)
    for _ in range(5):
        one.tend()
    assert len(runs) == 1
    clock.seconds = 11
    one.tend()
    assert len(runs) == 2


def test_failure_that_lasts_is_logged_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    runs: list[object] = []

    def fail(is_stopped: object) -> None:
        runs.append(is_stopped)
        raise OSError("Kafka is away")

    clock = Clock()
    one = checking(fail, owner(MemoryBroker()), clock)
    with caplog.at_level(logging.WARNING):
        for number in range(10):
            clock.seconds = 100.0 * number
            one.tend()
    assert len(runs) == 5, "every other call notes the outcome"
    assert caplog.text.count("history_check_failed reason=OSError: Kafka is away") == 1


def test_check_stops_when_lane_zero_is_lost() -> None:
    lanes, ended = owner(MemoryBroker()), threading.Event()

    def wait(is_stopped: Callable[[], bool]) -> None:
        wait_for(is_stopped, "the loss of lane 0")
        ended.set()

    one = HistoryCheck(wait, lanes, ThreadPoolExecutor(1))
    one.tend()
    one.tend()  # returns at once while it runs
    assert not ended.is_set()
    lanes.owned.clear()
    assert ended.wait(30)
    one.close()


def test_close_stops_the_check_that_runs() -> None:
    one = HistoryCheck(lambda is_stopped: wait_for(is_stopped, "the end"), owner(MemoryBroker()), ThreadPoolExecutor(1))
    one.tend()
    one.close()
