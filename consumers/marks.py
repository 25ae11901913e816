"""Marks: what each sink holds, written to the metadata database after the sink acknowledged it.

Invariant 8: every statement here checks that no newer version was written since; a document is completed only when
every required sink holds its version. The functions run in the caller's transaction, which holds the documents' locks.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, and_, case, delete, false, not_, null, or_, select, update

from consumers import completion, roles
from consumers.sink import Change
from schema.batches import bounded
from schema.database import history
from schema.database.clock import utc_now
from schema.database.history import Standing
from schema.database.statements import IDS_PER_STATEMENT, execute_for_ids, select_for_ids
from schema.database.tables import chunks, documents, sink_states
from schema.database.values import values_table
from schema.events.events import Event


class SinkMarks(Protocol):
    """The marks of one sink's own rows: chunks and tombstones for Milvus, files for the object store."""

    def mark_applied(self, connection: Connection, changes: Sequence[Change]) -> None:
        """Mark what the sink acknowledged, except what a newer version has changed since.

        Runs in the caller's transaction, which holds the documents' locks.
        """

    def complete_removals(self, connection: Connection, changes: Sequence[Change]) -> list[Change]:
        """These last parts, with everything that their version removes; see `consumers.removals`."""


@dataclass(frozen=True)
class Known:
    """A document's version and history, and what one sink holds of it; 0 means none.

    Parts 1 to `parts_applied` of `parts_version` are applied. `marks` counts how often consumers marked the document in
    this sink.
    """

    version: int
    history_id: str
    history_base: int
    desired_version: int  # 0: the sink has no state of the document yet
    applied_version: int
    parts_version: int
    parts_applied: int
    refused_version: int
    is_absent: bool
    marks: int
    reason: str
    lost_version: int  # the highest that was found of a lost history; 0: none

    def judge(self, history_id: str, version: int) -> Standing:
        """What an event is to this document."""
        return history.judge(
            history_id, version, history_id=self.history_id, history_base=self.history_base, version=self.version
        )

    def is_newer_than(self, version: int) -> bool:
        """Whether the sink was given a newer version, or a part of it."""
        return max(self.applied_version, self.parts_version) > version

    def count_parts(self, version: int, events: Iterable[Event]) -> int:
        """How many parts of `version`, from the first without a gap, are applied once these events are."""
        count = self.parts_applied if self.parts_version == version else 0
        for part in sorted(event.part for event in events):
            if part == count + 1:
                count = part
        return count


def load_known(connection: Connection, sink: str, doc_ids: Iterable[str]) -> dict[str, Known]:
    """Documents that do not exist are left out."""
    joined = documents.outerjoin(
        sink_states, and_(sink_states.c.doc_id == documents.c.doc_id, sink_states.c.sink == sink)
    )
    names = ("doc_id", "version", "history_id", "history_base", "lost_version")
    columns = select(*(documents.c[name] for name in names), sink_states).select_from(joined)
    return {
        row.doc_id: Known(
            row.version,
            row.history_id,
            row.history_base,
            row.desired_version or 0,
            row.applied_version or 0,
            row.parts_version or 0,
            row.parts_applied or 0,
            row.desired_version if row.state == "failed" and row.applied_version < row.desired_version else 0,
            row.state == "absent",
            row.marks or 0,
            row.last_error or "",
            row.lost_version,
        )
        for row in select_for_ids(connection, columns, documents.c.doc_id, doc_ids)
    }


def lock_documents(connection: Connection, doc_ids: Iterable[str]) -> None:
    """Lock in the order of the ids, so that writers and the marks of two sinks do not deadlock; roles before that."""
    roles.lock_roles(connection)
    for some in bounded(sorted(set(doc_ids)), IDS_PER_STATEMENT):
        ordered = select(documents.c.doc_id).where(documents.c.doc_id.in_(some)).order_by(documents.c.doc_id)
        connection.execute(ordered.with_for_update()).all()


def mark_applied(
    connection: Connection, sink: str, changes: Sequence[Change], known: Mapping[str, Known] | None = None
) -> None:
    """Move the sink's state on by the parts that it acknowledged; the last one completes the version.

    `known` was loaded in this transaction; without it, the changes are whole documents.
    """
    if not changes:
        return
    given: Any = values_table(
        connection,
        {"doc_id": str, "sink": str, "version": int, "parts": int, "is_complete": int, "is_replace": int},
        [_row_of(change, sink, known) for change in changes],
    )
    state: Any = sink_states.c.state
    # Only a replace ends an absent state, also one that the sink's own marks have just set.
    is_complete = and_(given.c.is_complete == 1, or_(given.c.is_replace == 1, state != "absent"))
    is_desired = sink_states.c.desired_version == given.c.version
    is_refused = and_(state == "failed", is_desired)  # a part of this version
    new = {"applied_version": given.c.version, "applied_at": utc_now(), "attempts": 0, "last_error": null()}
    connection.execute(
        update(sink_states)
        .where(
            *_is_given(given),
            sink_states.c.applied_version < given.c.version,  # no newer version is applied
            sink_states.c.parts_version <= given.c.version,  # nor a part of it
            sink_states.c.desired_version >= given.c.version,
            or_(given.c.is_replace == 1, not_(is_refused)),
        )
        .values(
            parts_version=given.c.version,
            parts_applied=given.c.parts,
            state=case(
                (and_(is_complete, is_desired), "applied"),
                (and_(is_complete, state == "absent"), "pending"),
                else_=state,
            ),
            **{name: case((is_complete, value), else_=sink_states.c[name]) for name, value in new.items()},
        )
    )
    completion.complete_documents(connection, [one.doc_id for one in changes if completes(one, known)])


