"""The queue on the table `processing_tasks`: add, claim, finish, fail, reap.

A claimed task has a lease, and `attempt` counts its claims. Only the worker of the newest claim can finish a task: all
others are fenced off. A worker that died leaves a lease that ends; the task is then queued again.
"""

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, Row, and_, func, insert, null, select, update

from producer.errors import ProducerError
from producer.processing.tasks.task_input import TaskInput
from schema.database.clock import utc_now
from schema.database.connection import reading
from schema.database.statements import select_for_ids
from schema.database.tables import TASK_TYPES, documents, operation_logs, processing_tasks

MAX_RETRIES = 5  # of a step whose own fault the failures may be
_REAPED = 100  # tasks per call
_LONGEST_WAIT_SECONDS = 600
_ERROR_CHARACTERS = 2_000
OPEN = ("queued", "running")
_tasks = processing_tasks.c


class LeaseLost(ProducerError):
    """Raised when a worker ends a task that another one claimed after its lease, or that is superseded."""


@dataclass(frozen=True, slots=True)
class Task:
    """A claimed task."""

    task_id: str
    task_type: str
    doc_id: str
    upload_id: str
    attempt: int
    version: int  # of the document when the file was uploaded
    priority: int
    input: TaskInput
    available_at: datetime | None = None  # its place in the queue, which the next step of the upload inherits

    @classmethod
    def of(cls, row: Row[Any], attempt: int) -> "Task":
        """Of a row of `processing_tasks`."""
        given = msgspec.convert(row.input_json, TaskInput)
        values = (row.task_id, row.task_type, row.doc_id, row.upload_id, attempt, row.version, row.priority)
        return cls(*values, given, row.available_at)


@dataclass(frozen=True, slots=True)
class OpenTask:
    """What a queued or running task works on."""

    input: TaskInput
    priority: int


def add(connection: Connection, doc_id: str, version: int, given: TaskInput, *, priority: int = 0) -> str:
    """Queue the first step of an upload in the caller's transaction. Returns its id, which is that of the upload."""
    task_id = uuid.uuid4().hex
    _set_status(connection, doc_id, "failed", "processing")  # the same file as before, which failed, for instance
    return _add(connection, task_id, TASK_TYPES[0], doc_id, task_id, version, priority, given)


def add_next(connection: Connection, task: Task, task_type: str, given: TaskInput) -> str:
    """Queue the step after `task` in the transaction that ends it. Returns its id.

    It comes before the steps of later uploads, so that each upload is finished early.
    """
    following = (task.doc_id, task.upload_id, task.version, task.priority)
    return _add(connection, uuid.uuid4().hex, task_type, *following, given, task.available_at)


def _add(
    connection: Connection,
    task_id: str,
    task_type: str,
    doc_id: str,
    upload_id: str,
    version: int,
    priority: int,
    given: TaskInput,
    available_at: datetime | None = None,
) -> str:
    place = {} if available_at is None else {"available_at": available_at}
    connection.execute(
        insert(processing_tasks).values(
            task_id=task_id,
            task_type=task_type,
            doc_id=doc_id,
            upload_id=upload_id,
            version=version,
            priority=priority,
            file_sha256=given.file.sha256,
            staged_key=given.file.staged_key,
            input_json=msgspec.to_builtins(given),
            **place,
        )
    )
    return task_id


