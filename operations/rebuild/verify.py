"""Compare a collection with MySQL before searches use it, with the code of reconcile: keys, hashes and labels."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from operations.rebuild.states import mark_absent
from operations.reconcile.findings import Findings
from operations.reconcile.pace import Pace
from operations.reconcile.repair_plan import plan_repair
from operations.reconcile.scope import Scope
from operations.wiring import System
from schema.batches import bounded
from schema.collection import name_of
from schema.sinks import number_of

if TYPE_CHECKING:
    from pymilvus import MilvusClient

_DOCUMENTS = 500  # per transaction


def compare_collection(
    system: System, client: "MilvusClient", sink: str, advance: Callable[[int], None] = lambda _: None
) -> Findings:
    """Load the collection, and compare every row both ways; rows with the same key are counted, too."""
    from operations.reconcile.chunk_rows import compare_rows
    from operations.reconcile.milvus_rows import MilvusRows

    rows = MilvusRows(client, name_of(system.settings.collection_alias, number_of(sink)), sink)
    rows.load()
    findings, before = Findings(), 0
    for _ in compare_rows(system.engine, rows, Scope((sink,), digests=True), findings, Pace(0.0, None)):
        advance(findings.compared.total() - before)
        before = findings.compared.total()
    return findings


def repair(system: System, sink: str, findings: Findings) -> int:
    """Let the documents that differ be refilled. Returns how many."""
    reasons = plan_repair(system.engine, findings.kept).refills.get(sink, {})
    for some in bounded(sorted(reasons), _DOCUMENTS):
        mark_absent(system.engine, sink, {doc_id: reasons[doc_id] for doc_id in some})
    return len(reasons)
