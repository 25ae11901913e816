"""Reconcile finds and names every kind of damage, and repairs it, in the embedded profile and on real servers."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
from sqlalchemy import Engine

from operations.reconcile.repair import repair
from operations.reconcile.repair_plan import plan_repair
from producer import Document, DocumentFile
from tests.support.damage import DAMAGES, expected, prepare, written
from tests.support.pipeline import Pipeline, document
from tests.support.reconciled import found, pipeline_on_servers, reconciled, refill_all
from tests.support.servers import MilvusServer, MinioServer

pytestmark = pytest.mark.integration


@pytest.fixture
def on_servers(mysql: Engine, milvus_server: MilvusServer, minio_server: MinioServer) -> Iterator[Pipeline]:
    with pipeline_on_servers(mysql, milvus_server, minio_server) as made:
        yield made


@pytest.fixture(params=["pipeline", "on_servers"])
def system(request: pytest.FixtureRequest) -> Pipeline:
    return cast(Pipeline, request.getfixturevalue(request.param))


def dump(pipeline: Pipeline) -> dict[str, list[Any]]:
    tables = ("documents", "chunks", "chunk_tombstones", "document_files", "sink_states", "operation_logs")
    return {table: sorted(map(repr, pipeline.sql(f"SELECT * FROM {table}"))) for table in tables}


def test_stores_in_step_have_no_differences(system: Pipeline) -> None:
    system.upsert(*(document(f"d{number}", "one", "two", "three", file=b"x") for number in range(30)))
    system.run()
    system.upsert(document("d1", "one", "other", business_tag="hr", file=b"y"), document("d2", "one"))
    system.delete("d3")
    system.run()
    report = reconciled(system)
    assert (report.is_healthy, found(report), report.findings.waiting) == (True, set(), {})
    compared = dict(report.findings.compared)
    assert compared.pop("milvus") >= 84  # a server may still show rows that were just deleted
    assert compared == {"mysql": 30, "minio": 59, "vectors": 84}


def test_document_that_waits_for_its_chunks_is_no_difference(system: Pipeline) -> None:
    file = DocumentFile.from_bytes(b"x", "md")
    system.upsert(Document(doc_id="d", title="d", source_type="text", chunks=None, file=file))
    system.run()
    assert system.sql("SELECT status, chunk_count FROM documents") == [("processing", None)]
    report = reconciled(system)
    assert (report.is_healthy, found(report)) == (True, set())


def test_all_damage_is_found_named_repaired_and_gone(system: Pipeline) -> None:
    prepare(system)
    for one in DAMAGES:
        one.do(system, one.doc_id)
    report = reconciled(system)
    assert found(report) == set(expected())
    assert report.findings.total == sum(report.findings.counts.values()) - 1  # foreign objects do no harm

    before = dump(system)
    plan = plan_repair(system.engine, report.differences)
    assert plan.describe()["left to a person"] == ["foreign in minio: elsewhere/foreign.bin"]
    assert dump(system) == before

    repair(system.engine, system.store, plan, "tester")
    logged = {row[0] for row in system.sql("SELECT target_id FROM operation_logs WHERE operation_type = 'SYNC'")}
    assert logged == {one.doc_id for one in DAMAGES if not one.stays}
    refill_all(system)
    system.upsert(*(written(system, one.doc_id) for one in DAMAGES if one.lost))
    system.run()
    refill_all(system)

    report = reconciled(system)
    assert (found(report), report.is_healthy) == ({("minio", "foreign", "")}, True)
    assert report.findings.waiting == {}
