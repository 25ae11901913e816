"""The status of documents, by the table `sinks`: optional sinks, and those that join or leave, do not count.

The functions run in the caller's transaction, which holds the documents' locks.
"""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, and_, case, exists, insert, null, or_, select, update

from schema.batches import bounded
from schema.database.clock import utc_now
from schema.database.document_status import waiting_status
from schema.database.statements import IDS_PER_STATEMENT, execute_for_ids
from schema.database.tables import documents, sink_states, sinks

_IS_REQUIRED: Any = and_(sinks.c.required, sinks.c.state == "active")
_OF_REQUIRED_SINK: Any = and_(
    sink_states.c.doc_id == documents.c.doc_id, sink_states.c.sink == sinks.c.name, _IS_REQUIRED
)


def follow_documents(connection: Connection, doc_ids: Collection[str]) -> None:
    """Create or update sink states that a writer in another language left out; completion needs all of them."""
    state = and_(sink_states.c.doc_id == documents.c.doc_id, sink_states.c.sink == sinks.c.name)
    missing = (
        select(
            documents.c.doc_id,
            sinks.c.name,
            documents.c.version,
            case((sinks.c.state == "joining", "absent"), else_="pending"),
        )
        .select_from(documents.join(sinks, sinks.c.state != "leaving").outerjoin(sink_states, state))
        .where(sink_states.c.doc_id.is_(None))
    )
    version = select(documents.c.version).where(documents.c.doc_id == sink_states.c.doc_id).scalar_subquery()
    for some in bounded(sorted(doc_ids), IDS_PER_STATEMENT):
        rows = missing.where(documents.c.doc_id.in_(some))
        connection.execute(insert(sink_states).from_select(["doc_id", "sink", "desired_version", "state"], rows))
        connection.execute(
            update(sink_states)
            .where(sink_states.c.doc_id.in_(some), sink_states.c.desired_version < version)
            .values(
                desired_version=version,
                requested_at=utc_now(),
                attempts=0,
                last_error=case((sink_states.c.state == "absent", sink_states.c.last_error), else_=null()),
                state=case((sink_states.c.state == "absent", "absent"), else_="pending"),
            )
        )


def complete_documents(connection: Connection, doc_ids: Sequence[str]) -> None:
    """Complete the documents that are chunked and whose version every required sink holds."""
    states = sinks.outerjoin(
        sink_states, and_(sink_states.c.sink == sinks.c.name, sink_states.c.doc_id == documents.c.doc_id)
    )
    is_behind = or_(
        sink_states.c.doc_id.is_(None),
        sink_states.c.applied_version < documents.c.version,
        sink_states.c.state == "failed",
    )
    behind = select(sinks.c.name).select_from(states).where(_IS_REQUIRED, is_behind).correlate(documents)
    is_chunked = documents.c.chunk_count.is_not(None)  # otherwise it stays `processing`
    statement = update(documents).values(status="completed").where(is_chunked, ~behind.exists())
    execute_for_ids(connection, statement, documents.c.doc_id, doc_ids)


def fail_documents(connection: Connection, doc_ids: Sequence[str]) -> None:
    """Fail the documents that a required sink refused."""
    statement = update(documents).values(status="failed").where(_has_state("failed"))
    execute_for_ids(connection, statement, documents.c.doc_id, doc_ids)


def reopen_documents(connection: Connection, doc_ids: Sequence[str]) -> None:
    """Documents that are absent in a required sink wait for it again."""
    statement = update(documents).values(status=waiting_status()).where(_has_state("absent"), ~_has_state("failed"))
    execute_for_ids(connection, statement.where(documents.c.status != "processing"), documents.c.doc_id, doc_ids)


def judge_documents(connection: Connection, doc_ids: Sequence[str]) -> None:
    """Set the status of documents again, after the roles or the states of their sinks changed."""
    statement = update(documents).where(documents.c.status != "processing").values(status=waiting_status())
    execute_for_ids(connection, statement, documents.c.doc_id, doc_ids)
    fail_documents(connection, doc_ids)
    complete_documents(connection, doc_ids)


def _has_state(state: str) -> Any:
    """Whether a required sink is in this state of the document."""
    return exists().where(_OF_REQUIRED_SINK, sink_states.c.state == state)
