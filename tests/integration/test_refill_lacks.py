"""Refill without the vectors or files that it needs: reported once, tried again, asked of the next write."""

import dataclasses
import logging
from collections.abc import Iterator

import pytest

from consumers.refill import Refill, mark_all_absent
from operations.settings import Settings
from operations.status import status
from operations.wiring import System
from producer import Chunk, DocumentFile, FileRequired, VectorRequired
from schema import archive
from schema.failures import Retryable
from schema.object_store.directory import DirectoryStore
from schema.object_store.port import BucketMissing
from schema.sinks import MILVUS, MINIO
from tests.contracts.object_store import put
from tests.support.pipeline import MARKS, Pipeline, document
from tests.support.refill import empty_milvus, errors, make_due, refill_of, states

pytestmark = pytest.mark.integration


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
    waiting = [
        (one["doc_id"], one["sink"], one["reason"]) for one in status(System(Settings(), pipeline.engine)).failing
    ]
    assert waiting == [("a", sink, reason) for sink in (MILVUS, MINIO)]
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
    pipeline.store.remove([keys["a"], str(large.staged_key)])
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
    mark_all_absent(pipeline.engine, MINIO, "lost")
    assert refill_of(pipeline, pipeline.minio_sink).run_round() == 1
    pipeline.run()
    pipeline.assert_in_step()


def test_lost_archive_is_retried_by_a_consumer_of_another_sink(pipeline: Pipeline) -> None:
    class Lost(DirectoryStore):
        def keys(self, prefix: str, *, after: str = "") -> Iterator[str]:
            raise BucketMissing(self.root)

    pipeline.upsert(document("a", "one"))
    pipeline.run()
    mark_all_absent(pipeline.engine, MILVUS, "lost")
    one = Refill(pipeline.engine, pipeline.milvus_sink, MARKS[MILVUS], Lost(pipeline.store.root))
    with pytest.raises(Retryable, match=r"there is no bucket or folder .* in the object store: run rag-outbox init"):
        one.run_round()
    assert states(pipeline, MILVUS) == {"a": ("absent", 0)}
