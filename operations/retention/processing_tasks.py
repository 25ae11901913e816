"""Tasks: those that ended before the limit are removed. One without `completed_at` counts from its creation."""

from datetime import datetime

from sqlalchemy import ColumnElement, Engine, and_, func, or_

from operations.retention.old_rows import OldRows
from operations.retention.policy import PROCESSING_TASKS
from schema.database.tables import processing_tasks

ENDED = ("completed", "failed", "superseded")
_ROWS = 200

_columns = processing_tasks.c


def old_processing_tasks(engine: Engine, days: int) -> OldRows:
    at = func.coalesce(_columns.completed_at, _columns.created_at)
    return OldRows(
        engine, PROCESSING_TASKS, processing_tasks, _columns.task_id, at, _is_old, days, _ROWS, still=_is_old
    )


def _is_old(limit: datetime) -> ColumnElement[bool]:
    ended_before = or_(
        _columns.completed_at < limit, and_(_columns.completed_at.is_(None), _columns.created_at < limit)
    )
    return and_(_columns.status.in_(ENDED), ended_before)
