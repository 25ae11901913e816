"""Runs of reconcile: during writes, interrupted, sampled, within a share, and in bounded memory."""

import tracemalloc
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from threading import Event
from typing import Any, cast

import pytest
from sqlalchemy import Engine, insert, text

from operations.reconcile import run as run_module
from operations.reconcile import slices
from operations.reconcile.checkpoints import Checkpoint, last_report
from operations.reconcile.chunk_rows import compare_rows
from operations.reconcile.expected_rows import packed_statement
from operations.reconcile.findings import Findings
from operations.reconcile.milvus_rows import MilvusRows, Packed
from operations.reconcile.pace import Interrupted, Pace
from operations.reconcile.packed_rows import pack
from operations.reconcile.repair import TooMuch, repair
from operations.reconcile.repair_plan import RepairPlan, plan_repair
from operations.reconcile.run import Run
from operations.reconcile.scope import Scope
from operations.reconcile.staged_files import find_left_over
from producer import DocumentFile
from schema.database.tables import chunks, documents, sink_states
from schema.object_store.directory import DirectoryStore
from schema.sinks import MILVUS, SINKS
from tests.support.pipeline import Pipeline, document
from tests.support.reconciled import found, pipeline_on_servers, reconciled, refill_all, stores_of
from tests.support.refill import empty_milvus
from tests.support.servers import MilvusServer, MinioServer

pytestmark = pytest.mark.integration


@pytest.fixture
def on_servers(mysql: Engine, milvus_server: MilvusServer, minio_server: MinioServer) -> Iterator[Pipeline]:
    with pipeline_on_servers(mysql, milvus_server, minio_server) as made:
        yield made


@pytest.fixture(params=["pipeline", "on_servers"])
def system(request: pytest.FixtureRequest) -> Pipeline:
    return cast(Pipeline, request.getfixturevalue(request.param))


def write_some(pipeline: Pipeline, number: int) -> None:
    """Change, relabel, delete and write again: a few documents, over and over."""
    words = [f"text {number % 5}", "kept", f"text {number % 7} more"]
    pipeline.upsert(document(f"d{number % 20}", *words, business_tag=f"tag {number % 3}", file=f"{number}".encode()))
    if number % 4 == 0:
        pipeline.delete(f"d{(number + 7) % 20}")


def test_run_during_heavy_writes_reports_nothing(system: Pipeline) -> None:
    system.upsert(*(document(f"d{number}", "first") for number in range(20)))
    system.run()
    stop = Event()

    def write() -> None:
        for number in count():
            if stop.is_set():
                return
            write_some(system, number)

    def relay() -> None:
        while not stop.is_set():
            system.run()

    with ThreadPoolExecutor(2) as pool:
        working = [pool.submit(write), pool.submit(relay)]
        try:
            reports = [reconciled(system, slice_rows=7) for _ in range(8)]
        finally:
            stop.set()
        for one in working:
            one.result()
    system.run()
    assert [report.differences for report in reports] == [[]] * 8
    assert reconciled(system).findings.waiting == {}


