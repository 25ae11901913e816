"""Reconcile in a test: one run on the stores of a pipeline, and what it found."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from sqlalchemy import Engine

from consumers.milvus.sink import MilvusSink
from consumers.minio.sink import MinioSink
from operations.reconcile.report import Report
from operations.reconcile.run import Run, Stores
from operations.reconcile.scope import Scope
from producer import Writer
from schema.object_store.directory import DirectoryStore
from schema.object_store.s3 import S3Store
from schema.sinks import SINKS
from tests.support.pipeline import DIMENSION, MODEL, SYSTEM_ID, Pipeline
from tests.support.refill import refill_of
from tests.support.servers import MilvusServer, MinioServer


@contextmanager
def pipeline_on_servers(engine: Engine, milvus: MilvusServer, minio: MinioServer) -> Iterator[Pipeline]:
    """The pipeline on MySQL, Milvus and MinIO."""
    with milvus.database() as name, milvus.client(name) as client, minio.bucket() as bucket:
        store = cast(DirectoryStore, S3Store(minio.client(), bucket))
        milvus_sink, minio_sink = MilvusSink(client, DIMENSION, SYSTEM_ID), MinioSink(store, SYSTEM_ID)
        milvus_sink.create()
        minio_sink.create()
        yield Pipeline(engine, store, client, Writer(MODEL), milvus_sink, minio_sink)
        minio_sink.close()


def refill_all(pipeline: Pipeline) -> None:
    """Refill until no document is due."""
    for sink in (pipeline.milvus_sink, pipeline.minio_sink):
        while refill_of(pipeline, sink).run_round():
            pass


def stores_of(pipeline: Pipeline) -> Stores:
    return Stores(pipeline.engine, pipeline.store, pipeline.milvus, "rag_vectors")


def reconciled(pipeline: Pipeline, sinks: tuple[str, ...] = SINKS, **options: Any) -> Report:
    """A run over everything, unless `options` of the scope say less."""
    return Run(stores_of(pipeline), Scope(sinks, **{"digests": True, "vectors": True, **options})).run()


def found(report: Report) -> set[tuple[str, str, str]]:
    """Store, kind and document of all differences."""
    return {(one.store, one.kind, one.doc_id) for one in report.differences}
