"""Slices of a table in the order of a key: bounded ranges without gaps, so that a store is compared both ways.

A sample takes some slices and skips the others. To skip a slice, the database reads its keys and sends only the last.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, Engine, Select, select

from schema.database.connection import reading

SAMPLED_ROWS = 500  # per slice of a sample: many small slices represent the whole better than a few large ones


@dataclass(frozen=True, slots=True)
class Slice:
    """All keys k with `after` < k, and k <= `upto` unless it is None, with the database's `rows`."""

    after: str
    upto: str | None
    rows: Sequence[Any]


def read_rows(connection: Connection, statement: Select[Any]) -> tuple[Sequence[Any], str]:
    """The rows of a statement, and the last key, '' if there are none. Each row begins with its key."""
    found = connection.execute(statement).all()
    return found, found[-1][0] if found else ""


def read_slices(
    engine: Engine,
    statement: Select[Any],
    key: Column[str],
    *,
    rows: int,
    sample: float = 1.0,
    after: str = "",
    choose: random.Random | None = None,
    read: Callable[[Connection, Select[Any]], tuple[Sequence[Any], str]] = read_rows,
) -> Iterator[Slice]:
    """`statement` selects `key` first, and at most one row per key. At least one slice is read."""
    chance = choose or random.Random()
    rows = rows if sample >= 1.0 else min(rows, SAMPLED_ROWS)
    has_read = False
    while True:
        if sample < 1.0 and chance.random() >= sample:
            following = _find_end(engine, key, rows, after)
            if following is not None:
                after = following
                continue
            if has_read:
                return
        with reading(engine) as connection:
            found, last = read(connection, statement.where(key > after).order_by(key).limit(rows))
        upto = last if len(found) == rows else None
        yield Slice(after, upto, found)
        has_read = True
        if upto is None:
            return
        after = upto


def _find_end(engine: Engine, key: Column[str], rows: int, after: str) -> str | None:
    """The last key of a slice; None when fewer keys follow."""
    with reading(engine) as connection:
        last = select(key).where(key > after).order_by(key).limit(1).offset(rows - 1)
        return connection.execute(last).scalar_one_or_none()
