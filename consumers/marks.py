"""Marks: what each sink holds, written to the metadata database after the sink acknowledged it.

Invariant 8: every statement here checks that no newer version was written since; a document is completed only when
every sink holds its version. The functions run in the caller's transaction, which holds the documents' locks.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection, and_, case, insert, literal, not_, null, or_, select, update

from consumers.sink import Change
from schema.batches import bounded
from schema.database.clock import utc_now
from schema.database.statements import IDS_PER_STATEMENT, execute_for_ids
from schema.database.tables import documents, sink_states
from schema.sinks import SINKS


class SinkMarks(Protocol):
    """The marks of one sink's own rows: chunks and tombstones for Milvus, files for the object store.

    The methods run in the caller's transaction, which holds the documents' locks.
    """

    def mark_applied(self, connection: Connection, changes: Sequence[Change]) -> None:
        """Mark what the sink acknowledged, except what a newer version has changed since."""

    def mark_damage(self, connection: Connection, change: Change) -> str | None:
        """Compute, from the database alone, what a late change damaged in a sink that holds a newer version.

        Returns the reason for the document's failure, None without damage. What the change brought back becomes a
        tombstone (invariant 9); what it removed or overwrote is no longer marked (invariant 8).
        """


@dataclass(frozen=True)
class Known:
    """A document's version, and the newest versions that one sink applied and refused; 0 means none.

    `marks` counts how often consumers marked the document in this sink.
    """

    version: int
    applied_version: int
    refused_version: int
    marks: int
    reason: str


def load_known(connection: Connection, sink: str, doc_ids: Iterable[str]) -> dict[str, Known]:
    """Documents that do not exist are left out."""
    joined = documents.outerjoin(
        sink_states, and_(sink_states.c.doc_id == documents.c.doc_id, sink_states.c.sink == sink)
    )
    columns = select(documents.c.doc_id, documents.c.version, sink_states).select_from(joined)
    return {
        row.doc_id: Known(
            row.version,
            row.applied_version or 0,
            row.desired_version if row.state == "failed" and row.applied_version < row.desired_version else 0,
            row.marks or 0,
            row.last_error or "",
        )
        for some in bounded(doc_ids, IDS_PER_STATEMENT)
        for row in connection.execute(columns.where(documents.c.doc_id.in_(some)))
    }


def lock_documents(connection: Connection, doc_ids: Iterable[str]) -> None:
    """Lock in the order of the ids, so that writers and the marks of two sinks do not deadlock."""
    for some in bounded(sorted(set(doc_ids)), IDS_PER_STATEMENT):
        ordered = select(documents.c.doc_id).where(documents.c.doc_id.in_(some)).order_by(documents.c.doc_id)
        connection.execute(ordered.with_for_update()).all()


def mark_applied(connection: Connection, sink: str, changes: Sequence[Change]) -> None:
    """Move the sink's state to the versions that are complete."""
    complete = [change for change in changes if change.complete]
    for version, doc_ids in group_by_version((change.version, [change.doc_id]) for change in complete):
        for some in bounded(doc_ids, IDS_PER_STATEMENT):
            _follow_documents(connection, some)
            statement = (
                update(sink_states)
                .where(
                    sink_states.c.sink == sink,
                    sink_states.c.doc_id.in_(some),
                    sink_states.c.applied_version < version,  # no newer version is applied
                    sink_states.c.desired_version >= version,
                    # no other part of this version was refused
                    not_(and_(sink_states.c.state == "failed", sink_states.c.desired_version == version)),
                )
                .values(
                    applied_version=version,
                    applied_at=utc_now(),
                    attempts=0,
                    last_error=null(),
                    state=case((sink_states.c.desired_version == version, "applied"), else_=sink_states.c.state),
                )
            )
            connection.execute(statement)
    _complete_documents(connection, [change.doc_id for change in complete])


def count_mark(connection: Connection, sink: str, doc_ids: Collection[str]) -> None:
    """Increment the mark counter so that concurrent consumers detect the conflict."""
    statement = update(sink_states).where(sink_states.c.sink == sink).values(marks=sink_states.c.marks + 1)
    execute_for_ids(connection, statement, sink_states.c.doc_id, sorted(doc_ids))


