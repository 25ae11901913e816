"""The statements of a relay: claim rows, settle them. One function is one transaction.

Invariant 4: rows are read from the oldest on, each time; there is no cursor that a late commit could fall behind.

On MySQL a claim travels as one value per group of rows, and an id list as ranges; see
docs/decisions/0009-a-claim-travels-as-one-value.md. Packed, a row is a JSON array of all columns but the payload, a
line feed, which no JSON that MySQL writes contains, and the payload.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC
from itertools import groupby
from typing import Any

import msgspec
from sqlalchemy import (
    Connection,
    Engine,
    Row,
    cast,
    delete,
    event,
    func,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.mysql import BINARY

from relays import offset_metadata
from relays.ports import Named, OutboxRow
from schema.batches import bounded
from schema.database import dead_letters, sqlite_progress
from schema.database.connection import probe, reading
from schema.database.history import NotInitialised, lock_identity
from schema.database.outbox_rows import envelope_of
from schema.database.statements import IDS_PER_STATEMENT
from schema.database.tables import outbox, system_identity
from schema.events.events import Envelope
from schema.failures import DeadLetter

_log = logging.getLogger(__name__)

_RUN_ROWS = 16  # the shortest run of consecutive ids that becomes a range
_GROUP_ROWS = 1_000  # per value
_GROUP_BYTES = 1024 * 1024
_WHOLE = "/*+ SET_VAR(group_concat_max_len = 1073741824) */"  # GROUP_CONCAT would cut off after 1 KiB
_OLDEST = "(SELECT id, payload_bytes FROM outbox WHERE lane = {lane:d}{skip} ORDER BY id LIMIT {rows:d})"
_SIZES_AS_JSON = (
    f"SELECT {_WHOLE} (SELECT history_id FROM system_identity WHERE id = 1), "
    "CONCAT('[', GROUP_CONCAT('[', id, ',', payload_bytes, ']'), ']') FROM ({lanes}) AS oldest"
)
_HISTORY = select(system_identity.c.history_id).where(system_identity.c.id == 1)
_PACKED_ROW = func.concat(
    cast(
        func.json_array(
            outbox.c.payload_bytes,
            outbox.c.id,
            outbox.c.lane,
            func.date_format(outbox.c.created_at, "%Y-%m-%dT%H:%i:%S.%f+00:00"),
            outbox.c.event_id,
            outbox.c.event_type,
            outbox.c.aggregate_id,
            outbox.c.aggregate_version,
            outbox.c.content_type,
            outbox.c.headers,
        ),
        BINARY,
    ),
    "\n",
    outbox.c.payload,
)
_PACKED_ROWS = (
    select(func.group_concat(_PACKED_ROW.op("SEPARATOR")(literal_column("''"))))
    .prefix_with(_WHOLE)
    .compile(dialect=mysql.dialect(paramstyle="format"), compile_kwargs={"literal_binds": True})
)
_SMALL_DELETES = "SET SESSION binlog_row_image = 'MINIMAL'"
_PRIVILEGE_MISSING = 1227  # of MySQL


class _Head(msgspec.Struct, frozen=True, array_like=True):
    """The columns of `_PACKED_ROW` before the payload."""

    size_bytes: int
    id: int
    lane: int
    created_at: str
    event_id: str
    event_type: str
    doc_id: str
    version: int
    content_type: str
    headers: Any  # a writer in another language may write any JSON


_HEAD_DECODER = msgspec.json.Decoder(_Head)
_SIZES_DECODER = msgspec.json.Decoder(list[tuple[int, int]])  # id, bytes of the payload


class SqlOutbox:
    """The outbox in MySQL or, without `claim_lanes`, in SQLite."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def open(self) -> None:
        """Have MySQL write only the keys of settled rows to its binlog, and not their payloads a second time."""
        event.listen(self._engine, "connect", _log_small_deletes)
        self._engine.dispose()  # connections that exist would go on logging whole rows

    def probe(self) -> None:
        probe(self._engine)

    def start_history(self) -> None:
        with self._engine.begin() as connection:
            lock_identity(connection)

    def note_relayed(self, outbox_id: int) -> None:
        sqlite_progress.note_relayed(self._engine, outbox_id)

    def claim_oldest(self, rows: int, size_bytes: int) -> list[OutboxRow]:
        with reading(self._engine) as connection:
            history_id = _require(connection.execute(_HISTORY).scalar())  # before the rows: see `settle`
            columns = (outbox.c.id, outbox.c.payload_bytes)
            sizes = connection.execute(select(*columns).order_by(outbox.c.id).limit(rows)).all()
            batch = next(bounded(sizes, rows, size_bytes, lambda row: int(row.payload_bytes)), [])
            return _read(connection, [row.id for row in batch], history_id)

    def claim_lanes(
        self, lanes: Collection[int], in_flight: Collection[OutboxRow], rows_per_lane: int, size_bytes: int
    ) -> list[OutboxRow]:
        if not lanes:
            return []
        with reading(self._engine) as connection:
            history_id, sizes = _read_sizes(connection, lanes, in_flight, rows_per_lane)
            batch = next(bounded(sizes, len(sizes) or 1, size_bytes, lambda one: one[1]), [])
            return _read_packed(connection, batch, history_id)

    def settle(self, rows: Sequence[OutboxRow], dead: Sequence[DeadLetter] = ()) -> None:
        if not rows:
            return
        # A hung call may reach MySQL after the relay left its group. Without a COMMIT it does nothing; with one, it
        # removes published rows of this history.
        with self._engine.begin() as connection:
            # A new history waits for this lock before it inserts rows, and this waits for one that is starting: a row
            # that uses an id again is never here in the history of the claim.
            history_id = connection.execute(_HISTORY.with_for_update(read=True)).scalar()
            _store_dead_letters(connection, rows, dead)
            if all(row.history_id == history_id for row in rows):
                connection.exec_driver_sql(f"DELETE FROM outbox WHERE {_ids_condition(row.id for row in rows)}")
            else:
                _delete_exactly(connection, [(row.id, row.envelope.event_id) for row in rows])

    def count_dead_letters(self, stages: Collection[str]) -> int:
        with reading(self._engine) as connection:
            return dead_letters.count_recent(connection, stages)

    def settle_named(self, named: Collection[Named]) -> int:
        with self._engine.begin() as connection:
            ids = [outbox_id for outbox_id, _ in named]
            found = connection.execute(select(outbox.c.id, outbox.c.event_id).where(outbox.c.id.in_(ids)))
            return _delete_exactly(connection, offset_metadata.match(named, ((row.id, row.event_id) for row in found)))