def count_mark(connection: Connection, sink: str, doc_ids: Collection[str]) -> None:
    """Increment the mark counter so that concurrent consumers detect the conflict."""
    statement = update(sink_states).where(sink_states.c.sink == sink).values(marks=sink_states.c.marks + 1)
    execute_for_ids(connection, statement, sink_states.c.doc_id, sorted(doc_ids))


def mark_refused(connection: Connection, sink: str, reasons: Mapping[tuple[str, int], str]) -> None:
    """Store why the sink refused (doc_id, version), unless the document has a newer version or is absent there."""
    if not reasons:
        return
    rows = [(doc_id, sink, version, reason) for (doc_id, version), reason in reasons.items()]
    given = values_table(connection, {"doc_id": str, "sink": str, "version": int, "reason": str}, rows)
    connection.execute(
        update(sink_states)
        .where(
            *_is_given(given),
            sink_states.c.desired_version == given.c.version,
            sink_states.c.applied_version < given.c.version,
            sink_states.c.state != "absent",
        )
        .values(state="failed", last_error=given.c.reason, attempts=sink_states.c.attempts + 1)
    )
    completion.fail_documents(connection, sorted({doc_id for doc_id, _ in reasons}))


def mark_absent(connection: Connection, sink: str, reasons: Mapping[str, str]) -> None:
    """Nothing that the sink holds of these documents counts, until a refill; `reasons` by doc_id."""
    _mark_absent(connection, reasons, sink)


def mark_absent_everywhere(connection: Connection, reasons: Mapping[str, str]) -> None:
    """Nothing that any sink holds of these documents counts, until a refill; `reasons` by doc_id."""
    completion.follow_documents(connection, reasons)
    _mark_absent(connection, reasons, None)


def completes(change: Change, known: Mapping[str, Known] | None) -> bool:
    """Whether the sink holds the version once it acknowledged this change; an absent state waits for a replace."""
    if change.replace:
        return True
    is_absent = known is not None and known[change.doc_id].is_absent
    return not is_absent and has_all_parts(change, known)


def has_all_parts(change: Change, known: Mapping[str, Known] | None) -> bool:
    """Whether every part of the version is applied once the sink acknowledged this change."""
    return change.replace or _count_parts(change, known) == change.events[0].parts


def confirm_removed(
    connection: Connection, key: Any, matched: Any, removed_in_version: Any, given: Iterable[tuple[str, int]]
) -> None:
    """Delete tombstones whose column `matched` and version are given; a newer version's tombstones stay.

    The tombstones cannot change: their documents are locked.
    """
    for some in bounded(given, IDS_PER_STATEMENT):
        versions = dict(some)
        found = connection.execute(select(key, matched, removed_in_version).where(matched.in_(versions)))
        confirmed = [row[0] for row in found if row[2] is not None and row[2] <= versions[row[1]]]
        execute_for_ids(connection, delete(key.table), key, confirmed)


def _mark_absent(connection: Connection, reasons: Mapping[str, str], sink: str | None) -> None:
    """In one sink, or in all of them."""
    if not reasons:
        return
    doc_ids = sorted(reasons)
    mark_states_absent(connection, reasons, sink)
    if sink is None or roles.is_serving(connection, sink):
        execute_for_ids(connection, update(chunks).values(milvus_synced=false()), chunks.c.doc_id, doc_ids)
    completion.reopen_documents(connection, doc_ids)


def note_failing(connection: Connection, sink: str, doc_id: str, reason: str) -> None:
    """Why a document still waits; its next mark or version removes it. Changes no mark, so it needs no lock."""
    waits = (sink_states.c.doc_id == doc_id, sink_states.c.sink == sink, sink_states.c.state == "pending")
    connection.execute(update(sink_states).where(*waits).values(last_error=reason))


def mark_states_absent(connection: Connection, reasons: Mapping[str, str], sink: str | None) -> None:
    """The states alone: for an optional sink, whose documents' status does not follow it, and that have no chunks."""
    rows = [(doc_id, sink, reason) for doc_id, reason in reasons.items()]
    given = values_table(connection, {"doc_id": str, "sink": str, "reason": str}, rows)
    connection.execute(
        update(sink_states)
        .where(*_is_given(given)[: 1 if sink is None else 2])
        .values(
            state="absent",
            applied_version=0,
            parts_version=0,
            parts_applied=0,
            attempts=0,
            requested_at=utc_now(),
            last_error=given.c.reason,
            marks=sink_states.c.marks + 1,  # a consumer that applies the document now notices it
        )
    )


def _is_given(given: Any) -> tuple[ColumnElement[bool], ...]:
    """The rows contain the sink: with a constant instead, SQLite would read all states of the sink by their index."""
    return sink_states.c.doc_id == given.c.doc_id, sink_states.c.sink == given.c.sink


def _row_of(change: Change, sink: str, known: Mapping[str, Known] | None) -> tuple[str, str, int, int, int, int]:
    is_complete = completes(change, known)
    return change.doc_id, sink, change.version, _count_parts(change, known), int(is_complete), int(change.replace)


def _count_parts(change: Change, known: Mapping[str, Known] | None) -> int:
    if known is None or change.replace:
        return max(event.part for event in change.events)
    return known[change.doc_id].count_parts(change.version, change.events)
