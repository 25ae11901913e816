"""Invariant 12: every batch is bounded in rows and, where its items have a size, in bytes."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def bounded(
    items: Iterable[T], rows: int, size_bytes: int = 0, size_of: Callable[[T], int] = lambda _: 0
) -> Iterator[list[T]]:
    """Lists of at most `rows` items and `size_bytes` bytes; a larger item gets a list of its own."""
    batch: list[T] = []
    filled = 0
    for item in items:
        size = size_of(item)
        if batch and (len(batch) == rows or filled + size > size_bytes):
            yield batch
            batch, filled = [], 0
        batch.append(item)
        filled += size
    if batch:
        yield batch
