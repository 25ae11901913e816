"""The tasks of the task queue, as operators see them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select

from operations.documents.listing import utc_text
from operations.wiring import System
from producer.processing.tasks import queue
from schema.database.connection import reading
from schema.database.tables import TASK_STATES, TASK_TYPES, processing_tasks

_COLUMNS = (
    *("task_id", "task_type", "doc_id", "status", "priority", "attempt", "retry_count"),
    *("error_message", "result_json"),
)
_TIMES = ("created_at", "started_at", "completed_at")
_tasks = processing_tasks.c


def count_tasks(system: System) -> dict[str, dict[str, int]]:
    """The number of tasks by step and state."""
    counted = select(_tasks.task_type, _tasks.status, func.count()).group_by(_tasks.task_type, _tasks.status)
    with reading(system.engine) as connection:
        found = {(step, status): number for step, status, number in connection.execute(counted)}
    return {step: {status: found.get((step, status), 0) for status in TASK_STATES} for step in TASK_TYPES}


def list_tasks(system: System, status: str, limit: int) -> list[dict[str, Any]]:
    """The tasks in a state, the newest first."""
    columns = select(*(_tasks[name] for name in (*_COLUMNS, *_TIMES))).where(_tasks.status == status)
    with reading(system.engine) as connection:
        rows = connection.execute(columns.order_by(_tasks.created_at.desc()).limit(limit)).all()
    return [
        {**{name: getattr(row, name) for name in _COLUMNS}, **{name: utc_text(getattr(row, name)) for name in _TIMES}}
        for row in rows
    ]


def find_failed(system: System, doc_id: str, task_id: str) -> dict[str, Any] | None:
    """The step and the reason of a failed task of this document; None if there is no such one."""
    columns = select(_tasks.task_type, _tasks.error_message)
    failed = columns.where(_tasks.task_id == task_id, _tasks.doc_id == doc_id, _tasks.status == "failed")
    with reading(system.engine) as connection:
        row = connection.execute(failed).one_or_none()
    return None if row is None else dict(row._mapping)


def retry(system: System, task_ids: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Queue these failed tasks again (None: all). Returns the ids of those that were, and of the others."""
    if task_ids is None:
        with reading(system.engine) as connection:
            task_ids = list(connection.execute(select(_tasks.task_id).where(_tasks.status == "failed")).scalars())
    queued = queue.retry(system.engine, task_ids, operator=system.operator)
    return queued, [task_id for task_id in task_ids if task_id not in set(queued)]
