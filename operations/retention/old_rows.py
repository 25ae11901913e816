"""Removes old rows of one table in bounded batches: a plain read of an index finds them, a DELETE by key removes."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Table, delete, func, select, true

import producer
from operations.retention.policy import Preview, read_limit
from schema.database.connection import reading

_HOUR = 3_600.0


@dataclass(frozen=True)
class OldRows:
    """`is_old(limit)` finds rows by an index, whose times `at` gives. `still` is checked once more by the DELETE."""

    engine: Engine
    name: str
    table: Table
    key: ColumnElement[Any]
    at: ColumnElement[Any]
    is_old: Callable[[datetime], ColumnElement[bool]]
    days: int
    batch_rows: int
    still: Callable[[datetime], ColumnElement[bool]] = lambda _limit: true()
    every_seconds: float = _HOUR
    blocked: int = 0

    def preview(self) -> Preview:
        limit = read_limit(self.engine, self.days)
        statement = select(func.count(), func.min(self.at)).select_from(self.table).where(self.is_old(limit))
        with reading(self.engine) as connection:
            count, oldest = connection.execute(statement).one()
        return Preview(count, oldest)

    def batches(self) -> Generator[int, None, None]:
        limit = read_limit(self.engine, self.days)
        found = select(self.key).where(self.is_old(limit)).limit(self.batch_rows)
        while True:
            with reading(self.engine) as connection:
                keys = list(connection.execute(found).scalars())
            if not keys:
                return
            chosen = delete(self.table).where(self.key.in_(keys), self.still(limit))

            def work(connection: Connection, statement: Any = chosen) -> int:
                return int(connection.execute(statement).rowcount)

            yield producer.run(self.engine, work)
            if len(keys) < self.batch_rows:
                return
