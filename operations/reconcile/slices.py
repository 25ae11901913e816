"""Slices of a table in the order of a key: bounded ranges without gaps, so that a store is compared both ways.

A sample takes some slices and skips the others. To skip a slice, the database reads its keys and sends only the last.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Engine, Row, Select, select

from schema.database.connection import reading

SAMPLED_ROWS = 500  # per slice of a sample: many small slices represent the whole better than a few large ones


@dataclass(frozen=True, slots=True)
class Slice:
    """All keys k with `after` < k, and k <= `upto` unless it is None; `rows` are the database's, with the key first."""

    after: str
    upto: str | None
    rows: Sequence[Row[Any]]


def read_slices(
    engine: Engine,
    statement: Select[Any],
    key: Column[str],
    *,
    rows: int,
    sample: float = 1.0,
    after: str = "",
    choose: random.Random | None = None,
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
        found = _read(engine, statement, key, rows, after)
        upto = found[-1][0] if len(found) == rows else None
        yield Slice(after, upto, found)
        has_read = True
        if upto is None:
            return
        after = upto


def _read(engine: Engine, statement: Select[Any], key: Column[str], rows: int, after: str) -> Sequence[Row[Any]]:
    with reading(engine) as connection:
        return connection.execute(statement.where(key > after).order_by(key).limit(rows)).all()


def _find_end(engine: Engine, key: Column[str], rows: int, after: str) -> str | None:
    """The last key of a slice; None when fewer keys follow."""
    with reading(engine) as connection:
        last = select(key).where(key > after).order_by(key).limit(1).offset(rows - 1)
        return connection.execute(last).scalar_one_or_none()
