"""Reconcile in a test: one run on the stores of a pipeline, and what it found."""

from typing import Any

from operations.reconcile.report import Report
from operations.reconcile.run import Run, Stores
from operations.reconcile.scope import Scope
from schema.sinks import SINKS
from tests.support.pipeline import Pipeline


def stores_of(pipeline: Pipeline) -> Stores:
    return Stores(pipeline.engine, pipeline.store, pipeline.milvus, "rag_vectors")


def reconciled(pipeline: Pipeline, sinks: tuple[str, ...] = SINKS, **options: Any) -> Report:
    """A run over everything, unless `options` of the scope say less."""
    return Run(stores_of(pipeline), Scope(sinks, **{"digests": True, "vectors": True, **options})).run()


def found(report: Report) -> set[tuple[str, str, str]]:
    """Store, kind and document of all differences."""
    return {(one.store, one.kind, one.doc_id) for one in report.differences}