def unpack(packed: bytes, history_id: str) -> Iterator[OutboxRow]:
    """The rows of a packed value. Raises ValueError when MySQL cut it off."""
    at = 0
    while at < len(packed):
        end = packed.index(b"\n", at)
        head = _HEAD_DECODER.decode(packed[at:end])
        begin, at = end + 1, end + 1 + head.size_bytes
        if at > len(packed):
            raise ValueError(f"outbox row {head.id} is cut off: max_allowed_packet is too small for it")
        headers = {name: str(value) for name, value in head.headers.items()} if isinstance(head.headers, dict) else {}
        envelope = Envelope(
            head.event_id, head.event_type, head.doc_id, head.version, head.content_type, packed[begin:at], headers
        )
        yield OutboxRow(head.id, head.lane, head.created_at, envelope, history_id)


def _read_sizes(
    connection: Connection, lanes: Collection[int], in_flight: Collection[OutboxRow], rows_per_lane: int
) -> tuple[str, list[tuple[int, int]]]:
    """The history, and (id, bytes of the payload) of the oldest rows of each lane, in id order."""
    runs, single = _find_runs(row.id for row in in_flight)
    skipped = set(single)  # read and left out below: many conditions cost MySQL more than many rows
    most_skipped = max(Counter(row.lane for row in in_flight if row.id in skipped).values(), default=0)
    skip = "".join(f" AND id NOT BETWEEN {first:d} AND {last:d}" for first, last in runs)
    oldest = (_OLDEST.format(lane=lane, skip=skip, rows=rows_per_lane + most_skipped) for lane in sorted(lanes))
    history_id, found = connection.exec_driver_sql(_SIZES_AS_JSON.format(lanes=" UNION ALL ".join(oldest))).one()
    return _require(history_id), sorted(one for one in _SIZES_DECODER.decode(found or "[]") if one[0] not in skipped)


