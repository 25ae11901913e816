"""Marks: what each sink holds, written to the metadata database after the sink acknowledged it.

Invariant 8: every statement here asks that nobody newer wrote meanwhile; a document is completed only when every sink
holds its version. The functions run inside the caller's transaction, which holds the documents' locks.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, case, delete, insert, literal, not_, null, or_, select, true, update

from consumers.sink import Change
from schema.batches import bounded
from schema.database.clock import utc_now
from schema.database.statements import IDS_PER_STATEMENT, execute_for_ids
from schema.database.tables import chunk_tombstones, chunks, document_files, documents, sink_states
from schema.sinks import SINKS


@dataclass(frozen=True)
class Known:
    """A document's version; the newest that the sink applied and the one that it refused, 0 when there is none.

    `marks` counts the marks of the document in this sink.
    """

    version: int
    applied_version: int
    refused_version: int
    marks: int
    reason: str


def known(connection: Connection, sink: str, doc_ids: Iterable[str]) -> dict[str, Known]:
    """What is known of each document that exists."""
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


def lock(connection: Connection, doc_ids: Iterable[str]) -> None:
    """Take the documents' locks in the order of their ids, so that marks of two sinks and writes wait in line."""
    for some in bounded(sorted(set(doc_ids)), IDS_PER_STATEMENT):
        ordered = select(documents.c.doc_id).where(documents.c.doc_id.in_(some)).order_by(documents.c.doc_id)
        connection.execute(ordered.with_for_update()).all()


def applied(connection: Connection, sink: str, changes: Sequence[Change]) -> None:
    """Move the sink's state to the versions that are complete."""
    complete = [change for change in changes if change.complete]
    for version, doc_ids in _by_version((change.version, [change.doc_id]) for change in complete):
        for some in bounded(doc_ids, IDS_PER_STATEMENT):
            _follow_documents(connection, some)
            statement = (
                update(sink_states)
                .where(
                    sink_states.c.sink == sink,
                    sink_states.c.doc_id.in_(some),
                    sink_states.c.applied_version < version,  # nobody newer
                    sink_states.c.desired_version >= version,
                    # no part of this very version was refused
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


def counted(connection: Connection, sink: str, doc_ids: Collection[str]) -> None:
    """Count a mark of each document, so that whoever applies one of them right now finds out."""
    statement = update(sink_states).where(sink_states.c.sink == sink).values(marks=sink_states.c.marks + 1)
    execute_for_ids(connection, statement, sink_states.c.doc_id, sorted(doc_ids))


def failed(connection: Connection, sink: str, reasons: Mapping[tuple[str, int], str]) -> None:
    """Note why the sink refused (doc_id, version), unless a newer version is on its way."""
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


def harmed(connection: Connection, sink: str, reasons: Mapping[str, str]) -> None:
    """Documents whose newest version, applied, was damaged by an older one: failed, until they are written again."""
    for doc_id, reason in reasons.items():
        state = and_(sink_states.c.sink == sink, sink_states.c.doc_id == doc_id)
        connection.execute(update(sink_states).where(state).values(state="failed", last_error=reason))
        connection.execute(update(documents).where(documents.c.doc_id == doc_id).values(status="failed"))


def chunks_synced(connection: Connection, written: Iterable[tuple[int, Sequence[str]]]) -> None:
    """Chunks that Milvus acknowledged, as (version, chunk ids)."""
    for version, chunk_ids in _by_version(written):
        execute_for_ids(
            connection,
            update(chunks).values(milvus_synced=true()).where(chunks.c.row_version <= version),  # nobody newer
            chunks.c.chunk_id,
            chunk_ids,
        )


def tombstones_confirmed(connection: Connection, removed: Iterable[tuple[int, Sequence[str]]]) -> None:
    """Chunks that Milvus acknowledged as gone, as (version, chunk ids)."""
    for version, chunk_ids in _by_version(removed):
        statement = delete(chunk_tombstones).where(chunk_tombstones.c.removed_in_version <= version)
        execute_for_ids(connection, statement, chunk_tombstones.c.chunk_id, chunk_ids)


def files_removed(connection: Connection, removed: Iterable[tuple[int, Sequence[str]]]) -> None:
    """Objects that the object store acknowledged as gone, as (version, object keys)."""
    for version, keys in _by_version(removed):
        statement = delete(document_files).where(document_files.c.removed_in_version <= version)
        execute_for_ids(connection, statement, document_files.c.object_key, keys)


def _complete_documents(connection: Connection, doc_ids: Sequence[str]) -> None:
    behind = select(literal(1)).where(
        sink_states.c.doc_id == documents.c.doc_id,
        or_(sink_states.c.applied_version < documents.c.version, sink_states.c.state == "failed"),
    )
    statement = update(documents).values(status="completed").where(~behind.exists())
    execute_for_ids(connection, statement, documents.c.doc_id, doc_ids)


def _follow_documents(connection: Connection, doc_ids: Sequence[str]) -> None:
    """A writer in another language may leave the sink states out, or behind; completion needs all of them."""
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


def _by_version(pairs: Iterable[tuple[int, Sequence[str]]]) -> list[tuple[int, list[str]]]:
    grouped: dict[int, list[str]] = defaultdict(list)
    for version, ids in pairs:
        grouped[version] += ids
    return sorted(grouped.items())
