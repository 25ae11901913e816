"""Refill: a sink that holds nothing that counts of a document gets it back without an event."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from unittest.mock import patch

import pytest
from pymilvus import MilvusClient
from sqlalchemy import Engine, text

from consumers import refill
from consumers.milvus.sink import MilvusSink
from consumers.minio.sink import MinioSink
from consumers.refill import Refill, mark_all_absent
from consumers.sink import Change, Sink
from producer import Chunk, DocumentFile, FileRequired, VectorRequired, Writer
from schema import archive
from schema.database.connection import snapshot
from schema.failures import Permanent, Retryable, StoreMissing
from schema.kafka.names import Names
from schema.object_store.directory import DirectoryStore
from schema.object_store.port import BucketMissing
from schema.sinks import MILVUS, MINIO
from tests.contracts.milvus_collection import chunk as stored_chunk
from tests.contracts.milvus_collection import upsert_change
from tests.contracts.object_store import put
from tests.support import kafka
from tests.support.pipeline import DIMENSION, MARKS, MODEL, Pipeline, applier, document
from tests.support.servers import Servers
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration

ARCHIVE = "processed-data/embeddings"


class During:
    """The real sink; `step` runs after it applied a change and before that is marked."""

    def __init__(self, sink: Sink, step: Callable[[], None]) -> None:
        self.name, self.takes_vectors, self.takes_files = sink.name, sink.takes_vectors, sink.takes_files
        self.create, self.ensure, self.clean_up, self.close = sink.create, sink.ensure, sink.clean_up, sink.close
        self.applied: list[list[Change]] = []
        self._sink, self._step = sink, step

    def apply(self, changes: Sequence[Change]) -> None:
        self.applied.append(list(changes))
        self._sink.apply(changes)
        self._step()


def refill_of(pipeline: Pipeline, sink: Sink) -> Refill:
    return Refill(pipeline.engine, sink, MARKS[sink.name], pipeline.store)


def sink_of(pipeline: Pipeline, name: str) -> Sink:
    return pipeline.milvus_sink if name == MILVUS else pipeline.minio_sink


def empty_milvus(pipeline: Pipeline) -> None:
    pipeline.milvus.delete("rag_vectors", ids=list(pipeline.milvus_rows()))


def states(pipeline: Pipeline, sink: str) -> dict[str, tuple[str, int]]:
    rows = pipeline.sql("SELECT doc_id, state, applied_version FROM sink_states WHERE sink = :sink", sink=sink)
    return {doc_id: (state, version) for doc_id, state, version in rows}


def errors(pipeline: Pipeline, sink: str) -> list[str | None]:
    return [one for (one,) in pipeline.sql("SELECT last_error FROM sink_states WHERE sink = :sink", sink=sink)]


def make_due(pipeline: Pipeline) -> None:
    pipeline.execute("UPDATE sink_states SET requested_at = '2020-01-01 00:00:00' WHERE state = 'absent'")


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


def test_missing_vectors_are_reported_once_and_asked_of_the_next_write(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.upsert(document("a", "one", "two"), document("b", "three"))
    pipeline.run()
    archive.remove(pipeline.store, "a")
    for name in (MILVUS, MINIO):
        mark_all_absent(pipeline.engine, name, "lost")
    empty_milvus(pipeline)
    lost = pipeline.sql("SELECT chunk_id FROM chunks WHERE doc_id = 'a' ORDER BY chunk_index")[0][0]
    reason = f"the object store lacks the vectors of 2 chunks, one is {lost}: write the document again"
    for sink in (pipeline.milvus_sink, pipeline.minio_sink):
        assert refill_of(pipeline, sink).run_round() == 1
        assert refill_of(pipeline, sink).run_round() == 0, "postponed"
        make_due(pipeline)
        assert refill_of(pipeline, sink).run_round() == 0
        assert states(pipeline, sink.name) == {"a": ("absent", 0), "b": ("applied", 1)}
    assert errors(pipeline, MILVUS) == [reason, None]
    assert pipeline.sql("SELECT attempts FROM sink_states WHERE doc_id = 'a'") == [(2,), (2,)]
    assert dict(pipeline.sql("SELECT doc_id, status FROM documents")) == {"a": "pending", "b": "completed"}
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert logged == [f"refill_lacks sink={sink} doc_id=a reason={reason}" for sink in (MILVUS, MINIO)]
    with pytest.raises(VectorRequired):
        pipeline.upsert(dataclasses.replace(document("a", business_tag="hr"), chunks=[Chunk(content="one")]))
    pipeline.upsert(document("a", "one", "two", business_tag="hr"))
    pipeline.run()
    for sink in (pipeline.minio_sink, pipeline.milvus_sink):
        refill_of(pipeline, sink).run_round()
    pipeline.assert_in_step()


def test_vectors_on_their_way_to_the_archive_are_waited_for(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", "two"))
    events = pipeline.pending()
    mark_all_absent(pipeline.engine, MILVUS, "lost")
    assert refill_of(pipeline, pipeline.milvus_sink).run_round() == 0
    _, minio = pipeline.appliers()
    minio.apply(events)
    make_due(pipeline)
    assert refill_of(pipeline, pipeline.milvus_sink).run_round() == 1
    pipeline.run()
    pipeline.assert_in_step()


def test_lost_file_is_reported_and_asked_of_the_next_write(pipeline: Pipeline) -> None:
    large = DocumentFile.from_bytes(b"x" * 100_000, "large.pdf", pipeline.store)
    pipeline.upsert(document("a", "one", file=large), document("b", "two", file=b"small"))
    pipeline.run()
    keys = dict(pipeline.sql("SELECT doc_id, object_key FROM document_files"))
    pipeline.store.remove([keys["a"]])
    put(pipeline.store, keys["b"], b"other bytes")
    mark_all_absent(pipeline.engine, MINIO, "lost")
    assert refill_of(pipeline, pipeline.minio_sink).run_round() == 0
    assert errors(pipeline, MINIO) == [
        f"the object store lacks 1 files, one is {keys[doc_id]}: write the document again" for doc_id in ("a", "b")
    ]
    with pytest.raises(FileRequired):
        pipeline.upsert(document("b", "two", business_tag="hr"))
    again = DocumentFile.from_bytes(b"x" * 100_000, "large.pdf", pipeline.store)
    pipeline.upsert(
        document("a", "one", file=again, business_tag="hr"), document("b", "two", file=b"small", business_tag="hr")
    )
    pipeline.run()
    refill_of(pipeline, pipeline.minio_sink).run_round()
    pipeline.assert_in_step()


def test_lost_copy_is_made_again_from_the_staged_file(pipeline: Pipeline) -> None:
    large = DocumentFile.from_bytes(b"x" * 100_000, "large.pdf", pipeline.store)
    pipeline.upsert(document("a", "one", file=large))
    [event] = pipeline.pending()
    for one in pipeline.appliers():
        one.apply([event])
    [(key,)] = pipeline.sql("SELECT object_key FROM document_files")
    pipeline.store.remove([key])
    assert large.staged_key is not None
    put(pipeline.store, large.staged_key, b"x" * 100_000)
    mark_all_absent(pipeline.engine, MINIO, "lost")
    assert refill_of(pipeline, pipeline.minio_sink).run_round() == 1
    assert list(pipeline.store.keys("temp/")) == [], "cleaned up after the mark"
    pipeline.run()
    pipeline.assert_in_step()


def test_large_document_is_refilled_in_bounded_parts_and_its_archive_is_never_incomplete(pipeline: Pipeline) -> None:
    contents = [f"{number} " + "x" * 60_000 for number in range(30)]
    pipeline.upsert(document("a", *contents[:20]))
    pipeline.run()
    pipeline.upsert(document("a", *contents))  # archive objects of both versions
    pipeline.run()
    mark_all_absent(pipeline.engine, MINIO, "damaged")
    ids = {row[0]: (row[1], 1) for row in pipeline.sql("SELECT chunk_id, content_hash FROM chunks")}
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


def test_rounds_are_bounded_in_documents_chunks_and_bytes(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.upsert(*(document(f"d{number:03d}", "one", "two " + "x" * 1_000) for number in range(120)))
    pipeline.run()

    def rounds() -> list[int]:
        mark_all_absent(pipeline.engine, MILVUS, "lost")
        one = refill_of(pipeline, pipeline.milvus_sink)
        return list(iter(one.run_round, 0))

    assert rounds() == [100, 20]
    monkeypatch.setattr(refill, "_ROUND_CHUNKS", 100)
    assert rounds() == [50, 50, 20]
    monkeypatch.setattr(refill, "_ROUND_BYTES", 50_000)
    assert len(rounds()) >= 5
    pipeline.assert_in_step()


def test_round_takes_at_most_half_of_the_time(pipeline: Pipeline) -> None:
    now = 0.0

    def take_two_seconds() -> None:
        nonlocal now
        now += 2.0

    pipeline.upsert(document("a", "one"))
    pipeline.run()
    mark_all_absent(pipeline.engine, MILVUS, "lost")
    sink = During(pipeline.milvus_sink, take_two_seconds)
    one = Refill(pipeline.engine, sink, MARKS[MILVUS], pipeline.store, clock=lambda: now)
    assert one.is_due()
    assert one.run_round() == 1
    now = 3.9
    assert not one.is_due()
    now = 4.0
    assert one.is_due()
    assert one.run_round() == 0
    assert not one.is_due(), "nothing was found: a pause"


def test_oldest_requests_come_first(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.upsert(*(document(doc_id, "one") for doc_id in "abc"))
    pipeline.run()
    mark_all_absent(pipeline.engine, MILVUS, "lost")
    for doc_id, day in (("b", 1), ("c", 2), ("a", 3)):
        requested = f"UPDATE sink_states SET requested_at = '2020-01-0{day} 00:00:00' WHERE doc_id = :doc_id"
        pipeline.execute(requested, doc_id=doc_id)
    monkeypatch.setattr(refill, "_ROUND_DOCUMENTS", 1)
    sink = During(pipeline.milvus_sink, lambda: None)
    one = refill_of(pipeline, sink)
    assert list(iter(one.run_round, 0)) == [1, 1, 1]
    assert [change.doc_id for [change] in sink.applied] == ["b", "c", "a"]


def test_refused_document_keeps_the_reason_and_holds_up_no_other(pipeline: Pipeline) -> None:
    class Refusing(During):
        def apply(self, changes: Sequence[Change]) -> None:
            if any(change.doc_id == "b" for change in changes):
                raise Permanent("b is bad")
            super().apply(changes)

    pipeline.upsert(*(document(doc_id, "one") for doc_id in "abcd"))
    pipeline.run()
    mark_all_absent(pipeline.engine, MILVUS, "lost")
    assert refill_of(pipeline, Refusing(pipeline.milvus_sink, lambda: None)).run_round() == 3
    assert pipeline.sql("SELECT doc_id, last_error FROM sink_states WHERE state = 'absent'") == [("b", "b is bad")]
    make_due(pipeline)
    assert refill_of(pipeline, pipeline.milvus_sink).run_round() == 1
    pipeline.assert_in_step()


def test_lost_archive_is_retried_by_a_consumer_of_another_sink(pipeline: Pipeline) -> None:
    class Lost(DirectoryStore):
        def keys(self, prefix: str) -> Iterator[str]:
            raise BucketMissing

    pipeline.upsert(document("a", "one"))
    pipeline.run()
    mark_all_absent(pipeline.engine, MILVUS, "lost")
    one = Refill(pipeline.engine, pipeline.milvus_sink, MARKS[MILVUS], Lost(pipeline.store.root))
    with pytest.raises(Retryable, match="the bucket or folder of the object store is missing"):
        one.run_round()
    assert states(pipeline, MILVUS) == {"a": ("absent", 0)}


# On MySQL


@pytest.fixture
def on_mysql(mysql: Engine, store: DirectoryStore, milvus: MilvusClient) -> Iterator[Pipeline]:
    milvus_sink, minio_sink = MilvusSink(milvus, DIMENSION), MinioSink(store)
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
