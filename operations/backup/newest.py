"""The table `backups`: the newest backup per kind of place, as metrics and `rag-outbox status` show it.

It says when a backup was made, not that it is still there: the manifests in the places say that. The row is written
after the dump, so a restore notes its own backup.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.exc import DBAPIError

import producer
from operations.backup import keys
from operations.backup.manifest import Manifest
from schema.database.clock import utc_now
from schema.database.tables import backups

BUCKET, COPY = "bucket", "copy"  # the bucket of the system; the place that `--to` names

_columns = backups.c


@dataclass(frozen=True)
class NewestBackup:
    """`age_seconds`: since its dump or, while `made_at` (UTC) is None, since somebody first began one."""

    made_at: datetime | None
    age_seconds: float
    size_bytes: int
    seconds: float | None


def read_newest(connection: Connection) -> dict[str, NewestBackup]:
    """By place; nothing for a place where nobody has begun a backup."""
    rows = connection.execute(select(backups, utc_now().label("now")).order_by(_columns.place))
    return {
        row.place: NewestBackup(
            row.made_at,
            round(max(0.0, (row.now - (row.made_at or row.asked_at)).total_seconds()), 3),
            row.size_bytes,
            row.seconds,
        )
        for row in rows
    }


class BackupNotes:
    """What one `backup create` notes. A database that refuses it is no reason to end: `say` gets one line."""

    def __init__(self, engine: Engine, say: Callable[[str], None]) -> None:
        self._engine = engine
        self._say = say
        self._is_refused = False

    def begin(self, place: str) -> None:
        """Note that a backup is wanted there: one that never ends must not go unseen."""
        self._try(lambda: note_begun(self._engine, place))

    def end(self, place: str, made: Manifest, seconds: float) -> None:
        self._try(lambda: note_made(self._engine, place, made, seconds))

    def _try(self, note: Callable[[], None]) -> None:
        if self._is_refused:
            return
        try:
            note()
        except DBAPIError as error:
            self._is_refused = True
            self._say(f"the database did not note this backup, so metrics and status lack it: {error.orig}")


def note_begun(engine: Engine, place: str) -> None:
    producer.run(engine, lambda connection: _change(connection, place))


def note_made(engine: Engine, place: str, made: Manifest, seconds: float | None) -> None:
    """`seconds` is None if nobody knows how long it took."""
    copied_bytes = made.objects.size_bytes if place == COPY else 0
    values = {
        "made_at": keys.parse_timestamp(made.timestamp).replace(tzinfo=None),
        "size_bytes": made.dump.size_bytes + copied_bytes,
        "seconds": seconds,
    }
    producer.run(engine, lambda connection: _change(connection, place, **values))


def _change(connection: Connection, place: str, **values: Any) -> None:
    """The lock of backups keeps other ones away."""
    found = select(_columns.place).where(_columns.place == place)
    if connection.execute(found).first() is None:
        connection.execute(insert(backups).values(place=place))
    if values:
        connection.execute(update(backups).where(_columns.place == place).values(values))
