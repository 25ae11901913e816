"""Calls that wait for a store, some of them at the same time; their results come in order.

Invariant 12: what is read ahead is bounded.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import TypeVar

from schema.threads import start_in_thread

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(
    call: Callable[[T], R], items: Iterable[T], *, calls: int, weight: int, weight_of: Callable[[T], int]
) -> Iterator[tuple[T, R]]:
    """Yield each item with the result of its call, or raise its error.

    At most `calls` run at once, on items that together weigh at most `weight`; a heavier item is alone. With one call
    at a time there are no threads.
    """
    if calls == 1:
        for item in items:
            yield item, call(item)
        return
    running: deque[tuple[T, Future[None], list[R]]] = deque()
    weights = 0

    def next_result() -> tuple[T, R]:
        nonlocal weights
        item, ended, results = running.popleft()
        weights -= weight_of(item)
        ended.result()
        return item, results[0]

    try:
        for item in items:
            while running and (len(running) == calls or weights + weight_of(item) > weight):
                yield next_result()
            results: list[R] = []
            weights += weight_of(item)
            ended = start_in_thread(lambda item=item, results=results: results.append(call(item)), "read-ahead")  # type: ignore[misc]
            running.append((item, ended, results))
        while running:
            yield next_result()
    finally:
        wait([ended for _, ended, _ in running])  # each has a time limit
