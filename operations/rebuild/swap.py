"""Swap the roles of two instances of Milvus: the one that searches use, and the other one.

Invariant 8: what one of them does not hold at that moment is changed in the same transaction, so that every mark is
true for the instance that serves from then on.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, Connection, Engine, and_, false, or_, select, update

from consumers import completion, marks
from consumers.milvus.marks import confirm_tombstones, mark_chunks_synced
from operations.rebuild.errors import NotPossible
from operations.rebuild.roles import MOST_BEHIND, change_sink, run_exclusively
from schema.batches import bounded
from schema.database.connection import reading
from schema.database.statements import IDS_PER_STATEMENT, execute_for_ids
from schema.database.tables import chunks, documents, sink_states, sinks, system_identity
from schema.sinks import RegisteredSink

_LACKING = ("absent", "failed")
_REASON = "the sink did not hold the document when it began to serve"


def swap_roles(engine: Engine, old: str, new: str, *, most: int = MOST_BEHIND) -> int | None:
    """Let `new` serve instead of `old`, which stays up to date. Returns how many documents `new` does not hold.

    None, and nothing changes, if the two differ in more than `most` documents. Nothing changes if `new` serves already.
    Raises NotPossible if one of them is gone.
    """

    def work(connection: Connection, found: Sequence[RegisteredSink]) -> int | None:
        roles = {one.name: one for one in found if one.state != "leaving"}
        if new not in roles or old not in roles:
            raise NotPossible(f"{new if old in roles else old} was removed meanwhile: rag-outbox sinks list")
        if roles[new].required:
            return 0
        differing = _find_differing(connection, old, new, most + 1)
        if len(differing) > most:
            return None
        change_sink(connection, old, required=False, state="active")
        change_sink(connection, new, required=True, state="active")
        _adopt_model(connection, new)
        doc_ids = sorted(differing)
        marks.lock_documents(connection, doc_ids)
        behind = [doc_id for doc_id in doc_ids if differing[doc_id] != "applied"]
        pending = [doc_id for doc_id in behind if differing[doc_id] == "pending"]
        for some in bounded(pending, IDS_PER_STATEMENT):
            marks.mark_absent(connection, new, dict.fromkeys(some, _REASON))
        execute_for_ids(connection, update(chunks).values(milvus_synced=false()), chunks.c.doc_id, behind)
        _mark_held(connection, [doc_id for doc_id in doc_ids if differing[doc_id] == "applied"])
        completion.judge_documents(connection, doc_ids)
        return len(behind)

    return run_exclusively(engine, work)


def _adopt_model(connection: Connection, sink: str) -> None:
    """From now on, writers send vectors of the model of this instance."""
    options = connection.execute(select(sinks.c.options).where(sinks.c.name == sink)).scalar_one()
    if options and (model := options.get("model")):
        values = {"embedding_model": model["embedding_model"], "dimension": model["vector_dimension"]}
        connection.execute(update(system_identity).values(values))


def count_behind(connection: Connection, old: str, new: str) -> int:
    """Documents that `old` holds and `new` does not, at most MOST_BEHIND + 1: searches would miss them after a swap."""
    mine, other = sink_states.alias("mine"), sink_states.alias("other")
    joined = mine.join(other, and_(other.c.doc_id == mine.c.doc_id, other.c.sink == old))
    is_behind = and_(mine.c.sink == new, mine.c.state != "applied", other.c.state == "applied")
    found = select(mine.c.doc_id).select_from(joined).where(is_behind).limit(MOST_BEHIND + 1)
    return len(connection.execute(found).all())


def are_far_apart(engine: Engine, old: str, new: str) -> bool:
    """Whether a swap would change more than MOST_BEHIND documents; most of them wait for their events in both."""
    with reading(engine) as connection:
        return len(_find_differing(connection, old, new, MOST_BEHIND + 1)) > MOST_BEHIND


def _find_differing(connection: Connection, old: str, new: str, limit: int) -> Mapping[str, str]:
    """Documents whose marks must change, with their state in `new`: what neither holds, and both lack, stays."""
    mine, other = sink_states.alias("mine"), sink_states.alias("other")
    same = and_(other.c.doc_id == mine.c.doc_id, other.c.sink == old)

    def find(condition: ColumnElement[bool]) -> dict[str, str]:
        joined = mine.outerjoin(other, same)
        statement = select(mine.c.doc_id, mine.c.state).select_from(joined).where(mine.c.sink == new, condition)
        return {row.doc_id: row.state for row in connection.execute(statement.limit(limit))}

    both_lack = and_(mine.c.state.in_(_LACKING), other.c.state == mine.c.state)
    found = find(and_(mine.c.state.in_(("pending", *_LACKING)), or_(other.c.state.is_(None), ~both_lack)))
    joined = other.join(mine, and_(same, mine.c.sink == new))
    only_new = and_(other.c.sink == old, other.c.state.in_(("pending", *_LACKING)), mine.c.state == "applied")
    held = select(mine.c.doc_id, mine.c.state).select_from(joined).where(only_new).limit(limit)
    return found | {row.doc_id: row.state for row in connection.execute(held)}


def _mark_held(connection: Connection, doc_ids: Sequence[str]) -> None:
    """Documents that `new` holds at their version, and `old` does not."""
    for some in bounded(doc_ids, IDS_PER_STATEMENT):
        of_document = select(documents.c.doc_id, documents.c.version).where(documents.c.doc_id.in_(some))
        versions = {row.doc_id: row.version for row in connection.execute(of_document)}
        rows = connection.execute(select(chunks.c.chunk_id, chunks.c.doc_id).where(chunks.c.doc_id.in_(some)))
        mark_chunks_synced(connection, [(row.chunk_id, versions[row.doc_id]) for row in rows])
        confirm_tombstones(connection, (), versions.items())
