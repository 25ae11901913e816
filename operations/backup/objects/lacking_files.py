"""Files that restored documents and open tasks name and the object store lacks: they were removed since the dump."""

from collections.abc import Iterator

import msgspec
from sqlalchemy import ColumnElement, Engine, and_, or_, select

from producer.processing.tasks import queue
from producer.processing.tasks.task_input import TaskInput
from schema.database.connection import reading
from schema.database.statements import IDS_PER_STATEMENT
from schema.database.tables import TASK_TYPES, document_files, processing_tasks, sink_states
from schema.object_store.layout import STAGING_PREFIX
from schema.object_store.port import ObjectStore
from schema.sinks import MINIO

_FILE, _STATE = document_files.c, sink_states.c
_IS_HELD = _STATE.applied_version >= _FILE.version
_IS_NOT_HELD = or_(_STATE.applied_version.is_(None), _STATE.applied_version < _FILE.version)


def find_lacking(engine: Engine, store: ObjectStore) -> Iterator[tuple[str, str]]:
    """The document and the key of each file that is missing or has another size.

    Of files that the sink does not hold yet, small ones are in their event; large ones are staged. Open tasks need the
    uploaded file, or what the steps before left.
    """
    yield from _compare(engine, store, _FILE.object_key, _IS_HELD, "")
    named = set()
    for doc_id, key in _compare(engine, store, _FILE.staged_key, _IS_NOT_HELD, STAGING_PREFIX):
        named.add(key)
        yield doc_id, key
    staged = {key for key, _ in store.sizes(STAGING_PREFIX)}
    for doc_id, keys in _read_tasks(engine):
        yield from ((doc_id, key) for key in keys if key not in staged and key not in named)


def _compare(
    engine: Engine, store: ObjectStore, column: ColumnElement[str], chosen: ColumnElement[bool], prefix: str
) -> Iterator[tuple[str, str]]:
    held = store.sizes(prefix)
    key, size_bytes = next(held, (None, 0))
    for wanted, doc_id, expected in _read_wanted(engine, column, chosen):
        while key is not None and key.encode() < wanted.encode():
            key, size_bytes = next(held, (None, 0))
        if (key, size_bytes) != (wanted, expected):
            yield doc_id, wanted


def _read_wanted(
    engine: Engine, column: ColumnElement[str], chosen: ColumnElement[bool]
) -> Iterator[tuple[str, str, int]]:
    """Key, document and bytes, in the order of the keys."""
    joined = document_files.outerjoin(sink_states, and_(_STATE.doc_id == _FILE.doc_id, _STATE.sink == MINIO))
    wanted = column.label("wanted")
    statement = (
        select(wanted, _FILE.doc_id, _FILE.size_bytes)
        .select_from(joined)
        .where(_FILE.removed_in_version.is_(None), chosen)
        .order_by(column)
        .limit(IDS_PER_STATEMENT)
    )
    after = ""
    while True:
        with reading(engine) as connection:
            rows = connection.execute(statement.where(column > after)).all()
        if not rows:
            return
        yield from ((row.wanted, row.doc_id, row.size_bytes) for row in rows)
        after = rows[-1].wanted


def _read_tasks(engine: Engine) -> Iterator[tuple[str, list[str]]]:
    """The document of each open task, and the staged objects that its step reads."""
    task = processing_tasks.c
    statement = (
        select(task.task_id, task.doc_id, task.task_type, task.input_json)
        .where(task.status.in_(queue.OPEN))
        .order_by(task.task_id)
        .limit(IDS_PER_STATEMENT)
    )
    after = ""
    while True:
        with reading(engine) as connection:
            rows = connection.execute(statement.where(task.task_id > after)).all()
        if not rows:
            return
        for row in rows:
            given = msgspec.convert(row.input_json, TaskInput)
            is_first = row.task_type == TASK_TYPES[0]
            uploaded = given.file.staged_key if is_first or not given.is_new else ""
            yield row.doc_id, list(filter(None, (uploaded, given.extracted_key, given.chunks_key, given.vectors_key)))
        after = rows[-1].task_id
