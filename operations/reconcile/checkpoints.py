"""The table `reconcile_reports`: where an interrupted run continues, and the reports of the last runs."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, delete, insert, select, update

from schema.database.clock import utc_now
from schema.database.connection import reading
from schema.database.tables import reconcile_reports

_KEPT = 100  # reports

_columns = reconcile_reports.c


class Checkpoint:
    """The row of one run."""

    def __init__(self, engine: Engine, report_id: int) -> None:
        self._engine = engine
        self._id = report_id

    @classmethod
    def begin(cls, engine: Engine) -> "Checkpoint":
        with engine.begin() as connection:
            made = connection.execute(insert(reconcile_reports)).inserted_primary_key
            assert made is not None
            oldest = select(_columns.id).order_by(_columns.id.desc()).limit(1).offset(_KEPT)
            if (last := connection.execute(oldest).scalar_one_or_none()) is not None:
                connection.execute(delete(reconcile_reports).where(_columns.id <= last))
        return cls(engine, made[0])

    @classmethod
    def find_interrupted(cls, engine: Engine) -> "tuple[Checkpoint, dict[str, Any]] | None":
        """The newest run, if it was interrupted after a first step, and its progress."""
        newest = select(_columns.id, _columns.ended_at, _columns.progress).order_by(_columns.id.desc()).limit(1)
        with reading(engine) as connection:
            row = connection.execute(newest).one_or_none()
        if row is None or row.ended_at is not None or row.progress is None:
            return None
        return cls(engine, row.id), row.progress

    def note(self, progress: Mapping[str, Any]) -> None:
        self._write(progress=dict(progress))

    def end(self, report: Mapping[str, Any]) -> None:
        self._write(ended_at=utc_now(), progress=None, report=dict(report))

    def _write(self, **values: Any) -> None:
        with self._engine.begin() as connection:
            connection.execute(update(reconcile_reports).where(_columns.id == self._id).values(**values))


def last_report(engine: Engine) -> dict[str, Any] | None:
    """The report of the last run that ended; None if none did."""
    found = last_run(engine)
    return None if found is None else found[0]


def last_run(engine: Engine) -> tuple[dict[str, Any], datetime] | None:
    """The report of the last run that ended, and when it ended in UTC; None if none did."""
    columns = select(_columns.report, _columns.ended_at).where(_columns.ended_at.is_not(None))
    with reading(engine) as connection:
        row = connection.execute(columns.order_by(_columns.id.desc()).limit(1)).one_or_none()
    return None if row is None else (row.report, row.ended_at)
