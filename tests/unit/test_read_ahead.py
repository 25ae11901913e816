"""Calls at the same time, with results in order and a bounded number of them under way."""

import threading
from collections.abc import Callable

import pytest

from consumers.read_ahead import map_ahead
from tests.support.waiting import wait_for

pytestmark = pytest.mark.unit


class Calls:
    """Each call waits until it is released; `running` are those under way."""

    def __init__(self) -> None:
        self.running: set[int] = set()
        self.started: list[int] = []
        self.released = {number: threading.Event() for number in range(10)}

    def __call__(self, number: int) -> int:
        self.started.append(number)
        self.running.add(number)
        assert self.released[number].wait(30)
        self.running.discard(number)
        return number * number


def run_in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_results_come_in_order_whichever_call_ends_first() -> None:
    calls, results = Calls(), list[tuple[int, int]]()
    mapped = map_ahead(calls, range(5), calls=3, weight=100, weight_of=lambda _: 1)
    thread = run_in_thread(lambda: results.extend(mapped))
    wait_for(lambda: len(calls.running) == 3, "three calls at once")
    for number in (2, 1, 0, 4, 3):
        calls.released[number].set()
    thread.join(30)
    assert results == [(number, number * number) for number in range(5)]


def test_heavy_items_wait_for_others() -> None:
    calls, results = Calls(), list[tuple[int, int]]()
    weights = {0: 4, 1: 5, 2: 20, 3: 1}
    mapped = map_ahead(calls, range(4), calls=9, weight=10, weight_of=weights.__getitem__)
    thread = run_in_thread(lambda: results.extend(mapped))
    wait_for(lambda: calls.running == {0, 1}, "both that fit")
    calls.released[0].set()
    calls.released[1].set()
    wait_for(lambda: calls.running == {2}, "the one that weighs too much, alone")
    assert sorted(calls.started) == [0, 1, 2]
    for number in (2, 3):
        calls.released[number].set()
    thread.join(30)
    assert [number for number, _ in results] == [0, 1, 2, 3]


def test_error_is_raised_in_its_place_after_all_calls_ended() -> None:
    ended = []

    def call(number: int) -> int:
        if number == 1:
            raise ValueError("one")
        ended.append(number)
        return number

    mapped = map_ahead(call, range(3), calls=3, weight=10, weight_of=lambda _: 1)
    assert next(mapped) == (0, 0)
    with pytest.raises(ValueError, match="one"):
        next(mapped)
    assert sorted(ended) == [0, 2]


def test_one_call_at_a_time_needs_no_thread() -> None:
    here = threading.get_ident()
    mapped = map_ahead(lambda _: threading.get_ident(), range(3), calls=1, weight=1, weight_of=lambda _: 1)
    assert list(mapped) == [(number, here) for number in range(3)]
