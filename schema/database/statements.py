"""Statements over many ids, split so that each of them is bounded (invariant 12)."""

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, Row, Select

from schema.batches import bounded

IDS_PER_STATEMENT = 1_000


def select_for_ids(
    connection: Connection, statement: Select[Any], column: Any, ids: Iterable[Any]
) -> Iterator[Row[*tuple[Any, ...]]]:
    """The rows whose `column` is in `ids`, by statements with at most IDS_PER_STATEMENT ids each."""
    for some in bounded(ids, IDS_PER_STATEMENT):
        yield from connection.execute(statement.where(column.in_(some)))


def execute_for_ids(connection: Connection, statement: Any, column: Any, ids: Iterable[str]) -> None:
    """Run an UPDATE or DELETE for the rows whose `column` is in `ids`, with at most IDS_PER_STATEMENT per statement."""
    for some in bounded(ids, IDS_PER_STATEMENT):
        connection.execute(statement.where(column.in_(some)))
