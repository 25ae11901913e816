"""Finds dead letters in the database: every stage stores one row per refused event."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, exists, null, select, update

from operations.errors import OperationError, UsageError
from operations.wiring import System
from schema.database.clock import utc_now
from schema.database.connection import reading
from schema.database.dead_letters import is_superseded
from schema.database.statements import select_for_ids
from schema.database.tables import LETTER_STATES, outbox_dead_letters, sinks
from schema.events.events import Envelope

_PAGE = 500
_COLUMNS = [column for column in outbox_dead_letters.c if column.name != "payload"]


class UnknownLetter(OperationError):
    """Raised for an id that no dead letter has; the message names it."""


class NotOpen(OperationError):
    """Raised when a letter was replayed or discarded already; the message says when, by whom and why."""


@dataclass(frozen=True)
class Filters:
    """Times are UTC; `reason` is a part of the reason in any case."""

    stage: str | None = None
    doc_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    reason: str | None = None

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        letter = outbox_dead_letters.c
        if self.stage is not None:
            yield letter.stage == self.stage
        if self.doc_id is not None:
            yield letter.aggregate_id == self.doc_id
        if self.since is not None:
            yield letter.dead_at >= self.since
        if self.until is not None:
            yield letter.dead_at < self.until
        if self.reason is not None:
            yield letter.error.icontains(self.reason, autoescape=True)


@dataclass(frozen=True)
class Letter:
    """A row without its payload. A letter that is open and superseded needs no person."""

    row: Any  # of `outbox_dead_letters`, and `is_superseded`

    @property
    def id(self) -> int:
        return int(self.row.id)

    @property
    def doc_id(self) -> str:
        return str(self.row.aggregate_id)

    @property
    def state(self) -> str:
        """open, superseded, replayed or discarded."""
        is_done = self.row.state == "open" and self.row.is_superseded
        return "superseded" if is_done else str(self.row.state)

    def envelope(self, payload: bytes) -> Envelope:
        row = self.row
        headers = row.headers if isinstance(row.headers, dict) else {}
        identity = (row.event_id, row.event_type, row.aggregate_id, row.aggregate_version)
        return Envelope(*identity, row.content_type, payload, headers)

    def require_open(self) -> None:
        """Raises NotOpen."""
        row = self.row
        if row.state != "open":
            at = f"{row.closed_at:%Y-%m-%d %H:%M:%S} UTC"
            raise NotOpen(f"was {row.state} at {at} by {row.closed_by}: {row.closed_reason}")


def require_stage(system: System, stage: str | None) -> None:
    """Raise UsageError if no sink and no dead letter has this stage: an empty list would mislead."""
    if stage is None:
        return
    with reading(system.engine) as connection:
        known = ["relay", *connection.scalars(select(sinks.c.name).order_by(sinks.c.name))]
        if stage in known:
            return
        if connection.scalar(select(exists().where(outbox_dead_letters.c.stage == stage))):  # of a former sink
            return
    raise UsageError(f"--stage {stage!r}: must be one of {', '.join(known)}")


def list_letters(
    system: System, filters: Filters, *, every_state: bool = False, limit: int = 50, after: int | None = None
) -> list[Letter]:
    """The newest first, only those that need a person; `after`: those with a smaller id."""
    statement = _select(filters, every_state=every_state).order_by(outbox_dead_letters.c.id.desc()).limit(limit)
    if after is not None:
        statement = statement.where(outbox_dead_letters.c.id < after)
    with reading(system.engine) as connection:
        return [Letter(row) for row in connection.execute(statement)]


def walk_open(system: System, filters: Filters) -> Iterator[list[Letter]]:
    """All that need a person, in pages, the oldest first."""
    last = 0
    while True:
        statement = _select(filters, every_state=False).order_by(outbox_dead_letters.c.id).limit(_PAGE)
        with reading(system.engine) as connection:
            page = [Letter(row) for row in connection.execute(statement.where(outbox_dead_letters.c.id > last))]
        if not page:
            return
        yield page
        last = page[-1].id


def find(system: System, letter_ids: Sequence[int]) -> list[Letter]:
    """In the order of the ids. Raises UnknownLetter."""
    columns = select(*_COLUMNS, is_superseded().label("is_superseded"))
    with reading(system.engine) as connection:
        rows = select_for_ids(connection, columns, outbox_dead_letters.c.id, dict.fromkeys(letter_ids))
        found = {row.id: Letter(row) for row in rows}
    if unknown := [str(one) for one in letter_ids if one not in found]:
        raise UnknownLetter(f"no such dead letter: {', '.join(unknown)}")
    return list({one: found[one] for one in letter_ids}.values())


def close(connection: Connection, letter_ids: Collection[int], state: str, operator: str, reason: str) -> None:
    """Close open letters. Raises NotOpen if another process has just closed one: roll back."""
    columns = outbox_dead_letters.c
    closed = {"state": state, "closed_at": utc_now(), "closed_by": operator, "closed_reason": reason or null()}
    chosen = update(outbox_dead_letters).where(columns.id.in_(letter_ids), columns.state == "open")
    if connection.execute(chosen.values(closed)).rowcount != len(letter_ids):
        raise NotOpen("was closed by another process")


def _select(filters: Filters, *, every_state: bool) -> Select[Any]:
    statement = select(*_COLUMNS, is_superseded().label("is_superseded"))
    states = LETTER_STATES if every_state else ("open",)  # also when all are wanted: the index begins with the state
    statement = statement.where(outbox_dead_letters.c.state.in_(states), *filters.conditions())
    return statement if every_state else statement.where(~is_superseded())
