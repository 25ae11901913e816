"""A consumer that lost its partitions applies concurrently with their new owner; the second to mark detects it."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy.exc import OperationalError

from consumers import marks
from consumers.sink import Change, Sink
from producer import DocumentFile
from schema import limits
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
        self.name, self.takes_vectors, self.takes_files = sink.name, sink.takes_vectors, sink.takes_files
        self._sink, self._before, self._after = sink, before, after
        self.create, self.ensure, self.close = sink.create, sink.ensure, sink.close

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


def overtake(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one"))
    pipeline.run()


@contextmanager
def fail_second_lock(failure: Exception) -> Iterator[None]:
    """The new owner marks first; then the late consumer's transaction fails."""
    real, calls = marks.lock_documents, count(1)

    def lock(*arguments: Any) -> None:
        if next(calls) > 2:  # the new owner marks both sinks
            raise failure
        real(*arguments)

    with patch.object(marks, "lock_documents", lock):
        yield


def assert_absent(pipeline: Pipeline, sink: str, *, late: int, newer: int, status: str = "pending") -> None:
    """Nothing that the sink holds counts: a refill brings the document again. The other sink holds it."""
    other = {"milvus": "minio", "minio": "milvus"}[sink]
    reason = f"a consumer that had lost its partitions applied version {late} after version {newer}"
    assert states(pipeline) == {sink: (0, "absent", reason), other: (newer, "applied", "")}
    assert pipeline.sql("SELECT status FROM documents") == [(status,)]
    if sink == "milvus":
        assert pipeline.sql("SELECT 1 FROM chunks WHERE milvus_synced") == []


def test_invariant_9_rows_resurrected_by_a_late_consumer_make_the_state_absent(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", "two"))
    apply_late(pipeline, pipeline.milvus_sink, lambda: pipeline.upsert(document("a", "one")))

    assert sorted(row["content"] for row in pipeline.milvus_rows().values()) == ["one", "two"]
    assert_absent(pipeline, "milvus", late=1, newer=2)


@pytest.mark.parametrize("sink", ["milvus", "minio"])
def test_invariant_9_document_resurrected_by_a_late_consumer_is_absent(pipeline: Pipeline, sink: str) -> None:
    real = pipeline.milvus_sink if sink == "milvus" else pipeline.minio_sink
    pipeline.upsert(document("a", "one", "two", file=b"bytes"))
    apply_late(pipeline, real, lambda: pipeline.delete("a"))
    assert_absent(pipeline, sink, late=1, newer=2, status="deleting")


def test_invariant_8_chunk_removed_by_a_late_consumer_is_no_longer_synced(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", "two"))
    pipeline.run()
    pipeline.upsert(document("a", "one"))
    apply_late(pipeline, pipeline.milvus_sink, lambda: pipeline.upsert(document("a", "one", "two")))

    assert [row["content"] for row in pipeline.milvus_rows().values()] == ["one"]
    assert_absent(pipeline, "milvus", late=2, newer=3)


def test_invariant_8_labels_overwritten_by_a_late_consumer_are_no_longer_synced(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", business_tag="old"))
    apply_late(pipeline, pipeline.milvus_sink, lambda: pipeline.upsert(document("a", "one", business_tag="new")))
    assert_absent(pipeline, "milvus", late=1, newer=2)


def test_invariant_8_file_overwritten_by_a_late_consumer_makes_the_state_absent(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", file=b"first"))
    apply_late(pipeline, pipeline.minio_sink, lambda: pipeline.upsert(document("a", "one", file=b"second")))
    assert b"first" in pipeline.objects().values()
    assert_absent(pipeline, "minio", late=1, newer=2)


def test_invariant_8_late_version_is_remembered_when_its_mark_fails(pipeline: Pipeline) -> None:
    """The mark of another document fails after the sink was written; the next attempt no longer applies the version."""
    pipeline.upsert(document("a", "one", "two"))
    late = applier(pipeline.engine, Halting(pipeline.milvus_sink, before=lambda: overtake(pipeline)))
    failure = OperationalError("UPDATE", {}, sqlite3.OperationalError("database is locked"))
    events = pipeline.pending()
    with pytest.raises(Retryable, match="database is locked"), fail_second_lock(failure):
        late.apply(events)
    assert states(pipeline)["milvus"] == (2, "applied", "")

    late._sink = pipeline.milvus_sink
    assert late.apply(events) == []
    assert_absent(pipeline, "milvus", late=1, newer=2)


def test_invariant_8_newer_version_is_applied_again_after_an_unmarked_older_one(pipeline: Pipeline) -> None:
    """A consumer wrote an old version, could not mark it and lost the partition while the new owner applies."""
    pipeline.upsert(document("a", "one", "two"))
    older = pipeline.pending()
    former = applier(pipeline.engine, pipeline.milvus_sink)
    failure = OperationalError("UPDATE", {}, sqlite3.OperationalError("database is locked"))

    def write_older() -> None:
        with pytest.raises(Retryable), patch.object(marks, "lock_documents", side_effect=failure):
            former.apply(older)
        former.apply([])  # its next batch

    pipeline.upsert(document("a", "one"))
    owner = applier(pipeline.engine, Halting(pipeline.milvus_sink, after=write_older))
    with pytest.raises(Retryable, match="another consumer applied document 'a' concurrently"):
        owner.apply(pipeline.pending())
    pipeline.run()
    pipeline.assert_in_step()


def test_late_whole_version_cannot_overwrite_parts_of_a_newer_one(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", "two", business_tag="old"))
    older = pipeline.pending()
    with patch.object(limits, "EVENT_BYTES", 750):
        pipeline.upsert(document("a", "one", "two", "three", business_tag="new"))
    parts = pipeline.pending()[1:]
    assert len(parts) > 1
    owner = applier(pipeline.engine, pipeline.milvus_sink)
    late = Halting(pipeline.milvus_sink, before=lambda: owner.apply(parts[:1]))
    assert applier(pipeline.engine, late).apply(older) == []
    assert states(pipeline)["milvus"][1] == "absent"
    assert owner.apply(parts[1:]) == []
    assert states(pipeline)["milvus"][1] == "absent", "only a refill may end it"


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
