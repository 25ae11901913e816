"""Retention in a test: policies on the stores of a pipeline, and rows and objects that are old."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import Engine, event, select

from consumers.minio.sink import MinioSink
from operations.retention.archives import Archives
from operations.retention.deleted_documents import DeletedDocuments
from operations.retention.policy import Policy
from operations.retention.run import Ran, run_policy
from producer import Writer
from schema.database.clock import utc_now
from schema.database.connection import reading
from schema.object_store.directory import DirectoryStore
from tests.support.pipeline import MODEL, SYSTEM_ID, Pipeline, applier
from tests.support.refill import refill_of

DAYS = 30
MINUTE = timedelta(minutes=1)


def days_ago(engine: Engine, days: float, later: timedelta = timedelta(0)) -> datetime:
    """A time by the clock of the database."""
    with reading(engine) as connection:
        now: datetime = connection.execute(select(utc_now())).scalar_one()
    return now - timedelta(days=days) + later


def ran(engine: Engine, policy: Policy) -> Ran:
    return run_policy(engine, policy, threading.Event())


def purged(pipeline: Pipeline) -> Ran:
    return ran(pipeline.engine, DeletedDocuments(pipeline.engine, DAYS))


def tidied(pipeline: Pipeline) -> Ran:
    return ran(pipeline.engine, Archives(pipeline.engine, pipeline.store, DAYS))


def delete_long_ago(pipeline: Pipeline, *doc_ids: str) -> None:
    """Delete documents, let both sinks confirm it, and let it be 31 days ago."""
    pipeline.delete(*doc_ids)
    pipeline.run()
    age_deletions(pipeline)


def age_deletions(pipeline: Pipeline, days: float = DAYS + 1) -> None:
    at = days_ago(pipeline.engine, days)
    pipeline.execute("UPDATE documents SET deleted_at = :at WHERE deleted_at IS NOT NULL", at=at)


def age_objects(pipeline: Pipeline, days: float = DAYS + 1) -> None:
    """Let all objects of all archives be this old."""
    for key in pipeline.store.keys("processed-data/embeddings/"):
        os.utime(pipeline.store.root / key, (time.time() - days * 86_400,) * 2)


@contextmanager
def dying_at(engine: Engine, statement: str) -> Iterator[None]:
    """Let the process seem to die where it first sends a statement that begins so."""

    def die(_connection: object, _cursor: object, sent: str, *_: object) -> None:
        if sent.startswith(statement):
            raise KeyboardInterrupt

    event.listen(engine, "before_cursor_execute", die)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", die)


class ArchivePipeline(Pipeline):
    """A pipeline whose only sink is the object store: what concerns the archive alone needs no Milvus."""

    @classmethod
    @contextmanager
    def opened(cls, engine: Engine, store: DirectoryStore) -> Iterator["ArchivePipeline"]:
        sink = MinioSink(store, SYSTEM_ID)
        sink.create()
        made = cls(engine, store, cast(Any, None), Writer(MODEL), cast(Any, None), sink)
        made.execute("DELETE FROM sinks WHERE name = 'milvus'")
        yield made
        sink.close()

    def run(self) -> None:
        assert applier(self.engine, self.minio_sink).apply(self.pending()) == []
        self.execute("DELETE FROM outbox")

    def refill(self) -> None:
        """Refill until no document is due."""
        while refill_of(self, self.minio_sink).run_round():
            pass
