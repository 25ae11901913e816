"""A failover after the sinks applied commits that the replica lacks: the stores heal without a write or an operator."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from pymilvus import MilvusClient

from consumers.milvus.sink import MilvusSink
from consumers.minio.sink import MinioSink
from consumers.refill import Refill
from operations import history
from producer import Writer
from relays.kafka import kafka_relay
from schema.database.tables import LANES
from schema.kafka.names import Names
from schema.object_store.directory import DirectoryStore
from tests.support import kafka
from tests.support.failover import Pair
from tests.support.pipeline import DIMENSION, MARKS, MODEL, SYSTEM_ID, Pipeline, document
from tests.support.servers import Servers
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(400)]


NAMES = ("kept", "changed", "deleted", "again")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with Pair.started(tmp_path / "servers") as started:
        yield started


def test_stores_heal_after_a_failover_that_lost_applied_commits(
    pair: Pair, servers: Servers, names: Names, store: DirectoryStore, milvus: MilvusClient
) -> None:
    milvus_sink, minio_sink = MilvusSink(milvus, DIMENSION, SYSTEM_ID), MinioSink(store, SYSTEM_ID)
    milvus_sink.create()
    minio_sink.create()
    pipeline = Pipeline(pair.engine, store, milvus, Writer(MODEL), milvus_sink, minio_sink)
    properties = kafka.properties(servers)
    check = partial(history.check_if_due, pair.engine, names, properties)
    relay = kafka_relay(pair.engine, names, properties, lanes=LANES, check_history=check)

    def wait_until_completed() -> None:
        incomplete = "SELECT 1 FROM documents WHERE status <> 'completed' LIMIT 1"
        wait_for(lambda: pipeline.sql(incomplete) == [], "all documents to be completed")

    with ExitStack() as stack:
        stack.callback(minio_sink.close)
        for sink in (milvus_sink, minio_sink):
            refill = Refill(pair.engine, sink, MARKS[sink.name], store)
            stack.enter_context(kafka.consuming(pair.engine, sink, servers, names, refill=refill))
        stack.enter_context(kafka.running(relay.run))
        pipeline.upsert(*(document(name, "one", file=b"one") for name in NAMES))
        wait_until_completed()

        pair.lose_commits()
        pipeline.upsert(*(document(name, "two", "lost", file=b"one") for name in ("changed", "again")))
        pipeline.upsert(document("new", "lost", file=b"lost"))
        pipeline.delete("deleted")
        wait_until_completed()
        pair.promote()
        pair.switch()
        began = time.monotonic()
        pipeline.upsert(document("again", "one", "three", file=b"one"))
        unchecked = "SELECT 1 FROM histories WHERE checked_at IS NULL"
        wait_for(lambda: pipeline.sql(unchecked) == [], "the check to end")
        sys.stdout.write(f"the check ended {time.monotonic() - began:.1f} seconds after the first write\n")
        lacking = (
            "SELECT COUNT(*) FROM sink_states WHERE doc_id = 'deleted' AND last_error LIKE 'the object store lacks%'"
        )
        wait_for(lambda: pipeline.sql(lacking) == [(2,)], "the deletion that no refill undoes to be reported")
        pipeline.upsert(document("deleted", "one", file=b"one"))
        wait_until_completed()
        sys.stdout.write(f"in step {time.monotonic() - began:.1f} seconds after the first write\n")
    pipeline.assert_in_step()
    contents = sorted((row["doc_id"], row["content"]) for row in pipeline.milvus_rows().values())
    assert contents == sorted([("again", "three"), *((name, "one") for name in NAMES)])
    assert [key for key in pipeline.objects() if "new" in key] == []
    suspects = [
        tuple(row)
        for row in pipeline.sql("SELECT doc_id, lost_version FROM documents WHERE lost_version > 0 ORDER BY doc_id")
    ]
    assert suspects == [("again", 2), ("changed", 2), ("deleted", 2), ("new", 1)]