def claim(engine: Engine, task_types: Collection[str], lease_seconds: float) -> Task | None:
    """The task of the highest priority that waits longest, for `lease_seconds`; None if none is due."""
    is_due = and_(_tasks.status == "queued", _tasks.available_at <= utc_now())
    if set(task_types) != set(TASK_TYPES):
        is_due = and_(is_due, _tasks.task_type.in_(sorted(task_types)))
    oldest = select(processing_tasks, utc_now().label("now")).where(is_due)
    oldest = oldest.order_by(_tasks.priority.desc(), _tasks.available_at).limit(1)
    with reading(engine) as connection:  # takes no lock: most looks find nothing
        if connection.execute(oldest.with_only_columns(_tasks.task_id)).one_or_none() is None:
            return None
    with engine.begin() as connection:
        row = connection.execute(oldest.with_for_update(skip_locked=True)).one_or_none()
        if row is None:
            return None
        of_row = update(processing_tasks).where(_tasks.task_id == row.task_id)
        try:
            task = Task.of(row, row.attempt + 1)
        except msgspec.ValidationError as error:  # a row of a foreign writer must not end the worker
            reason = f"its input cannot be read: {error}"
            connection.execute(of_row.values(status="failed", completed_at=utc_now(), error_message=reason))
            return None
        lease_until = row.now + timedelta(seconds=lease_seconds)
        connection.execute(
            of_row.values(status="running", attempt=task.attempt, started_at=utc_now(), lease_until=lease_until)
        )
    return task


def extend(engine: Engine, tasks: Sequence[Task], lease_seconds: float) -> None:
    """Extend the leases of tasks that a worker still runs."""
    for task in tasks:
        with engine.begin() as connection:
            now = connection.execute(select(utc_now())).scalar_one()
            until = now + timedelta(seconds=lease_seconds)
            connection.execute(update(processing_tasks).where(_is_held(task)).values(lease_until=until))


def finish(connection: Connection, task: Task, result: Mapping[str, Any], status: str = "completed") -> None:
    """End a task in the caller's transaction. Raises LeaseLost: roll back."""
    values = {"status": status, "completed_at": utc_now(), "lease_until": null(), "error_message": null()}
    ended = update(processing_tasks).where(_is_held(task)).values(**values, result_json=dict(result))
    if connection.execute(ended).rowcount != 1:
        raise LeaseLost(f"task {task.task_id} of document {task.doc_id!r} belongs to another worker, or is superseded")


def release(engine: Engine, task: Task, reason: str, *, is_counted: bool) -> None:
    """Queue a task again, after a wait that grows with its attempts; fail it after MAX_RETRIES if this one is counted.

    Not counted: a store or the database is away, which is not the file's fault.
    """
    with engine.begin() as connection:
        _release(connection, task, reason, is_counted=is_counted)


def fail(engine: Engine, task: Task, reason: str) -> None:
    """End a task whose file cannot be processed; a document without chunks fails with it."""
    with engine.begin() as connection:
        _fail(connection, task, reason)


def reap(engine: Engine) -> int:
    """Queue tasks again whose worker did not extend its lease, or fail them after MAX_RETRIES. Returns how many."""
    ended = and_(_tasks.status == "running", _tasks.lease_until < utc_now())
    with reading(engine) as connection:
        rows = connection.execute(select(processing_tasks).where(ended).limit(_REAPED)).all()
    for row in rows:
        task = Task.of(row, row.attempt)
        with engine.begin() as connection:
            held = select(_tasks.task_id).where(_is_held(task), _tasks.lease_until < utc_now()).with_for_update()
            if connection.execute(held).one_or_none() is not None:
                _release(connection, task, "its worker ended, or lost the database", is_counted=True)
    return len(rows)


def supersede(connection: Connection, doc_id: str) -> None:
    """End the open and failed tasks of a document, whose lock the caller holds: it has a newer file."""
    ended = and_(_tasks.doc_id == doc_id, _tasks.status.in_((*OPEN, "failed")))
    values = {"status": "superseded", "completed_at": utc_now(), "lease_until": null()}
    connection.execute(update(processing_tasks).where(ended).values(values))