def _require(history_id: str | None) -> str:
    if history_id is None:
        raise NotInitialised("the system is not initialised: run rag-outbox init")
    return history_id


def _read_packed(connection: Connection, sizes: Sequence[tuple[int, int]], history_id: str) -> list[OutboxRow]:
    if not sizes:
        return []
    groups = bounded(sizes, _GROUP_ROWS, _GROUP_BYTES, lambda one: one[1])
    conditions = (_ids_condition([outbox_id for outbox_id, _ in group]) for group in groups)
    statement = " UNION ALL ".join(f"({_PACKED_ROWS} WHERE {condition})" for condition in conditions)
    values = connection.exec_driver_sql(statement).scalars()
    rows = [row for value in values if value is not None for row in unpack(value, history_id)]
    return sorted(rows, key=lambda row: row.id)


def _ids_condition(ids: Iterable[int]) -> str:
    """A condition for the rows with these ids; MySQL finds ranges faster than many keys."""
    runs, single = _find_runs(ids)
    conditions = [f"id BETWEEN {first:d} AND {last:d}" for first, last in runs]
    if single:
        conditions.append(f"id IN ({', '.join(f'{outbox_id:d}' for outbox_id in single)})")
    return " OR ".join(conditions)


def _find_runs(ids: Iterable[int]) -> tuple[list[tuple[int, int]], list[int]]:
    """The first and last of each long run of consecutive ids, and the ids that are in none."""
    runs: list[tuple[int, int]] = []
    single: list[int] = []
    for _, numbered in groupby(enumerate(sorted(ids)), lambda one: one[1] - one[0]):
        run = [outbox_id for _, outbox_id in numbered]
        if len(run) < _RUN_ROWS:
            single += run
        else:
            runs.append((run[0], run[-1]))
    return runs, single


def _delete_exactly(connection: Connection, rows: Iterable[tuple[int, str]]) -> int:
    """Delete the rows that have this id and this event id; return how many."""
    deleted = 0
    for some in bounded(rows, IDS_PER_STATEMENT):
        by_id = outbox.c.id.in_([outbox_id for outbox_id, _ in some])  # the index; the rest compares
        exact = tuple_(outbox.c.id, outbox.c.event_id).in_(some)
        deleted += connection.execute(delete(outbox).where(by_id, exact)).rowcount
    return deleted


def _read(connection: Connection, ids: Sequence[int], history_id: str) -> list[OutboxRow]:
    if not ids:
        return []
    rows = connection.execute(select(outbox).where(outbox.c.id.in_(ids)).order_by(outbox.c.id))
    return [_outbox_row(row, history_id) for row in rows]


def _outbox_row(row: Row[Any], history_id: str) -> OutboxRow:
    created_at = row.created_at.replace(tzinfo=UTC).isoformat()
    return OutboxRow(row.id, row.lane, created_at, envelope_of(row), history_id)


def _store_dead_letters(connection: Connection, rows: Sequence[OutboxRow], dead: Sequence[DeadLetter]) -> None:
    """An event may become a dead letter twice: the newest is kept."""
    ids = {row.envelope.event_id: row.id for row in rows}
    dead_letters.store(connection, [dead_letters.row_of(one, outbox_id=ids[one.envelope.event_id]) for one in dead])


def _log_small_deletes(connection: Any, _record: Any) -> None:
    import pymysql  # the engine has loaded it; SQLite does not need it

    try:
        with connection.cursor() as cursor:
            cursor.execute(_SMALL_DELETES)
    except pymysql.err.OperationalError as error:
        if error.args[0] != _PRIVILEGE_MISSING:
            raise
        _log.info("deletes_logged_whole missing_privilege=SESSION_VARIABLES_ADMIN")
