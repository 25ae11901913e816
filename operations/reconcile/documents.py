"""The marks within the metadata database: status, states, counts, tombstones, and documents that wait for too long.

Everything here is read from the database alone, so one snapshot confirms it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, and_, func, select

from operations.reconcile.difference import DATABASE, Difference
from operations.reconcile.findings import Findings
from operations.reconcile.pace import Pace
from operations.reconcile.scope import Scope
from operations.reconcile.slices import read_slices
from schema.batches import bounded
from schema.database.clock import utc_now
from schema.database.connection import reading, snapshot
from schema.database.history import read_identity
from schema.database.statements import IDS_PER_STATEMENT, select_for_ids
from schema.database.tables import chunk_tombstones, chunks, document_files, documents, outbox, sink_states
from schema.sinks import MILVUS, MINIO, RegisteredSink

_ATTEMPTS = 5  # of a refill that lacks something: over a minute, so no event on its way brings it
_STUCK_EVENTS = 1_000
_COLUMNS = [documents.c[name] for name in ("doc_id", "version", "status", "chunk_count", "updated_at")]


def compare_documents(engine: Engine, scope: Scope, findings: Findings, pace: Pace, after: str = "") -> Iterator[str]:
    """Yields the doc_id up to which everything is compared and confirmed."""
    with reading(engine) as connection:
        sinks = [sink.name for sink in read_identity(connection).sinks if sink.state == "active"]
    statement = select(documents.c.doc_id, documents.c.lost_version, _is_plain(sinks))
    rows, sample = scope.slice_rows, scope.sample
    for one in read_slices(engine, statement, documents.c.doc_id, rows=rows, sample=sample, after=after):
        pace.spend(len(one.rows))
        findings.compared[DATABASE] += len(one.rows)
        odd = []
        for doc_id, lost_version, is_plain in map(tuple, one.rows):
            findings.suspects += lost_version > 0
            if not is_plain:
                odd.append(doc_id)
        for some in bounded(odd, IDS_PER_STATEMENT):
            with reading(engine) as connection:
                view = _View.load(connection, some, scope)
            for states in view.states.values():
                findings.waiting.update((state.sink, state.state) for state in states if state.state != "applied")
            if suspected := sorted({difference.doc_id for difference in view.find()}):
                with snapshot(engine) as connection:
                    findings.add(_View.load(connection, suspected, scope).find())
        if one.upto is not None:
            yield one.upto


def _is_plain(sinks: Sequence[str]) -> ColumnElement[bool]:
    """Whether a document is completed, held by every sink, counted right, and without tombstones: most are."""
    doc_id = documents.c.doc_id
    state, files = sink_states.c, document_files.c
    is_held = and_(state.sink.in_(sinks), state.state == "applied", state.applied_version == documents.c.version)
    held = select(func.count()).where(state.doc_id == doc_id, is_held).correlate(documents).scalar_subquery()
    of_chunks = select(func.count(chunks.c.chunk_id)).where(chunks.c.doc_id == doc_id)
    tombstones = select(chunk_tombstones.c.chunk_id).where(chunk_tombstones.c.doc_id == doc_id)
    removed = select(files.object_key).where(files.doc_id == doc_id, files.removed_in_version.is_not(None))
    return and_(
        documents.c.status == "completed",
        held == len(sinks),
        of_chunks.correlate(documents).scalar_subquery() == documents.c.chunk_count,
        ~tombstones.correlate(documents).exists(),
        ~removed.correlate(documents).exists(),
    )


def find_stuck_events(engine: Engine, scope: Scope) -> list[Difference]:
    """The oldest events in the outbox that no relay took in time."""
    columns = (outbox.c.aggregate_id, outbox.c.event_id, outbox.c.created_at)
    with reading(engine) as connection:
        limit = connection.execute(select(utc_now())).scalar_one() - timedelta(seconds=scope.stuck_seconds)
        rows = connection.execute(select(*columns).order_by(outbox.c.id).limit(_STUCK_EVENTS)).all()
    return [
        Difference(DATABASE, "stuck", row.aggregate_id, row.event_id, f"in the outbox since {_time(row.created_at)}")
        for row in rows
        if row.created_at < limit
    ]


@dataclass(frozen=True)
class _View:
    """What the database says of some documents."""

    documents: Sequence[Row[Any]]
    states: Mapping[str, Sequence[Row[Any]]]
    chunks: Mapping[str, int]
    tombstones: Mapping[str, list[tuple[str, str, int]]]  # sink, key and version
    published: frozenset[str]  # documents without an event in the outbox, of those that wait for too long
    sinks: Sequence[RegisteredSink]
    old: datetime  # what waits since before this is stuck

    @classmethod
    def load(cls, connection: Connection, ids: Sequence[str], scope: Scope) -> "_View":
        old = connection.execute(select(utc_now())).scalar_one() - timedelta(seconds=scope.stuck_seconds)
        states = _group(select_for_ids(connection, select(sink_states), sink_states.c.doc_id, ids))
        counted = select(chunks.c.doc_id, func.count(chunks.c.chunk_id).label("number")).group_by(chunks.c.doc_id)
        waiting = [state.doc_id for some in states.values() for state in some if _is_waiting(state, old)]
        with_event = select(outbox.c.aggregate_id.label("doc_id")).distinct()
        unpublished = {row.doc_id for row in select_for_ids(connection, with_event, outbox.c.aggregate_id, waiting)}
        sinks = [sink for sink in read_identity(connection).sinks if sink.state == "active"]
        serving = next((sink.name for sink in sinks if sink.is_serving), MILVUS)
        return cls(
            list(select_for_ids(connection, select(*_COLUMNS), documents.c.doc_id, ids)),
            states,
            {row.doc_id: row.number for row in select_for_ids(connection, counted, chunks.c.doc_id, ids)},
            _load_tombstones(connection, ids, serving),
            frozenset(waiting) - unpublished,
            sinks,
            old,
        )

    def find(self) -> Iterator[Difference]:
        for row in self.documents:
            by_sink = {state.sink: state for state in self.states.get(row.doc_id, ())}
            yield from self._find_incomplete(row)
            yield from self._find_wrong_status(row, by_sink)
            yield from self._find_stuck(row, by_sink)
            yield from self._find_tombstones(row, by_sink)

    def _find_incomplete(self, row: Row[Any]) -> Iterator[Difference]:
        found = self.chunks.get(row.doc_id, 0)
        if found != (row.chunk_count or 0):  # none: a file that is not chunked yet
            detail = f"{found} chunks, and chunk_count is {row.chunk_count}"
            yield Difference(DATABASE, "incomplete", row.doc_id, row.doc_id, detail)

    def _find_wrong_status(self, row: Row[Any], by_sink: Mapping[str, Row[Any]]) -> Iterator[Difference]:
        gating = [by_sink.get(sink.name) for sink in self.sinks if sink.is_gating]
        holds = all(_holds(state, row.version) for state in gating)
        has_failed = any(state is not None and state.state == "failed" for state in gating)
        is_wrong = {
            "completed": not holds,
            "failed": not has_failed and row.chunk_count is not None,  # or its processing failed
            "processing": False,  # it waits for its chunks, or a service set it
        }.get(row.status, holds)
        if is_wrong:
            shown = ", ".join(f"{name} {state.state}" for name, state in sorted(by_sink.items())) or "without states"
            detail = f"the status is {row.status}, and the document is {shown}"
            yield Difference(DATABASE, "mismarked", row.doc_id, row.doc_id, detail)

    def _find_stuck(self, row: Row[Any], by_sink: Mapping[str, Row[Any]]) -> Iterator[Difference]:
        for sink in self.sinks:
            state = by_sink.get(sink.name)
            if state is None or state.desired_version < row.version:  # a writer may leave them to the consumers
                if row.updated_at < self.old:
                    yield Difference(sink.name, "stuck", row.doc_id, row.doc_id, "no state asks for its version")
            elif _is_waiting(state, self.old) and row.doc_id in self.published:
                if state.attempts >= _ATTEMPTS:
                    yield Difference(sink.name, "lacking", row.doc_id, row.doc_id, state.last_error or "")
                else:
                    detail = f"{state.state} since {_time(state.requested_at)}, without an event in the outbox"
                    yield Difference(sink.name, "stuck", row.doc_id, row.doc_id, detail)

    def _find_tombstones(self, row: Row[Any], by_sink: Mapping[str, Row[Any]]) -> Iterator[Difference]:
        for sink, key, version in self.tombstones.get(row.doc_id, ()):
            state = by_sink.get(sink)
            if state is not None and state.state == "applied" and state.applied_version >= version:
                detail = f"removed in version {version}, confirmed, and its tombstone stayed"
                yield Difference(sink, "mismarked", row.doc_id, key, detail)


def _load_tombstones(connection: Connection, ids: Sequence[str], serving: str) -> dict[str, list[tuple[str, str, int]]]:
    found: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for row in select_for_ids(connection, select(chunk_tombstones), chunk_tombstones.c.doc_id, ids):
        found[row.doc_id].append((serving, row.chunk_id, row.removed_in_version))
    removed = document_files.c.removed_in_version
    files = select(document_files.c.doc_id, document_files.c.object_key, removed).where(removed.is_not(None))
    for row in select_for_ids(connection, files, document_files.c.doc_id, ids):
        found[row.doc_id].append((MINIO, row.object_key, row.removed_in_version))
    return found


def _holds(state: Row[Any] | None, version: int) -> bool:
    return state is not None and state.state == "applied" and bool(state.applied_version == version)


def _is_waiting(state: Row[Any], old: datetime) -> bool:
    """Whether a state waits for too long. One that a refill postponed has a time in the future."""
    if state.state == "absent" and state.attempts >= _ATTEMPTS:
        return True
    return state.state in {"pending", "absent"} and bool(state.requested_at < old)


def _group(rows: Iterator[Row[Any]]) -> dict[str, list[Row[Any]]]:
    grouped: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        grouped[row.doc_id].append(row)
    return grouped


def _time(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S}"