def mark_refused(connection: Connection, sink: str, reasons: Mapping[tuple[str, int], str]) -> None:
    """Store why the sink refused (doc_id, version), unless the document has a newer version."""
    for (doc_id, version), reason in reasons.items():
        _follow_documents(connection, [doc_id])
        refused = connection.execute(
            update(sink_states)
            .where(
                sink_states.c.sink == sink,
                sink_states.c.doc_id == doc_id,
                sink_states.c.desired_version == version,
                sink_states.c.applied_version < version,
            )
            .values(state="failed", last_error=reason, attempts=sink_states.c.attempts + 1)
        )
        if refused.rowcount:
            connection.execute(update(documents).where(documents.c.doc_id == doc_id).values(status="failed"))


def mark_damaged(connection: Connection, sink: str, reasons: Mapping[str, str]) -> None:
    """Fail documents whose applied version was damaged by an older one, until they are written again."""
    for doc_id, reason in reasons.items():
        state = and_(sink_states.c.sink == sink, sink_states.c.doc_id == doc_id)
        connection.execute(update(sink_states).where(state).values(state="failed", last_error=reason))
        connection.execute(update(documents).where(documents.c.doc_id == doc_id).values(status="failed"))


def mark_absent(connection: Connection, sink: str, reasons: Mapping[str, str]) -> None:
    """Nothing that the sink holds of these documents counts, until a refill; `reasons` by doc_id."""
    for doc_id, reason in reasons.items():
        state = and_(sink_states.c.sink == sink, sink_states.c.doc_id == doc_id)
        absent = {"state": "absent", "applied_version": 0, "parts_version": 0, "parts_applied": 0}
        marks = sink_states.c.marks + 1  # a consumer that applies the document now notices it
        connection.execute(update(sink_states).where(state).values(**absent, marks=marks, last_error=reason))
    status = case((documents.c.deleted_at.is_not(None), "deleting"), else_="pending")
    execute_for_ids(connection, update(documents).values(status=status), documents.c.doc_id, sorted(reasons))


def group_by_version(pairs: Iterable[tuple[int, Sequence[str]]]) -> list[tuple[int, list[str]]]:
    """(version, ids) pairs, one per version, in the order of the versions."""
    grouped: dict[int, list[str]] = defaultdict(list)
    for version, ids in pairs:
        grouped[version] += ids
    return sorted(grouped.items())


def _complete_documents(connection: Connection, doc_ids: Sequence[str]) -> None:
    behind = select(literal(1)).where(
        sink_states.c.doc_id == documents.c.doc_id,
        or_(sink_states.c.applied_version < documents.c.version, sink_states.c.state == "failed"),
    )
    statement = update(documents).values(status="completed").where(~behind.exists())
    execute_for_ids(connection, statement, documents.c.doc_id, doc_ids)


def _follow_documents(connection: Connection, doc_ids: Sequence[str]) -> None:
    """Create or update sink states that a writer in another language left out; completion needs all of them."""
    states = select(sink_states.c.doc_id, sink_states.c.sink).where(sink_states.c.doc_id.in_(doc_ids))
    known = {(row.doc_id, row.sink) for row in connection.execute(states)}
    for sink in SINKS:
        missing = [doc_id for doc_id in doc_ids if (doc_id, sink) not in known]
        if missing:
            rows = select(documents.c.doc_id, literal(sink), documents.c.version).where(documents.c.doc_id.in_(missing))
            connection.execute(insert(sink_states).from_select(["doc_id", "sink", "desired_version"], rows))
    version = select(documents.c.version).where(documents.c.doc_id == sink_states.c.doc_id).scalar_subquery()
    connection.execute(
        update(sink_states)
        .where(sink_states.c.doc_id.in_(doc_ids), sink_states.c.desired_version < version)
        .values(desired_version=version, state="pending", requested_at=utc_now(), attempts=0, last_error=null())
    )
