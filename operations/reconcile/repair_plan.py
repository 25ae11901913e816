"""What a repair would do about the differences of a report. Nothing here changes anything."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine, func, select

from operations.reconcile.difference import DATABASE, Difference
from schema.database.connection import reading
from schema.database.statements import select_for_ids
from schema.database.tables import documents, sink_states
from schema.events.identity import doc_id_error
from schema.sinks import MINIO


@dataclass
class RepairPlan:
    """`documents` is the number of documents in the database; the reasons are for `sink_states.last_error`."""

    documents: int
    refills: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))  # sink → doc_id → reason
    unknown: dict[str, int] = field(default_factory=dict)  # documents that only a store has → highest version
    files: dict[str, str] = field(default_factory=dict)  # object key that no row names → doc_id
    statuses: list[str] = field(default_factory=list)  # doc_ids
    counts: list[str] = field(default_factory=list)  # doc_ids
    has_staged: bool = False
    left: list[Difference] = field(default_factory=list)  # for a person

    @property
    def affected(self) -> int:
        """Documents whose rows or objects would be replaced or removed."""
        return len(set(self.unknown).union(*self.refills.values()))

    def share(self) -> float:
        return self.affected / max(1, self.documents + len(self.unknown))

    def describe(self) -> Mapping[str, Sequence[str]]:
        """Action → what it concerns."""
        refills = {f"refill in {sink}": sorted(reasons) for sink, reasons in sorted(self.refills.items())}
        return {
            what: concerned
            for what, concerned in {
                **refills,
                "remove from every sink, as a deleted document": sorted(self.unknown),
                "correct the status": self.statuses,
                "correct chunk_count": self.counts,
                "sweep staged files": ["temp/"] if self.has_staged else [],
                "left to a person": [f"{one.kind} in {one.store}: {one.key}" for one in self.left],
            }.items()
            if concerned
        }


def plan_repair(engine: Engine, differences: Iterable[Difference]) -> RepairPlan:
    found = list(differences)
    known, count = _find_known(engine, {one.doc_id for one in found})
    absent = _find_absent(engine, {one.doc_id for one in found if one.kind == "stuck"})
    plan = RepairPlan(count)
    for one in found:
        if (one.store, one.doc_id) in absent:  # it has been repaired; its consumer does not run
            plan.left.append(one)
        else:
            _add(plan, one, known)
    damaged = set(plan.unknown).union(*plan.refills.values())
    _decide_counts(plan, [one for one in found if one.kind == "incomplete"], damaged)
    return plan


def _add(plan: RepairPlan, one: Difference, known: set[str]) -> None:
    if one.kind == "incomplete":
        return  # when it is known what else is wrong with the document
    if one.kind == "staged":
        plan.has_staged = True
    elif one.kind == "mismarked" and one.store == DATABASE:
        plan.statuses.append(one.doc_id)
    elif one.store == DATABASE or one.kind in {"foreign", "lacking"} or doc_id_error(one.doc_id):
        plan.left.append(one)
    elif one.doc_id in known:
        plan.refills[one.store].setdefault(one.doc_id, f"reconcile: {one.kind}: {one.key}: {one.detail}"[:1_000])
        if one.kind == "orphaned" and one.store == MINIO and not one.version:
            plan.files[one.key] = one.doc_id
    else:
        plan.unknown[one.doc_id] = max(one.version, plan.unknown.get(one.doc_id, 0))
        if one.store == MINIO and not one.version:
            plan.files[one.key] = one.doc_id


def _decide_counts(plan: RepairPlan, incomplete: Iterable[Difference], damaged: set[str]) -> None:
    """The rows are right and the count is wrong only if every store agrees with the rows."""
    for one in incomplete:
        if one.doc_id in damaged:
            plan.left.append(one)
        else:
            plan.counts.append(one.doc_id)


def _find_absent(engine: Engine, doc_ids: Iterable[str]) -> set[tuple[str, str]]:
    """The sinks and documents whose state is absent already."""
    state = sink_states.c
    absent = select(state.sink, state.doc_id).where(state.state == "absent")
    with reading(engine) as connection:
        return {(sink, doc_id) for sink, doc_id in select_for_ids(connection, absent, state.doc_id, sorted(doc_ids))}


def _find_known(engine: Engine, doc_ids: Iterable[str]) -> tuple[set[str], int]:
    """Those that the database has, and the number of all documents."""
    column = documents.c.doc_id
    with reading(engine) as connection:
        known = {doc_id for (doc_id,) in select_for_ids(connection, select(column), column, sorted(doc_ids))}
        return known, connection.execute(select(func.count()).select_from(documents)).scalar_one()
