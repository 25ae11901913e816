"""The statements of a relay: claim rows, settle them. One function is one transaction.

Invariant 4: rows are read from the oldest on, each time; there is no cursor that a late commit could fall behind.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC
from itertools import groupby
from typing import Any

import msgspec
from sqlalchemy import (
    Connection,
    Engine,
    Row,
    delete,
    event,
    insert,
    null,
    select,
    tuple_,
)

from relays import outbox_row
from relays.outbox_row import WHOLE, OutboxRow
from schema.batches import bounded
from schema.database.connection import reading
from schema.database.outbox_rows import envelope_of
from schema.database.tables import outbox, outbox_dead_letters
from schema.failures import DeadLetter

_log = logging.getLogger(__name__)

_RUN_ROWS = 16
_GROUP_ROWS = 1_000  # in one value
_GROUP_BYTES = 1024 * 1024
_OLDEST = "(SELECT id, payload_bytes FROM outbox WHERE lane = {lane:d}{but} ORDER BY id LIMIT {rows:d})"
_AS_JSON = f"SELECT {WHOLE} CONCAT('[', GROUP_CONCAT('[', id, ',', payload_bytes, ']'), ']') FROM ({{lanes}}) AS oldest"

_SIZES = list[tuple[int, int]]
_SMALL_DELETES = "SET SESSION binlog_row_image = 'MINIMAL'"
_MAY_NOT = 1227  # MySQL: a privilege is missing
Run = tuple[int, int]  # first and last of consecutive ids


def log_small_deletes(engine: Engine) -> None:
    """Have MySQL write the keys of settled rows to its binlog, and not their payloads a second time."""
    event.listen(engine, "connect", _log_small_deletes)
    engine.dispose()  # whoever is connected already would go on as before


def claim_oldest(engine: Engine, rows: int, size_bytes: int) -> list[OutboxRow]:
    """The oldest rows of all lanes in id order, bounded in rows and bytes."""
    with reading(engine) as connection:
        sizes = connection.execute(select(outbox.c.id, outbox.c.payload_bytes).order_by(outbox.c.id).limit(rows)).all()
        batch = next(bounded(sizes, rows, size_bytes, lambda row: int(row.payload_bytes)), [])
        return _read(connection, [row.id for row in batch])


def claim_lanes(
    engine: Engine, lanes: Collection[int], in_flight: Collection[OutboxRow], rows_a_lane: int, size_bytes: int
) -> list[OutboxRow]:
    """The oldest rows of each lane that are not in flight, in id order; bounded in rows a lane, and in bytes. MySQL."""
    if not lanes:
        return []
    runs, single = _runs(row.id for row in in_flight)
    skipped = set(single)
    among_them = max(Counter(row.lane for row in in_flight if row.id in skipped).values(), default=0)
    but = "".join(f" AND id NOT BETWEEN {first:d} AND {last:d}" for first, last in runs)
    oldest = (_OLDEST.format(lane=lane, but=but, rows=rows_a_lane + among_them) for lane in sorted(lanes))
    with reading(engine) as connection:
        # One value, in any order; see relays/outbox_row.py.
        found = connection.exec_driver_sql(_AS_JSON.format(lanes=" UNION ALL ".join(oldest))).scalar()
        sizes = [one for one in msgspec.json.decode(found or "[]", type=_SIZES) if one[0] not in skipped]
        batch = next(bounded(sorted(sizes), len(sizes) or 1, size_bytes, lambda one: one[1]), [])
        if not batch:
            return []
        groups = bounded(batch, _GROUP_ROWS, _GROUP_BYTES, lambda one: one[1])
        statement = outbox_row.selected(_among([outbox_id for outbox_id, _ in group]) for group in groups)
        values = connection.exec_driver_sql(statement).scalars()
        rows = [row for value in values if value is not None for row in outbox_row.unpack(value)]
        return sorted(rows, key=lambda row: row.id)


def event_ids(engine: Engine, ids: Collection[int]) -> list[tuple[int, str]]:
    """(id, event id) of those rows that are still there."""
    with reading(engine) as connection:
        found = connection.execute(select(outbox.c.id, outbox.c.event_id).where(outbox.c.id.in_(ids)))
        return [(row.id, row.event_id) for row in found]


def settle(engine: Engine, ids: Sequence[int], dead: Sequence[tuple[int, DeadLetter]] = ()) -> None:
    """Remove rows, and keep those given up, as (id, dead letter), in one transaction. Idempotent."""
    letters = {(letter.stage, letter.envelope.event_id): (outbox_id, letter) for outbox_id, letter in dead}
    with engine.begin() as connection:
        if letters:  # an event may come twice: the newest is kept
            known = tuple_(outbox_dead_letters.c.stage, outbox_dead_letters.c.event_id)
            connection.execute(delete(outbox_dead_letters).where(known.in_(list(letters))))
            connection.execute(insert(outbox_dead_letters), [_dead_row(*letter) for letter in letters.values()])
        if ids:
            connection.exec_driver_sql(f"DELETE FROM outbox WHERE {_among(ids)}")


def _log_small_deletes(connection: Any, _record: Any) -> None:
    import pymysql  # loaded by now, and not needed on SQLite

    try:
        with connection.cursor() as cursor:
            cursor.execute(_SMALL_DELETES)
    except pymysql.err.OperationalError as error:
        if error.args[0] != _MAY_NOT:
            raise
        _log.info("deletes_logged_whole missing_privilege=SESSION_VARIABLES_ADMIN")


def _among(ids: Sequence[int]) -> str:
    """The rows with these ids, as SQL; MySQL finds ranges faster than many keys."""
    runs, single = _runs(ids)
    conditions = [f"id BETWEEN {first:d} AND {last:d}" for first, last in runs]
    if single:
        conditions.append(f"id IN ({', '.join(f'{outbox_id:d}' for outbox_id in single)})")
    return " OR ".join(conditions)


def _runs(ids: Iterable[int]) -> tuple[list[Run], list[int]]:
    """The long runs of consecutive ids, and the ids that are in none."""
    runs: list[Run] = []
    single: list[int] = []
    for _, numbered in groupby(enumerate(sorted(ids)), lambda one: one[1] - one[0]):
        run = [outbox_id for _, outbox_id in numbered]
        if len(run) < _RUN_ROWS:
            single += run
        else:
            runs.append((run[0], run[-1]))
    return runs, single


def _read(connection: Connection, ids: Sequence[int]) -> list[OutboxRow]:
    if not ids:
        return []
    rows = connection.execute(select(outbox).where(outbox.c.id.in_(ids)).order_by(outbox.c.id))
    return [_outbox_row(row) for row in rows]


def _outbox_row(row: Row[Any]) -> OutboxRow:
    return OutboxRow(row.id, row.lane, row.created_at.replace(tzinfo=UTC).isoformat(), envelope_of(row))


def _dead_row(outbox_id: int, letter: DeadLetter) -> Mapping[str, Any]:
    envelope = letter.envelope
    return {
        "stage": letter.stage,
        "outbox_id": outbox_id,
        "event_id": envelope.event_id,
        "aggregate_type": "document",
        "aggregate_id": envelope.doc_id,
        "aggregate_version": envelope.version,
        "event_type": envelope.event_type,
        "content_type": envelope.content_type,
        "headers": dict(envelope.headers) or null(),
        "payload": envelope.payload,
        "error": letter.reason,
        "attempts": 1,
    }