def retry(engine: Engine, task_ids: Sequence[str], *, operator: str = "unknown") -> list[str]:
    """Queue failed tasks again, with all their retries. Returns the ids of those that were.

    The operation log of each document keeps who did it, and why the task had failed.
    """
    queued = []
    for task_id in task_ids:
        with engine.begin() as connection:
            failed = and_(_tasks.task_id == task_id, _tasks.status == "failed")
            row = connection.execute(select(processing_tasks).where(failed).with_for_update()).one_or_none()
            if row is None:
                continue
            values = {"status": "queued", "retry_count": 0, "available_at": utc_now(), "completed_at": null()}
            connection.execute(update(processing_tasks).where(failed).values(values))
            _set_status(connection, row.doc_id, "failed", "processing")
            connection.execute(
                insert(operation_logs).values(
                    operation_type="SYNC",
                    target_table=processing_tasks.name,
                    target_id=row.doc_id,
                    payload={"task_id": task_id, "task_type": row.task_type, "reason": row.error_message},
                    operator=operator,
                )
            )
        queued.append(task_id)
    return queued


def count_open(engine: Engine, task_types: Collection[str] = TASK_TYPES) -> int:
    """The tasks that are queued or running, and that are of these types or lead to a task of them."""
    leading = TASK_TYPES[: max(TASK_TYPES.index(one) for one in task_types) + 1]
    is_open = and_(_tasks.status.in_(OPEN), _tasks.task_type.in_(leading))
    with reading(engine) as connection:
        return connection.execute(select(func.count()).where(is_open)).scalar_one()


def find_open(engine: Engine, doc_ids: Sequence[str]) -> dict[str, OpenTask]:
    """The open tasks of these documents by doc_id; a document has at most one."""
    is_open = and_(_tasks.doc_id.in_(doc_ids), _tasks.status.in_(OPEN))
    columns = select(_tasks.doc_id, _tasks.input_json, _tasks.priority)
    with reading(engine) as connection:
        rows = connection.execute(columns.where(is_open)).all()
    return {row.doc_id: OpenTask(msgspec.convert(row.input_json, TaskInput), row.priority) for row in rows}


def find_needed(connection: Connection, staged_keys: Sequence[str], upload_ids: Sequence[str]) -> set[str]:
    """Those of the staged objects, and of the uploads, that an open or failed task needs."""
    needed: set[str] = set()
    is_kept = _tasks.status.in_((*OPEN, "failed"))
    for column, given in ((_tasks.staged_key, staged_keys), (_tasks.upload_id, upload_ids)):
        needed.update(key for (key,) in select_for_ids(connection, select(column).where(is_kept), column, given))
    return needed


def _release(connection: Connection, task: Task, reason: str, *, is_counted: bool) -> None:
    row = connection.execute(select(_tasks.retry_count, utc_now().label("now")).where(_is_held(task))).one_or_none()
    if row is None:
        return
    retries = row.retry_count + is_counted
    if retries > MAX_RETRIES:
        _fail(connection, task, f"failed {retries} times, at last: {reason}")
        return
    wait = timedelta(seconds=min(2.0 ** min(task.attempt - 1, 32), _LONGEST_WAIT_SECONDS))
    values = {"status": "queued", "retry_count": retries, "lease_until": null(), "available_at": row.now + wait}
    again = update(processing_tasks).where(_is_held(task))
    connection.execute(again.values(**values, error_message=reason[:_ERROR_CHARACTERS]))


def _fail(connection: Connection, task: Task, reason: str) -> None:
    values = {"status": "failed", "completed_at": utc_now(), "lease_until": null()}
    failed = update(processing_tasks).where(_is_held(task))
    if connection.execute(failed.values(**values, error_message=reason[:_ERROR_CHARACTERS])).rowcount:
        _set_status(connection, task.doc_id, "processing", "failed")


def _set_status(connection: Connection, doc_id: str, old: str, new: str) -> None:
    """Of a document that has no chunks yet; another one keeps the state of what it holds."""
    column = documents.c
    is_without_chunks = and_(column.doc_id == doc_id, column.status == old, column.chunk_count.is_(None))
    connection.execute(update(documents).where(is_without_chunks).values(status=new))


def _is_held(task: Task) -> ColumnElement[bool]:
    return and_(_tasks.task_id == task.task_id, _tasks.attempt == task.attempt, _tasks.status == "running")
