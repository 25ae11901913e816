"""A failover to a replica that lost commits: every store ends with what the new primary has.

In each of the three moments, ten documents lost a version: an edit, a first file, their creation, their deletion, their
labels. Half of them are written again on the new primary, with the version that was lost. No further write is needed,
except where a lost version was applied that removed files or vectors, which nothing but the object store had.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pymilvus import MilvusClient
from sqlalchemy import text
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from retrieval.search import search
from schema.collection import alias_of
from schema.kafka.names import Names
from schema.object_store.layout import SYSTEM_ID_KEY
from schema.object_store.port import ObjectMissing
from schema.object_store.s3 import S3Store
from tests.support import failover_documents as documents
from tests.support import in_step, kafka, written
from tests.support.commands import Folder
from tests.support.failover import Pair
from tests.support.pipeline import set_namespace, vector
from tests.support.servers import MilvusServer, MinioServer, Servers
from tests.support.services import Services, services, services_folder
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

IN_STEP_SECONDS = 120
_UNHELD = "SELECT COUNT(*) FROM documents WHERE status <> 'completed'"


@dataclass(frozen=True)
class System:
    folder: Folder
    pair: Pair
    milvus: MilvusClient
    alias: str
    store: S3Store

    def rows(self) -> list[dict[str, Any]]:
        return list(
            self.milvus.query(
                self.alias, 'chunk_id != ""', [*in_step.FIELDS, "content"], limit=16_000, consistency_level="Strong"
            )
        )

    def assert_in_step(self) -> None:
        objects = {key: self.store.read(key) for key in self.store.keys("") if key != SYSTEM_ID_KEY}
        in_step.assert_in_step(lambda statement: written.rows(self.pair.replica, statement), self.rows(), objects)

    def found(self, query: str) -> list[str]:
        """The texts that a search for this text finds."""
        hits = search(
            self.pair.replica, self.store, lambda work: work(self.milvus), vector(query), limit=100, alias=self.alias
        )
        return [hit.content for hit in hits]

    def wait_until_consumed(self) -> None:
        """Everything that the old primary published is in the stores, and marked."""
        kafka.wait_until_empty(self.pair.primary)
        wait_for(lambda: written.rows(self.pair.primary, _UNHELD) == [(0,)], "the sinks to hold everything")

    def unfinished(self) -> tuple[list[str], list[str]]:
        """The documents that are not completed, and those that are reported to need another write."""
        pending = "SELECT doc_id FROM documents WHERE status <> 'completed' ORDER BY doc_id"
        reported = (
            "SELECT DISTINCT doc_id FROM sink_states WHERE last_error LIKE '%write the document again' ORDER BY 1"
        )
        first, second = ([one for (one,) in written.rows(self.pair.replica, some)] for some in (pending, reported))
        return first, second

    def assert_nothing_lost_is_found(self) -> None:
        for lost in documents.lost_texts():
            assert not [hit for hit in self.found(lost) if lost in hit or documents.LOST in hit]
        assert not [row for row in self.rows() if documents.LOST in row["content"] + row["business_tag"]]

    def versions(self) -> list[tuple[Any, ...]]:
        """Of the documents that were not lost as a whole: those become deleted ones."""
        living = "SELECT doc_id, version, history_id FROM documents WHERE deleted_at IS NULL ORDER BY doc_id"
        return written.rows(self.pair.replica, living)


@pytest.fixture
def system(
    tmp_path: Path, servers: Servers, names: Names, milvus_server: MilvusServer, minio_server: MinioServer
) -> Iterator[System]:
    with (
        Pair.started(tmp_path / "servers") as pair,
        milvus_server.database() as collections,
        milvus_server.client(collections) as client,
        minio_server.bucket() as bucket,
    ):
        set_namespace(pair.engine, names.namespace)
        folder = services_folder(
            tmp_path,
            pair.engine,
            servers,
            names.namespace,
            milvus_uri=f"{milvus_server.uri}/{collections}",
            object_store=minio_server.url,
            object_store_access_key=minio_server.access_key,
            object_store_secret_key=minio_server.secret_key,
            object_store_bucket=bucket,
        )
        assert folder.run("init").status == 0
        yield System(folder, pair, client, alias_of(names.namespace), S3Store(minio_server.client(), bucket))


@contextmanager
def running(system: System) -> Iterator[Services]:
    """A relay and a consumer of each sink, which have applied what the replica will have."""
    with services(system.folder) as some:
        some.relay()
        start_consumers(some)
        documents.write_kept(system.pair.engine)
        system.wait_until_consumed()
        system.pair.lose_commits()
        yield some


def start_consumers(some: Services) -> None:
    for sink in ("milvus", "minio"):
        some.consumer(sink)


def assert_ends_in_step(system: System, some: Services) -> None:
    """Nothing is written any more; the processes bring every store to the rows of the new primary."""
    before = system.versions()
    patient = Retrying(
        retry=retry_if_exception_type((AssertionError, ObjectMissing)),  # an object may go while all are read
        stop=stop_after_delay(IN_STEP_SECONDS),
        wait=wait_fixed(0.5),
        reraise=True,
    )
    patient(system.assert_in_step)
    some.finish()
    system.assert_in_step()
    assert system.versions() == before, "no further write was needed"
    system.assert_nothing_lost_is_found()


def assert_asks_for_what_was_undone(system: System, some: Services) -> None:
    """All other documents are whole; those are never completed before they are written again."""
    undone = documents.UNDONE, documents.UNDONE
    wait_for(lambda: system.unfinished() == undone, "the others to be completed", timeout_seconds=IN_STEP_SECONDS)
    system.assert_nothing_lost_is_found()
    documents.write_undone(system.pair.engine)
    assert_ends_in_step(system, some)


def test_lost_events_consumed_after_their_numbers_were_used_again(system: System) -> None:
    with running(system) as some:
        for consumer in some.processes[1:]:
            consumer.terminate()
        documents.write_lost(system.pair.engine)
        kafka.wait_until_empty(system.pair.primary)
        system.pair.promote()
        system.pair.switch()
        documents.write_new(system.pair.engine)
        kafka.wait_until_empty(system.pair.replica)
        start_consumers(some)
        assert_ends_in_step(system, some)


def test_lost_events_consumed_before_the_failover(system: System) -> None:
    with running(system) as some:
        documents.write_lost(system.pair.engine)
        system.wait_until_consumed()
        system.pair.promote()
        system.pair.switch()
        documents.write_new(system.pair.engine)
        assert_asks_for_what_was_undone(system, some)


def test_failover_between_commit_and_settle_of_consumed_events(system: System) -> None:
    with running(system) as some:
        some.processes[0].terminate()
        documents.write_lost(system.pair.engine)
        with system.pair.primary.connect() as holder:
            ids = holder.execute(text("SELECT id FROM outbox ORDER BY id FOR UPDATE")).scalars().all()
            some.relay()
            wait_for(lambda: written.rows(system.pair.primary, _UNHELD) == [(0,)], "the sinks to hold everything")
            system.pair.promote()
            documents.write_new(system.pair.replica)
            used = written.rows(system.pair.replica, "SELECT id FROM outbox ORDER BY id")
            assert set(ids) & {outbox_id for (outbox_id,) in used}, "new rows have the ids of lost ones"
            system.pair.switch()
            assert_asks_for_what_was_undone(system, some)
