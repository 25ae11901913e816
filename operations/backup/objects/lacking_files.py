"""Files that restored documents name and the object store lacks: they were removed since the dump."""

from collections.abc import Iterator

from sqlalchemy import ColumnElement, Engine, and_, or_, select

from schema.database.connection import reading
from schema.database.statements import IDS_PER_STATEMENT
from schema.database.tables import document_files, sink_states
from schema.object_store.layout import STAGING_PREFIX
from schema.object_store.port import ObjectStore
from schema.sinks import MINIO

_FILE, _STATE = document_files.c, sink_states.c
_IS_HELD = _STATE.applied_version >= _FILE.version
_IS_NOT_HELD = or_(_STATE.applied_version.is_(None), _STATE.applied_version < _FILE.version)


def find_lacking(engine: Engine, store: ObjectStore) -> Iterator[tuple[str, str]]:
    """The document and the key of each file that is missing or has another size.

    Of files that the sink does not hold yet, small ones are in their event; large ones are staged.
    """
    yield from _compare(engine, store, _FILE.object_key, _IS_HELD, "")
    yield from _compare(engine, store, _FILE.staged_key, _IS_NOT_HELD, STAGING_PREFIX)


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
