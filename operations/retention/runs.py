"""The table `retention_runs`: which process works on a policy, where it continues, and what was done so far.

A claim is a lease: a process that dies leaves its policy to another one after the lease.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Row, insert, null, select, update

import producer
from schema.database.clock import utc_now
from schema.database.connection import reading
from schema.database.tables import retention_runs
from schema.limits import OBJECT_KEY_BYTES

LEASE = timedelta(minutes=15)  # longer than an hourly run

_columns = retention_runs.c


def read(engine: Engine) -> Mapping[str, Row[Any]]:
    """The rows by policy, with `is_due`."""
    is_due = (_columns.due_at <= utc_now()).label("is_due")
    with reading(engine) as connection:
        return {row.policy: row for row in connection.execute(select(retention_runs, is_due))}


def claim(engine: Engine, policy: str) -> bool:
    """Claim a policy that is due. Of several processes one gets it."""

    def work(connection: Connection) -> bool:
        now = connection.execute(select(utc_now())).scalar_one()
        _create(connection, policy, now)
        due = update(retention_runs).where(_columns.policy == policy, _columns.due_at <= now)
        return bool(connection.execute(due.values(due_at=now + LEASE)).rowcount)

    return producer.run(engine, work)


def note(engine: Engine, policy: str, removed: int) -> None:
    """Count what a batch removed."""
    _change(engine, policy, removed=_columns.removed + removed)


def end(engine: Engine, policy: str, *, seconds: float, blocked: int | None, due_seconds: float) -> None:
    """Note a run without an error. `blocked` is None if it did not reach the end."""

    def work(connection: Connection) -> None:
        now = connection.execute(select(utc_now())).scalar_one()
        _create(connection, policy, now)
        values = {"ended_at": now, "seconds": seconds, "due_at": now + timedelta(seconds=due_seconds)}
        if blocked is not None:
            values["blocked"] = blocked
        connection.execute(update(retention_runs).where(_columns.policy == policy).values(values))

    producer.run(engine, work)


def read_position(engine: Engine, policy: str) -> str:
    with reading(engine) as connection:
        found = connection.execute(select(_columns.position).where(_columns.policy == policy)).scalar_one_or_none()
    return found or ""


def save_position(engine: Engine, policy: str, position: str) -> None:
    """`position` may be cut: then the next run looks at a part again."""
    _change(engine, policy, position=position[:OBJECT_KEY_BYTES] or null())


def _change(engine: Engine, policy: str, **values: Any) -> None:
    def work(connection: Connection) -> None:
        statement = update(retention_runs).where(_columns.policy == policy).values(values)
        if not connection.execute(statement).rowcount:
            _create(connection, policy, connection.execute(select(utc_now())).scalar_one())
            connection.execute(statement)

    producer.run(engine, work)


def _create(connection: Connection, policy: str, due_at: Any) -> None:
    new = insert(retention_runs).prefix_with("IGNORE", dialect="mysql").prefix_with("OR IGNORE", dialect="sqlite")
    connection.execute(new.values(policy=policy, due_at=due_at))