def test_killed_run_continues_where_it_stood(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_CHECKPOINT_SECONDS", 0.0)
    pipeline.upsert(*(document(f"d{number:02d}", "one", "two", "three", file=b"x") for number in range(20)))
    pipeline.run()
    empty_milvus(pipeline)
    scope = Scope(SINKS, digests=True, slice_rows=5)
    whole = Run(stores_of(pipeline), scope).run()
    assert whole.findings.counts == {(MILVUS, "missing"): 60}

    class Killed(BaseException):
        pass

    left = [0]

    def die(_keys: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed

    runs = 0
    while True:
        left[0] = 3
        one = Run(stores_of(pipeline), scope, advance=die)
        assert one.resume() == (runs > 0)
        runs += 1
        try:
            again = one.run()
            break
        except Killed:
            continue
    assert runs > 3
    assert again.findings.compared == whole.findings.compared
    assert again.findings.counts == whole.findings.counts
    assert sorted(again.differences) == sorted(whole.differences)
    assert Checkpoint.find_interrupted(pipeline.engine) is None
    assert last_report(pipeline.engine) == again.to_facts()


def test_run_that_is_told_to_stop_is_interrupted(pipeline: Pipeline) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(Interrupted, match="rag-outbox reconcile --resume continues it"):
        Run(stores_of(pipeline), Scope(SINKS), stop=stop).run()


def test_sample_finds_damage_in_its_share(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SAMPLED_ROWS", 10)
    pipeline.upsert(*(document(f"d{number}", "one", "two", file=b"x") for number in range(200)))
    pipeline.run()
    empty_milvus(pipeline)
    report = reconciled(pipeline, sample=0.2, vectors=False)
    missing = report.findings.counts[MILVUS, "missing"]
    assert missing == report.findings.compared[MILVUS]
    assert 10 <= missing < 400
    assert report.findings.compared["mysql"] < 200


def test_doubled_row_is_found_by_its_count(on_servers: Pipeline) -> None:
    on_servers.upsert(document("a", *(f"text {number}" for number in range(50))), document("b", "one"))
    on_servers.run()
    rows = on_servers.milvus_rows()
    chunk_id = next(key for key, row in rows.items() if row["doc_id"] == "a")
    on_servers.milvus.insert("rag_vectors", [rows[chunk_id]])
    report = reconciled(on_servers)
    assert [(one.kind, one.doc_id, one.key) for one in report.differences] == [("doubled", "a", chunk_id)]

    repair(on_servers.engine, on_servers.store, plan_repair(on_servers.engine, report.differences), "tester")
    refill_all(on_servers)
    assert reconciled(on_servers).differences == []


def test_event_that_no_relay_takes_is_stuck(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one"))
    assert reconciled(pipeline).differences == []
    pipeline.execute("UPDATE outbox SET created_at = '2020-01-01 00:00:00'")
    pipeline.execute("UPDATE sink_states SET requested_at = '2020-01-01 00:00:00'")
    report = reconciled(pipeline)
    assert found(report) == {("mysql", "stuck", "a")}
    assert report.findings.waiting == {(sink, "pending"): 1 for sink in SINKS}
    assert report.to_facts()["recommendations"][0].startswith("Events wait in the outbox: start a relay")


def test_reconcile_reports_what_a_refill_lacks(pipeline: Pipeline) -> None:
    pipeline.upsert(document("lacking", "one"), document("waiting", "one"))
    pipeline.run()
    for doc_id, attempts in (("lacking", 5), ("waiting", 0)):
        pipeline.execute(
            "UPDATE sink_states SET state = 'absent', applied_version = 0, requested_at = '2020-01-01 00:00:00', "
            "attempts = :attempts, last_error = 'the object store lacks 1 files' WHERE doc_id = :doc_id",
            attempts=attempts,
            doc_id=doc_id,
        )
    pipeline.execute("UPDATE documents SET status = 'pending'")
    report = reconciled(pipeline)
    assert found(report) == {
        (sink, kind, doc_id) for sink in SINKS for kind, doc_id in (("lacking", "lacking"), ("stuck", "waiting"))
    }
    plan = plan_repair(pipeline.engine, report.differences)
    assert (len(plan.left), plan.affected) == (4, 0)


def test_staged_object_that_no_sweep_removed_is_left_over(pipeline: Pipeline) -> None:
    file = DocumentFile.from_bytes(b"x" * 70_000, "a.md", pipeline.store)
    later = datetime.now(UTC) + timedelta(hours=27)
    [one] = find_left_over(pipeline.engine, pipeline.store, now=later)
    assert (one.store, one.kind, one.key) == ("minio", "staged", file.staged_key)
    pipeline.upsert(document("a", "one", file=file))
    assert list(find_left_over(pipeline.engine, pipeline.store, now=later)) == []


def test_repair_of_a_large_share_needs_force(sqlite: Engine, store: DirectoryStore) -> None:
    fill(sqlite, range(300))
    wanted = {f"d{number:06d}": "lost" for number in range(150)}
    plan = RepairPlan(300, {MILVUS: wanted})
    with pytest.raises(TooMuch, match="would replace 150 of 300 documents, more than 10%"):
        repair(sqlite, store, plan, "tester")
    with sqlite.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM sink_states WHERE state = 'absent'")).scalar_one() == 0
    assert repair(sqlite, store, plan, "tester", force=True) == {"refill milvus": 150}
    assert repair(sqlite, store, plan, "tester", force=True) == {"refill milvus": 0}  # absent already


def test_slices_read_no_more_than_their_keys(mysql: Engine) -> None:
    fill(mysql, range(300))
    statement = (
        packed_statement("mysql", "milvus").where(chunks.c.chunk_id > "000050").order_by(chunks.c.chunk_id).limit(50)
    )
    with mysql.connect() as connection:
        sql = str(statement.compile(connection, compile_kwargs={"literal_binds": True}))
        plan = connection.exec_driver_sql(f"EXPLAIN FORMAT=TREE {sql}").scalar_one()
    assert "Index range scan on chunks using PRIMARY" in plan
    assert "Sort" not in plan


def test_memory_does_not_grow_with_the_number_of_chunks(sqlite: Engine) -> None:
    class Rows:
        sink = MILVUS

        """A Milvus that agrees with the database."""

        def read_range(self, after: str, upto: str | None) -> Packed:
            first = int(after or -1) + 1
            last = int(upto) if upto is not None else first - 1
            return dict.fromkeys(pack(row(number) for number in range(first, last + 1)), 1)

    peaks = []
    for numbers in (range(20_000), range(20_000, 100_000)):
        fill(sqlite, numbers)
        findings = Findings()
        tracemalloc.start()
        for _ in compare_rows(sqlite, cast(MilvusRows, Rows()), Scope((MILVUS,), slice_rows=5_000), findings, Pace()):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (findings.compared[MILVUS], findings.total) == (numbers.stop, 0)
    assert peaks[1] < 1.25 * peaks[0]


def row(number: int) -> Sequence[str]:
    return (f"{number:06d}", f"d{number:06d}", "hash", "", "text", "text", "", "")


def fill(engine: Engine, numbers: range) -> None:
    """Documents of one chunk each, applied in both sinks."""
    ids = [f"d{number:06d}" for number in numbers]
    common: dict[str, Any] = {"version": 1, "history_id": "", "title": "", "source_type": "text", "chunk_count": 1}
    state = {"desired_version": 1, "applied_version": 1, "state": "applied"}
    of_chunk = {"chunk_index": 0, "vector_level": "text", "modal_type": "text", "content": "", "content_hash": "hash"}
    of_chunk |= {"char_count": 0, "milvus_synced": True, "vector_version": 1, "row_version": 1}
    with engine.begin() as connection:
        connection.execute(insert(documents), [{"doc_id": one, "status": "completed", **common} for one in ids])
        connection.execute(
            insert(sink_states), [{"doc_id": one, "sink": sink, **state} for one in ids for sink in SINKS]
        )
        connection.execute(insert(chunks), [{"chunk_id": one[1:], "doc_id": one, **of_chunk} for one in ids])
