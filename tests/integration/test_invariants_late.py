"""A consumer that lost its partitions applies concurrently with their new owner; the second to mark detects it."""

from collections.abc import Callable, Sequence

import pytest

from consumers.sink import Change, Sink
from producer import DocumentFile
from schema.failures import Retryable
from schema.limits import INLINE_FILE_BYTES
from tests.support.pipeline import Pipeline, applier, document

pytestmark = pytest.mark.integration

Step = Callable[[], object]


def do_nothing() -> None:
    pass


class Halting:
    """The real sink; `before` and `after` run while its consumer stands still before or after it writes."""

    def __init__(self, sink: Sink, before: Step = do_nothing, after: Step = do_nothing) -> None:
        self.name = sink.name
        self._sink, self._before, self._after = sink, before, after
        self.ensure, self.clean_up, self.close = sink.ensure, sink.clean_up, sink.close

    def apply(self, changes: Sequence[Change]) -> None:
        self._before()
        self._sink.apply(changes)
        self._after()


def states(pipeline: Pipeline) -> dict[str, tuple[int, str, str]]:
    rows = pipeline.sql("SELECT sink, applied_version, state, ifnull(last_error, '') FROM sink_states")
    return {row[0]: (row[1], row[2], row[3]) for row in rows}


def apply_late(pipeline: Pipeline, sink: Sink, write_newer: Step) -> None:
    """Apply the pending events late: before the sink writes, `write_newer` runs and the relay applies everything."""
    events = pipeline.pending()

    def apply_newer() -> None:
        write_newer()
        pipeline.run()
        pipeline.assert_in_step()

    applier(pipeline.engine, Halting(sink, before=apply_newer)).apply(events)


def test_invariant_9_rows_resurrected_by_a_late_consumer_leave_with_the_next_write(
    pipeline: Pipeline,
) -> None:
    pipeline.upsert(document("a", "one", "two"))
    apply_late(pipeline, pipeline.milvus_sink, lambda: pipeline.upsert(document("a", "one")))

    assert sorted(row["content"] for row in pipeline.milvus_rows().values()) == ["one", "two"]
    version, state, reason = states(pipeline)["milvus"]
    assert (version, state) == (2, "failed")
    assert reason.startswith("a consumer that had lost its partitions applied version 1 late and damaged 2 items")
    assert pipeline.sql("SELECT status FROM documents") == [("failed",)]

    pipeline.upsert(document("a", "one"))
    pipeline.run()
    pipeline.assert_in_step()
    assert [row["content"] for row in pipeline.milvus_rows().values()] == ["one"]


def test_invariant_9_document_resurrected_by_a_late_consumer_can_be_deleted_again(pipeline: Pipeline) -> None:
    for sink in (pipeline.milvus_sink, pipeline.minio_sink):
        pipeline.upsert(document("a", "one", "two", file=b"bytes"))
        apply_late(pipeline, sink, lambda: pipeline.delete("a"))
        assert states(pipeline)[sink.name][1] == "failed"
        pipeline.delete("a")
        pipeline.run()
        pipeline.assert_in_step()
        assert (pipeline.milvus_rows(), pipeline.objects()) == ({}, {})


def test_invariant_8_chunk_removed_by_a_late_consumer_is_no_longer_synced(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", "two"))
    pipeline.run()
    pipeline.upsert(document("a", "one"))
    apply_late(pipeline, pipeline.milvus_sink, lambda: pipeline.upsert(document("a", "one", "two")))

    assert [row["content"] for row in pipeline.milvus_rows().values()] == ["one"]
    synced = dict(pipeline.sql("SELECT content, milvus_synced FROM chunks"))
    assert synced == {"one": 1, "two": 0}
    pipeline.upsert(document("a", "one", "two"))
    pipeline.run()
    pipeline.assert_in_step()


def test_invariant_8_labels_overwritten_by_a_late_consumer_are_no_longer_synced(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", business_tag="old"))
    apply_late(pipeline, pipeline.milvus_sink, lambda: pipeline.upsert(document("a", "one", business_tag="new")))
    assert pipeline.sql("SELECT milvus_synced FROM chunks") == [(0,)]
    pipeline.upsert(document("a", "one", business_tag="new"))
    pipeline.run()
    pipeline.assert_in_step()


def test_invariant_8_file_overwritten_by_a_late_consumer_fails_the_document(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", file=b"first"))
    apply_late(pipeline, pipeline.minio_sink, lambda: pipeline.upsert(document("a", "one", file=b"second")))
    assert states(pipeline)["minio"][1] == "failed"
    assert b"first" in pipeline.objects().values()
    pipeline.upsert(document("a", "one", file=b"second"))
    pipeline.run()
    pipeline.assert_in_step()


def test_late_consumer_that_changes_nothing_causes_no_failure(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", file=b"bytes"), document("b", "one"))
    for sink in (pipeline.milvus_sink, pipeline.minio_sink):
        apply_late(pipeline, sink, do_nothing)
        pipeline.assert_in_step()


@pytest.mark.parametrize("sink", ["milvus", "minio"])
def test_invariant_6_newer_version_is_applied_again_after_a_concurrent_older_one(pipeline: Pipeline, sink: str) -> None:
    real = pipeline.milvus_sink if sink == "milvus" else pipeline.minio_sink
    pipeline.upsert(document("a", "one", "two", business_tag="old", file=b"first"))
    older = pipeline.pending()
    pipeline.upsert(document("a", "two", "three", business_tag="new", file=b"second"))
    newer = pipeline.pending()[-1:]
    stopped = applier(pipeline.engine, Halting(real, after=lambda: applier(pipeline.engine, real).apply(older)))
    with pytest.raises(Retryable, match="another consumer applied document 'a' concurrently"):
        stopped.apply(newer)

    pipeline.run()
    pipeline.assert_in_step()


def test_invariant_6_newer_file_survives_a_replay_of_the_older_version(pipeline: Pipeline) -> None:
    """Both versions were in one batch, the consumer died before marking, and its successor uses smaller batches."""
    large = b"x" * (INLINE_FILE_BYTES + 1)
    for content in (b"first" + large, b"second" + large):
        pipeline.upsert(document("a", "one", file=DocumentFile.from_bytes(content, "original.md", pipeline.store)))

    def die() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        applier(pipeline.engine, Halting(pipeline.minio_sink, after=die)).apply(pipeline.pending())
    for event in pipeline.pending():
        assert applier(pipeline.engine, pipeline.minio_sink).apply([event]) == []

    pipeline.run()
    pipeline.assert_in_step()
    assert b"second" + large in pipeline.objects().values()
