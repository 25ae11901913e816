"""Refill: a sink that holds nothing that counts of a document gets it back without an event."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest
from pymilvus import MilvusClient
from sqlalchemy import Engine, text

from consumers.milvus.sink import MilvusSink
from consumers.minio.sink import MinioSink
from consumers.refill import mark_all_absent
from producer import Writer
from schema import archive
from schema.database import history
from schema.database.connection import reading, snapshot
from schema.failures import Retryable, StoreMissing
from schema.kafka.names import Names
from schema.object_store.directory import DirectoryStore
from schema.sinks import MILVUS, MINIO
from tests.contracts.milvus_collection import chunk as stored_chunk
from tests.contracts.milvus_collection import upsert_change
from tests.contracts.object_store import put
from tests.support import kafka
from tests.support.pipeline import DIMENSION, MODEL, SYSTEM_ID, Pipeline, applier, document
from tests.support.refill import During, empty_milvus, errors, refill_of, sink_of, states
from tests.support.servers import Servers
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration


def test_lost_rows_come_back_with_the_newest_labels(pipeline: Pipeline) -> None:
    contents = [f"paragraph {number}" for number in range(50)]
    pipeline.upsert(document("a", *contents, file=b"first"), document("b", "one", "two"))
    pipeline.run()
    pipeline.upsert(document("a", *contents[5:], "new", file=b"first", business_tag="hr"))
    pipeline.run()
    empty_milvus(pipeline)
    pipeline.milvus_sink.apply(upsert_change(9, [stored_chunk("ghost")]))
    assert mark_all_absent(pipeline.engine, MILVUS, "lost") == 2
    assert states(pipeline, MILVUS) == {"a": ("absent", 0), "b": ("absent", 0)}
    assert pipeline.sql("SELECT DISTINCT status FROM documents") == [("pending",)]
    assert refill_of(pipeline, pipeline.milvus_sink).run_round() == 2
    assert refill_of(pipeline, pipeline.milvus_sink).run_round() == 0
    assert {row["business_tag"] for row in pipeline.milvus_rows().values() if row["doc_id"] == "a"} == {"hr"}
    pipeline.assert_in_step()


def test_deleted_document_refills_as_nothing(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", file=b"first"), document("b", "kept", file=b"second"))
    pipeline.run()
    pipeline.delete("a")
    for name in (MILVUS, MINIO):
        mark_all_absent(pipeline.engine, name, "suspect")
    assert dict(pipeline.sql("SELECT doc_id, status FROM documents")) == {"a": "deleting", "b": "pending"}
    pipeline.milvus_sink.apply(upsert_change(9, [stored_chunk("ghost")]))
    archive.write(pipeline.store, "a", 9, 1, [stored_chunk("ghost")])
    put(pipeline.store, "processed-data/extracted-text/a.txt", b"ghost")
    put(pipeline.store, "processed-data/tables/a/table_1.json", b"ghost")
    for one in (pipeline.milvus_sink, pipeline.minio_sink):
        assert refill_of(pipeline, one).run_round() == 2
    pipeline.run()
    pipeline.assert_in_step()


def test_version_of_a_writer_that_leaves_out_the_states_is_refilled(pipeline: Pipeline) -> None:
    """SQL of another language: no state asks for the new version, and its event is not here yet."""
    pipeline.upsert(document("a", "one"))
    pipeline.run()
    mark_all_absent(pipeline.engine, MILVUS, "lost")
    pipeline.execute("UPDATE documents SET version = 2, business_tag = 'new'")
    one = refill_of(pipeline, pipeline.milvus_sink)
    assert (one.run_round(), one.run_round()) == (1, 0)
    assert states(pipeline, MILVUS) == {"a": ("applied", 2)}


def test_document_of_an_older_copy_of_the_database_is_refilled(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.upsert(document("a", "one", "two"), document("deleted", "one"))
    pipeline.run()
    pipeline.delete("deleted")
    pipeline.run()
    backup, database = tmp_path / "backup.db", Path(str(pipeline.engine.url.database))
    with reading(pipeline.engine) as connection:
        connection.execute(text("VACUUM INTO :backup"), {"backup": str(backup)})
    pipeline.upsert(document("a", "two", "lost"))
    pipeline.run()
    pipeline.engine.dispose()
    for path in database.parent.glob(f"{database.name}-*"):  # the write-ahead log of the file that is replaced
        path.unlink()
    shutil.copy(backup, database)

    with pipeline.engine.begin() as connection:
        history.lock_identity(connection)
    assert states(pipeline, MILVUS) == {"a": ("absent", 0), "deleted": ("absent", 0)}
    assert dict(pipeline.sql("SELECT doc_id, status FROM documents")) == {"a": "pending", "deleted": "deleting"}
    for name in (MILVUS, MINIO):
        assert refill_of(pipeline, sink_of(pipeline, name)).run_round() == 2
    assert sorted(row["content"] for row in pipeline.milvus_rows().values()) == ["one", "two"]
    pipeline.assert_in_step()


@pytest.mark.parametrize("name", [MILVUS, MINIO])
def test_document_written_during_its_refill_stays_absent_for_the_next_round(pipeline: Pipeline, name: str) -> None:
    pipeline.upsert(document("a", "one", "two", file=b"first"))
    pipeline.run()
    mark_all_absent(pipeline.engine, name, "lost")
    sink = During(sink_of(pipeline, name), lambda: pipeline.upsert(document("a", "two", "three", file=b"second")))
    assert refill_of(pipeline, sink).run_round() == 0
    assert states(pipeline, name)["a"][1] == 0
    pipeline.run()
    refill_of(pipeline, sink_of(pipeline, name)).run_round()
    pipeline.assert_in_step()


def test_mark_of_another_consumer_during_a_refill_leaves_the_document_absent(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", "two"))
    pipeline.run()
    mark_all_absent(pipeline.engine, MILVUS, "lost")

    def refill_concurrently() -> None:
        assert refill_of(pipeline, pipeline.milvus_sink).run_round() == 1

    sink = During(pipeline.milvus_sink, refill_concurrently)
    assert refill_of(pipeline, sink).run_round() == 0
    assert (states(pipeline, MILVUS), errors(pipeline, MILVUS)) == (
        {"a": ("absent", 0)},
        ["another consumer applied the document during a refill"],
    )
    assert refill_of(pipeline, pipeline.milvus_sink).run_round() == 1
    pipeline.assert_in_step()


def test_large_document_is_refilled_in_parts_with_a_complete_archive(pipeline: Pipeline) -> None:
    contents = [f"{number} " + "x" * 60_000 for number in range(30)]
    pipeline.upsert(document("a", *contents[:20]))
    pipeline.run()
    pipeline.upsert(document("a", *contents))  # archive objects of both versions
    pipeline.run()
    mark_all_absent(pipeline.engine, MINIO, "damaged")
    ids = {row[0]: archive.Wanted(row[1], 1) for row in pipeline.sql("SELECT chunk_id, content_hash FROM chunks")}
    write, written = archive.write, 0

    def die(*arguments: object) -> str:
        nonlocal written
        written += 1
        if written % 4 == 0:
            raise OSError("killed")
        return write(*arguments)  # type: ignore[arg-type]

    with patch.object(archive, "write", die):
        for _ in range(3):
            with pytest.raises(Retryable):
                refill_of(pipeline, pipeline.minio_sink).run_round()
            assert len(list(archive.read_vectors(pipeline.store, "a", ids))) == 30
    sink = During(pipeline.minio_sink, lambda: None)
    assert refill_of(pipeline, sink).run_round() == 1
    [[change]] = sink.applied
    assert [event.part for event in change.events] == [1, 2, 3, 4]
    assert {event.parts for event in change.events} == {4}
    assert len(archive.keys(pipeline.store, "a")) == 4, "one object per part"
    mark_all_absent(pipeline.engine, MILVUS, "lost")
    empty_milvus(pipeline)
    assert refill_of(pipeline, pipeline.milvus_sink).run_round() == 1
    pipeline.assert_in_step()


# On MySQL


@pytest.fixture
def on_mysql(mysql: Engine, store: DirectoryStore, milvus: MilvusClient) -> Iterator[Pipeline]:
    milvus_sink, minio_sink = MilvusSink(milvus, DIMENSION, SYSTEM_ID), MinioSink(store, SYSTEM_ID)
    milvus_sink.create()
    yield Pipeline(mysql, store, milvus, Writer(MODEL), milvus_sink, minio_sink)
    minio_sink.close()


def test_owner_of_a_lane_refills_only_its_documents(on_mysql: Pipeline) -> None:
    pipeline = on_mysql
    pipeline.upsert(*(document(f"d{number}", "one", f"two {number}") for number in range(60)))
    pipeline.run()
    lanes = dict(pipeline.sql("SELECT doc_id, MOD(CRC32(doc_id), 16) FROM documents"))
    pipeline.delete("d1")
    pipeline.run()
    for name in (MILVUS, MINIO):
        mark_all_absent(pipeline.engine, name, "lost")
    empty_milvus(pipeline)
    for held in (pipeline.milvus_sink, pipeline.minio_sink):
        one = refill_of(pipeline, held)
        mine = {doc_id for doc_id, lane in lanes.items() if lane in (3, 4)}
        assert 0 < len(mine) < 60
        assert one.run_round([3, 4]) == len(mine)
        assert {doc_id for doc_id, (state, _) in states(pipeline, held.name).items() if state == "applied"} == mine
        assert one.run_round([3, 4]) == 0
        assert one.run_round(set(range(16)) - {3, 4}) == 60 - len(mine)
    pipeline.assert_in_step()


def test_two_consumers_of_a_group_refill_all_documents_once(on_mysql: Pipeline, servers: Servers, names: Names) -> None:
    pipeline = on_mysql
    pipeline.upsert(*(document(f"d{number}", "one", f"two {number}") for number in range(60)))
    pipeline.run()
    mark_all_absent(pipeline.engine, MILVUS, "lost")
    empty_milvus(pipeline)
    sinks = [During(pipeline.milvus_sink, lambda: None) for _ in range(2)]
    with ExitStack() as stack:
        for sink in sinks:
            one = refill_of(pipeline, sink)
            stack.enter_context(kafka.consuming(pipeline.engine, sink, servers, names, refill=one))
        missing = "SELECT 1 FROM documents WHERE status <> 'completed' LIMIT 1"
        wait_for(lambda: pipeline.sql(missing) == [], "the documents to be refilled")
    applied = [change.doc_id for sink in sinks for changes in sink.applied for change in changes]
    assert sorted(applied) == sorted(f"d{number}" for number in range(60))
    pipeline.assert_in_step()


def test_document_is_read_from_one_snapshot(on_mysql: Pipeline) -> None:
    pipeline = on_mysql
    pipeline.upsert(document("a", "one", file=b"first"))
    pipeline.run()
    mark_all_absent(pipeline.engine, MILVUS, "lost")
    with snapshot(pipeline.engine) as connection:
        assert connection.scalar(text("SELECT version FROM documents")) == 1
        pipeline.upsert(document("a", "two", "three", file=b"first"))
        assert connection.scalar(text("SELECT version FROM documents")) == 1
        assert connection.scalar(text("SELECT count(*) FROM chunks")) == 1


# A sink that is gone


def test_dropped_collection_stops_the_consumer_without_dead_letters(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one"), document("b", "two"))
    pipeline.run()
    [name] = pipeline.milvus.list_collections()
    pipeline.milvus.drop_alias("rag_vectors")
    pipeline.milvus.drop_collection(name)
    pipeline.upsert(document("a", "new"))
    with pytest.raises(StoreMissing, match="run rag-outbox init"):
        pipeline.run()
    assert pipeline.sql("SELECT count(*) FROM outbox_dead_letters") == [(0,)]
    assert len(pipeline.pending()) == 1
    with pytest.raises(StoreMissing):
        pipeline.milvus_sink.ensure()
    mark_all_absent(pipeline.engine, MILVUS, "lost")
    pipeline.milvus_sink.create()
    pipeline.run()
    refill_of(pipeline, pipeline.milvus_sink).run_round()
    pipeline.assert_in_step()


def test_batch_in_flight_when_its_store_is_lost_is_not_marked(pipeline: Pipeline) -> None:
    """The old collection held it; `init` makes all documents absent before it creates a new one."""
    pipeline.upsert(document("a", "one"), document("b", "two"))

    def lose() -> None:
        empty_milvus(pipeline)
        mark_all_absent(pipeline.engine, MILVUS, "lost")

    with pytest.raises(Retryable):
        applier(pipeline.engine, During(pipeline.milvus_sink, lose)).apply(pipeline.pending())
    assert set(states(pipeline, MILVUS).values()) == {("absent", 0)}
    pipeline.run()
    refill_of(pipeline, pipeline.milvus_sink).run_round()
    pipeline.assert_in_step()
