"""Invariant 6 across histories: an event of a lost history is never applied, and what may hold it becomes absent."""

import logging
from collections.abc import Callable, Sequence

import msgspec
import pytest

from consumers import marks
from consumers.refill import Refill
from consumers.sink import Change, Sink
from producer import DocumentFile
from schema.database import history
from schema.events.events import DocumentUpserted
from schema.limits import INLINE_FILE_BYTES
from tests.support.foreign_events import LOST, forge, lose
from tests.support.pipeline import MARKS, Pipeline, applier, document

pytestmark = [pytest.mark.integration, pytest.mark.both_databases]


def start_history(pipeline: Pipeline) -> None:
    with pipeline.engine.begin() as connection:
        assert history.start_history(connection, "test", instead_of=history.read_identity(connection).history_id)


def states(pipeline: Pipeline) -> dict[str, tuple[int, str, str | None]]:
    rows = pipeline.sql("SELECT sink, applied_version, state, last_error FROM sink_states")
    return {row[0]: (row[1], row[2], row[3]) for row in rows}


def refill_all(pipeline: Pipeline) -> None:
    for sink in (pipeline.minio_sink, pipeline.milvus_sink):
        Refill(pipeline.engine, sink, MARKS[sink.name], pipeline.store).run_round()


def suspects(pipeline: Pipeline) -> list[tuple[str, int]]:
    return [
        tuple(row)
        for row in pipeline.sql("SELECT doc_id, lost_version FROM documents WHERE lost_version > 0 ORDER BY doc_id")
    ]


def absent(sink: str, version: int) -> dict[str, tuple[int, str, str]]:
    reason = f"{sink} received version {version} of a lost history"
    return {"milvus": (0, "absent", reason), "minio": (0, "absent", reason)}


class Interrupted:
    """The real sink; `after` runs once it has applied a batch, before the marks."""

    def __init__(self, sink: Sink, after: Callable[[], object]) -> None:
        self.name, self.takes_vectors, self.takes_files = sink.name, sink.takes_vectors, sink.takes_files
        self._sink, self._after = sink, after
        self.create, self.ensure, self.close = sink.create, sink.ensure, sink.close

    def apply(self, changes: Sequence[Change]) -> None:
        self._sink.apply(changes)
        self._after()


