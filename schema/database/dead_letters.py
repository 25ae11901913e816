"""The number of dead letters that were stored lately: what limits them in all processes and starts of a stage."""

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import Connection, func, select

from schema.database.clock import utc_now
from schema.database.tables import outbox_dead_letters

RECENT = timedelta(hours=1)


def count_recent(connection: Connection, stages: Collection[str]) -> int:
    """How many events became dead letters of these stages in the last hour, by the clock of the database."""
    since = connection.execute(select(utc_now())).scalar_one() - RECENT
    columns = outbox_dead_letters.c
    recent = columns.stage.in_(sorted(stages)), columns.dead_at > since
    counted = select(func.count(columns.event_id.distinct())).where(*recent)
    return int(connection.execute(counted).scalar_one())
