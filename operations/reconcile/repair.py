"""Repair: make documents absent in the sinks that differ, so that their refills replace what those hold.

There is no second way to write to a store: refill is the one that brings a sink to a document's state. Only marks and
counts within the metadata database are corrected here. Every repair is logged as SYNC.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, case, func, insert, select, update

import producer
from consumers import completion, lost_history, marks
from consumers.lost_history import LostEvent
from operations import staging
from operations.errors import OperationError
from operations.reconcile.repair_plan import RepairPlan
from schema.batches import bounded
from schema.database import history
from schema.database.statements import execute_for_ids
from schema.database.tables import chunks, documents, operation_logs
from schema.limits import LAST_VERSION
from schema.object_store.port import ObjectStore

SHARE = 0.1
_FEW = 100  # documents that may always be repaired, however small the system
_DOCUMENTS = 500  # per transaction


class TooMuch(OperationError):
    """Raised when a repair would replace more than the given share of the documents."""


def needs_force(plan: RepairPlan, share: float = SHARE) -> bool:
    """Whether `repair` refuses the plan without `force`."""
    return plan.affected > _FEW and plan.share() > share


def repair(
    engine: Engine, store: ObjectStore, plan: RepairPlan, operator: str, *, share: float = SHARE, force: bool = False
) -> dict[str, int]:
    """Do what the plan says. Returns the number of documents per action. Raises TooMuch, before anything is changed.

    Interrupted at any point, it can be repeated: a document that is absent already is skipped.
    """
    if needs_force(plan, share) and not force:
        raise TooMuch(
            f"the repair would replace {plan.affected:,} of {plan.documents:,} documents, more than {share:.0%}: "
            "find out why first (is it the right store?), then repeat it with --force"
        )
    done: Counter[str] = Counter()
    for some in bounded(sorted(plan.unknown), _DOCUMENTS):
        done["removed"] += _run(engine, partial(_remove_unknown, plan=plan, doc_ids=some, operator=operator))
    for sink, reasons in sorted(plan.refills.items()):
        for some in bounded(sorted(reasons), _DOCUMENTS):
            wanted = {doc_id: reasons[doc_id] for doc_id in some}
            work = partial(_mark_absent, plan=plan, sink=sink, reasons=wanted, operator=operator)
            done[f"refill {sink}"] += _run(engine, work)
    for some in bounded(sorted(plan.statuses), _DOCUMENTS):
        done["status"] += _run(engine, partial(_correct_statuses, doc_ids=some, operator=operator))
    for some in bounded(sorted(plan.counts), _DOCUMENTS):
        done["chunk_count"] += _run(engine, partial(_correct_counts, doc_ids=some, operator=operator))
    if plan.has_staged:
        done["swept"] = staging.sweep(engine, store, threading.Event())
    return dict(done)


def _run(engine: Engine, work: Callable[[Connection], int]) -> int:
    """In a transaction of the current history; it begins one on another server, as every write does."""

    def locked(connection: Connection) -> int:
        history.lock_identity(connection)
        return work(connection)

    return producer.run(engine, locked)


def _mark_absent(connection: Connection, plan: RepairPlan, sink: str, reasons: Mapping[str, str], operator: str) -> int:
    marks.lock_documents(connection, reasons)
    completion.follow_documents(connection, reasons)
    known = marks.load_known(connection, sink, reasons)
    wanted = {doc_id: reasons[doc_id] for doc_id, one in known.items() if not one.is_absent}
    before = {doc_id: {"sink": sink, "applied_version": known[doc_id].applied_version} for doc_id in wanted}
    files = {key: doc_id for key, doc_id in plan.files.items() if doc_id in wanted}
    lost_history.remove_files(connection, files)
    marks.mark_absent(connection, sink, wanted)
    _log(connection, "sink_states", wanted, before, operator)
    return len(wanted)


def _remove_unknown(connection: Connection, plan: RepairPlan, doc_ids: Sequence[str], operator: str) -> int:
    """As after a lost history: a deleted document, which every sink replaces by nothing."""
    marks.lock_documents(connection, doc_ids)
    of_document: dict[str, list[str]] = {doc_id: [] for doc_id in doc_ids}
    for key, doc_id in plan.files.items():
        if doc_id in of_document:
            of_document[doc_id].append(key)
    events = [
        LostEvent(doc_id, min(max(0, plan.unknown[doc_id]), LAST_VERSION - 1), tuple(files))
        for doc_id, files in of_document.items()
    ]
    lost_history.mark_lost(connection, events, "reconcile found")
    reasons = dict.fromkeys(doc_ids, "reconcile: orphaned: no such document")
    _log(connection, "documents", reasons, {}, operator)
    return len(doc_ids)


def _correct_statuses(connection: Connection, doc_ids: Sequence[str], operator: str) -> int:
    marks.lock_documents(connection, doc_ids)
    rows = connection.execute(select(documents.c.doc_id, documents.c.status).where(documents.c.doc_id.in_(doc_ids)))
    before: dict[str, dict[str, Any]] = {row.doc_id: {"status": row.status} for row in rows}
    completion.follow_documents(connection, doc_ids)
    waits = case((documents.c.deleted_at.is_not(None), "deleting"), else_="pending")
    waiting = update(documents).where(documents.c.status != "processing").values(status=waits)
    execute_for_ids(connection, waiting, documents.c.doc_id, doc_ids)
    completion.fail_documents(connection, doc_ids)
    completion.complete_documents(connection, doc_ids)
    _log(connection, "documents", dict.fromkeys(before, "reconcile: mismarked: status"), before, operator)
    return len(before)


def _correct_counts(connection: Connection, doc_ids: Sequence[str], operator: str) -> int:
    """Where the chunks are numbered without a gap; otherwise one is missing, and the document must be written again."""
    marks.lock_documents(connection, doc_ids)
    last = func.coalesce(func.max(chunks.c.chunk_index), -1)
    joined = documents.outerjoin(chunks, chunks.c.doc_id == documents.c.doc_id)
    counted = select(documents.c.doc_id, documents.c.chunk_count, func.count(chunks.c.chunk_id), last)
    grouped = counted.select_from(joined).where(documents.c.doc_id.in_(doc_ids)).group_by(documents.c.doc_id)
    before: dict[str, dict[str, Any]] = {}
    for doc_id, count, found, highest in connection.execute(grouped).all():
        if found == highest + 1 and found != (count or 0):
            before[doc_id] = {"chunk_count": count}
            connection.execute(update(documents).where(documents.c.doc_id == doc_id).values(chunk_count=found))
    _log(connection, "documents", dict.fromkeys(before, "reconcile: incomplete: chunk_count"), before, operator)
    return len(before)


def _log(
    connection: Connection,
    table: str,
    reasons: Mapping[str, str],
    before: Mapping[str, Mapping[str, Any]],
    operator: str,
) -> None:
    rows = [
        {
            "operation_type": "SYNC",
            "target_table": table,
            "target_id": doc_id,
            "payload": {**before.get(doc_id, {}), "reason": reason},
            "operator": operator,
        }
        for doc_id, reason in reasons.items()
    ]
    if rows:
        connection.execute(insert(operation_logs), rows)