@pytest.mark.parametrize("sink", ["milvus", "minio"])
def test_invariant_6_lost_version_is_not_applied_and_all_states_become_absent(
    pipeline: Pipeline, sink: str, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.upsert(document("a", "one", file=b"kept"))
    [event] = pipeline.pending()
    pipeline.run()
    rows, objects = pipeline.milvus_rows(), pipeline.objects()
    consumer = applier(pipeline.engine, pipeline.milvus_sink if sink == "milvus" else pipeline.minio_sink)
    with caplog.at_level(logging.WARNING):
        assert consumer.apply([lose(event, title="lost", business_tag="lost", files=[])]) == []

    assert (pipeline.milvus_rows(), pipeline.objects()) == (rows, objects)
    assert states(pipeline) == absent(sink, 1)
    assert suspects(pipeline) == [("a", 1)]
    assert pipeline.sql("SELECT status FROM documents") == [("pending",)]
    assert pipeline.sql("SELECT milvus_synced FROM chunks") == [(0,)]
    assert consumer.counts["lost_history"] == 1
    assert f"lost_history sink={sink} doc_id=a version=1 history={LOST}" in caplog.text


def test_event_ahead_of_its_document_belongs_to_a_lost_history(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one"))
    [event] = pipeline.pending()
    pipeline.run()
    milvus, _ = pipeline.appliers()
    assert milvus.apply([forge(event, version=2)]) == []
    assert states(pipeline) == absent("milvus", 2)
    assert suspects(pipeline) == [("a", 2)]


def test_inherited_event_is_skipped_once_its_document_is_written_again(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", file=b"first"), document("b", "one"))
    inherited = pipeline.pending()
    start_history(pipeline)
    pipeline.upsert(document("a", "one", "two", file=b"first"))
    for one in pipeline.appliers():
        assert one.apply(inherited) == []
        assert one.counts["lost_history"] == 0
    rows = pipeline.sql("SELECT DISTINCT doc_id, applied_version, state FROM sink_states ORDER BY doc_id")
    assert [tuple(row) for row in rows] == [("a", 0, "pending"), ("b", 1, "applied")]
    assert suspects(pipeline) == []
    pipeline.run()
    pipeline.assert_in_step()


def test_invariant_6_lost_event_is_not_applied_after_a_second_history(pipeline: Pipeline) -> None:
    """A: version 2 is lost. B writes it again, C goes on from there: to C, it looks inherited."""
    pipeline.upsert(document("a", "one"))
    [event] = pipeline.pending()
    pipeline.run()
    for content in ("two", "three"):
        start_history(pipeline)
        pipeline.upsert(document("a", content))
    rows = pipeline.milvus_rows()
    for one in pipeline.appliers():
        assert one.apply([forge(event, version=2, title="lost")]) == []
    assert pipeline.milvus_rows() == rows
    assert {state[:2] for state in states(pipeline).values()} == {(1, "pending")}
    pipeline.run()
    pipeline.assert_in_step()


def test_parts_of_an_inherited_version_give_way_to_the_next(pipeline: Pipeline) -> None:
    """Part 1 is applied before the new history, the others come after its write."""
    contents = [f"{number} " + "x" * 60_000 for number in range(20)]
    pipeline.upsert(document("a", *contents))
    parts = pipeline.pending()
    assert len(parts) > 2
    pipeline.execute("DELETE FROM outbox")
    for one in pipeline.appliers():
        assert one.apply(parts[:1]) == []
    start_history(pipeline)
    pipeline.upsert(document("a", *contents[5:], "last"))
    for one in pipeline.appliers():
        assert one.apply(parts[1:]) == []
    pipeline.run()
    pipeline.assert_in_step()


def test_version_applied_while_a_new_history_writes_becomes_absent(pipeline: Pipeline) -> None:
    """The sink may even hold a lost version: two histories may have begun in between."""

    def fail_over() -> None:
        start_history(pipeline)
        pipeline.upsert(document("a", "two"))

    pipeline.upsert(document("a", "one"))
    consumer = applier(pipeline.engine, Interrupted(pipeline.milvus_sink, fail_over))
    assert consumer.apply(pipeline.pending()) == []
    assert states(pipeline)["milvus"][:2] == (0, "absent")
    assert states(pipeline)["minio"][:2] == (0, "pending")
    assert suspects(pipeline) == []
    pipeline.run()
    refill_all(pipeline)
    pipeline.assert_in_step()


def test_invariant_6_version_lost_while_it_is_applied_becomes_absent(pipeline: Pipeline) -> None:
    """The database moves to a replica that lacks the version, which is then written again, before the mark."""

    def fail_over() -> None:
        start_history(pipeline)
        pipeline.execute("UPDATE documents SET history_id = (SELECT history_id FROM system_identity)")

    pipeline.upsert(document("a", "one"))
    events = pipeline.pending()
    consumer = applier(pipeline.engine, Interrupted(pipeline.milvus_sink, fail_over))
    assert consumer.apply(events) == []
    assert states(pipeline) == absent("milvus", 1)
    assert suspects(pipeline) == [("a", 1)]
    assert len(pipeline.milvus_rows()) == 1, "a refill replaces it"


def test_document_lost_while_it_is_applied_makes_a_suspect(pipeline: Pipeline) -> None:
    def fail_over() -> None:
        start_history(pipeline)
        for table in ("chunks", "sink_states", "documents"):
            pipeline.execute(f"DELETE FROM {table}")

    pipeline.upsert(document("a", "one"))
    consumer = applier(pipeline.engine, Interrupted(pipeline.milvus_sink, fail_over))
    assert consumer.apply(pipeline.pending()) == []
    assert (suspects(pipeline), states(pipeline)) == ([("a", 1)], absent("milvus", 1))
    assert pipeline.sql("SELECT version, status FROM documents") == [(2, "deleting")]


def test_lost_and_newest_version_in_one_batch_leave_the_state_absent(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one"), document("b", "one"))
    events = pipeline.pending()
    milvus, minio = pipeline.appliers()
    assert minio.apply(events) == []
    assert milvus.apply([lose(events[0]), *events]) == []
    rows = pipeline.sql("SELECT doc_id, state, applied_version FROM sink_states WHERE sink = 'milvus' ORDER BY doc_id")
    assert [tuple(row) for row in rows] == [("a", "absent", 0), ("b", "applied", 1)]
    assert milvus.apply(events) == []
    rows = pipeline.sql("SELECT doc_id, status FROM documents ORDER BY doc_id")
    assert [tuple(row) for row in rows] == [("a", "pending"), ("b", "completed")]


def test_event_that_a_sink_refuses_while_absent_is_no_dead_letter(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    """New labels for rows that Milvus lost: the refill brings them with their vectors."""
    pipeline.upsert(document("a", "one"))
    [event] = pipeline.pending()
    pipeline.run()
    pipeline.upsert(document("a", "one", business_tag="new"))
    milvus, _ = pipeline.appliers()
    assert milvus.apply([lose(event)]) == []
    pipeline.milvus.delete("rag_vectors", ids=list(pipeline.milvus_rows()))
    assert milvus.apply(pipeline.pending()) == []
    assert states(pipeline)["milvus"][:2] == (0, "absent")
    assert "refused_while_absent sink=milvus doc_id=a version=2 reason=Milvus lacks 1 marked chunks" in caplog.text


def test_lost_event_leaves_the_staged_file_of_a_document_alone(pipeline: Pipeline) -> None:
    content = b"x" * (INLINE_FILE_BYTES + 1)
    file = DocumentFile.from_bytes(content, "original.md", pipeline.store)
    pipeline.upsert(document("a", "one", file=file))
    events = pipeline.pending()
    pipeline.run()
    again = DocumentFile.from_bytes(content, "original.md", pipeline.store)
    assert again.staged_key is not None
    [record] = lose_files(events[0].payload, again.staged_key)
    _, minio = pipeline.appliers()
    assert minio.apply([lose(events[0], files=[record])]) == []
    assert again.staged_key in list(pipeline.store.keys("temp/"))


def lose_files(payload: bytes, staged_key: str) -> list[object]:
    files = msgspec.msgpack.decode(payload, type=DocumentUpserted).files
    return [msgspec.structs.replace(file, staged_key=staged_key) for file in files]


def test_optional_sink_that_becomes_absent_leaves_the_document_completed(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one"))
    pipeline.run()
    pipeline.execute("INSERT INTO sinks (name, required, takes_vectors, takes_files) VALUES ('cache', 0, 0, 0)")
    pipeline.execute("INSERT INTO sink_states (doc_id, sink, desired_version) VALUES ('a', 'cache', 1)")
    for sink, status in (("cache", "completed"), ("milvus", "pending")):
        with pipeline.engine.begin() as connection:
            marks.lock_documents(connection, ["a"])
            marks.mark_absent(connection, sink, {"a": "lost"})
        assert pipeline.sql("SELECT status FROM documents") == [(status,)]
