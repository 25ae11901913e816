"""One run of reconcile: phase by phase, with a checkpoint every few seconds."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from operations.reconcile import documents
from operations.reconcile.archives import compare_archives
from operations.reconcile.checkpoints import Checkpoint
from operations.reconcile.difference import Difference
from operations.reconcile.findings import Findings
from operations.reconcile.pace import Pace
from operations.reconcile.report import Report
from operations.reconcile.scope import Scope
from operations.reconcile.staged_files import find_left_over
from operations.reconcile.stored_files import compare_files
from schema.collection import name_of
from schema.object_store.port import ObjectStore
from schema.sinks import MILVUS, MINIO, kind_of, number_of

if TYPE_CHECKING:
    from pymilvus import MilvusClient

_CHECKPOINT_SECONDS = 5.0

Phase = tuple[str, Callable[[str], Iterator[str]]]


@dataclass(frozen=True)
class Stores:
    """`client` is None if Milvus is not compared; `alias` names the collections of its instances."""

    engine: Engine
    store: ObjectStore
    client: "MilvusClient | None"
    alias: str


class Run:
    """Compares what `scope` says. Raises Interrupted when `stop` is set: `resume` continues it."""

    def __init__(
        self,
        stores: Stores,
        scope: Scope,
        *,
        rate: float = 0.0,
        stop: threading.Event | None = None,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.scope = scope
        self.findings = Findings()
        self._stores = stores
        self._pace = Pace(rate, stop)
        self._advance = advance
        self._checkpoint: Checkpoint | None = None
        self._phase, self._cursor = "", ""
        self._seconds = 0.0  # of the run before it was interrupted

    def resume(self) -> bool:
        """Continue the newest run if it was interrupted and has this scope; otherwise returns False."""
        found = Checkpoint.find_interrupted(self._stores.engine)
        if found is None or Scope.of_facts(found[1]["scope"]) != self.scope:
            return False
        self._checkpoint, progress = found
        self.findings = Findings.of_facts(progress["findings"])
        self._phase, self._cursor, self._seconds = progress["phase"], progress["cursor"], progress["seconds"]
        return True

    def run(self) -> Report:
        """Compare, store the report, and return it."""
        began = time.monotonic()
        if self._checkpoint is None:
            self._checkpoint = Checkpoint.begin(self._stores.engine)
        noted, compared = began, self.findings.compared.total()
        phases = self._phases()
        names = [name for name, _ in phases]
        for name, phase in phases[names.index(self._phase) if self._phase else 0 :]:
            cursor = self._cursor if name == self._phase else ""
            for cursor in phase(cursor):  # noqa: B020  # from where the phase is
                self._advance(self.findings.compared.total() - compared)
                compared = self.findings.compared.total()
                if (now := time.monotonic()) - noted >= _CHECKPOINT_SECONDS:
                    self._note(name, cursor, now - began)
                    noted = now
        report = Report.of(self.findings, self.scope, self._seconds + time.monotonic() - began)
        self._checkpoint.end(report.to_facts())
        return report

    def _note(self, phase: str, cursor: str, seconds: float) -> None:
        assert self._checkpoint is not None
        self._checkpoint.note(
            {
                "scope": self.scope.to_facts(),
                "findings": self.findings.to_facts(),
                "phase": phase,
                "cursor": cursor,
                "seconds": self._seconds + seconds,
            }
        )

    def _phases(self) -> list[Phase]:
        """Each takes the cursor where it begins and yields cursors."""
        stores, scope, findings, pace = self._stores, self.scope, self.findings, self._pace
        engine, store = stores.engine, stores.store
        phases: list[Phase] = [
            ("documents", partial(documents.compare_documents, engine, scope, findings, pace)),
            ("events", lambda _: self._find(documents.find_stuck_events(engine, scope))),
        ]
        instances = []
        for name in scope.sinks:
            if kind_of(name) == MILVUS and stores.client is not None:
                from operations.reconcile.chunk_rows import compare_rows
                from operations.reconcile.milvus_rows import MilvusRows

                rows = MilvusRows(stores.client, name_of(stores.alias, number_of(name)), name)
                rows.load()
                phases.append((f"rows of {name}", partial(compare_rows, engine, rows, scope, findings, pace)))
                instances.append(rows)
        if MINIO in scope.sinks:
            phases += [
                ("files", partial(compare_files, engine, store, scope, findings, pace)),
                ("archives", partial(compare_archives, engine, store, scope, findings, pace)),
                ("staging", lambda _: self._find(find_left_over(engine, store))),
            ]
        if scope.vectors and instances:
            from operations.reconcile.archived_vectors import compare_vectors

            phases += [
                (f"vectors of {rows.sink}", partial(compare_vectors, engine, rows, store, scope, findings, pace))
                for rows in instances
            ]
        return phases

    def _find(self, differences: Iterable[Difference]) -> Iterator[str]:
        self.findings.add(differences)
        return iter(())
