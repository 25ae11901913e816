"""Invariants 8, 9 and 10 on real stores: honest marks, no ghosts, write before delete."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from milvus_lite.server_manager import server_manager_instance
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from consumers.applier import Applier
from consumers.marking import Marking
from consumers.milvus import sink as milvus_module
from consumers.milvus import upsert as milvus_upsert
from consumers.milvus.sink import MilvusSink
from schema import limits
from schema.failures import Retryable
from schema.sinks import MILVUS, MINIO
from tests.support.pipeline import DIMENSION, SYSTEM_ID, Pipeline, applier, document, vector

pytestmark = pytest.mark.integration


def applier_of(pipeline: Pipeline, sink: str) -> Applier:
    return next(applier for applier in pipeline.appliers() if applier.name == sink)


def load_statuses(pipeline: Pipeline) -> set[str]:
    return {row.status for row in pipeline.sql("SELECT status FROM documents")}


def load_synced(pipeline: Pipeline) -> dict[str, bool]:
    return {row.content: bool(row.milvus_synced) for row in pipeline.sql("SELECT content, milvus_synced FROM chunks")}


def load_state(pipeline: Pipeline, sink: str) -> tuple[int, str]:
    row = pipeline.sql("SELECT applied_version, state FROM sink_states WHERE sink = :sink", sink=sink)[0]
    return row.applied_version, row.state


@contextmanager
def after_first_call(owner: Any, method: str, act: Callable[[], None]) -> Iterator[None]:
    """Call `act` after the first call of `method` did its work and before that call returns."""
    real, calls = getattr(owner, method), []

    def call(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        calls.append(method)
        if len(calls) == 1:
            act()
        return result

    with patch.object(owner, method, call):
        yield
    assert calls


def test_invariant_8_no_marks_when_milvus_fails_halfway(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", "two", "three"))
    real, rows = milvus_upsert.upsert, iter((1, 2))

    def fails_at_the_third_row(*args: Any, **kwargs: Any) -> Any:
        if next(rows, None) is None:
            raise MilvusException(code=1, message="the power went out")
        return real(*args, **kwargs)

    with (
        patch.object(milvus_module, "_ROWS_PER_REQUEST", 1),
        patch.object(milvus_upsert, "upsert", fails_at_the_third_row),
        pytest.raises(Retryable, match="the power went out"),
    ):
        applier_of(pipeline, MILVUS).apply(pipeline.pending())
    assert len(pipeline.milvus_rows()) == 2  # nothing is marked: Milvus did not acknowledge the whole document
    assert load_synced(pipeline) == {"one": False, "two": False, "three": False}
    assert load_state(pipeline, MILVUS) == (0, "pending")
    assert applier_of(pipeline, MINIO).apply(pipeline.pending()) == []
    assert load_statuses(pipeline) == {"pending"}
    pipeline.run()
    pipeline.assert_in_step()


def test_invariant_8_no_marks_when_milvus_cannot_be_reached(pipeline: Pipeline, tmp_path: Path) -> None:
    folder = str(tmp_path / "other.db")
    client = MilvusClient(server_manager_instance.start_and_get_uri(folder))
    sink = MilvusSink(client, DIMENSION, SYSTEM_ID, timeout_seconds=0.2)
    sink.create()
    server_manager_instance.release_server(folder)  # no server listens now
    pipeline.upsert(document("a", "one"))
    with pytest.raises(Retryable, match=r"^Milvus: "):
        applier(pipeline.engine, sink).apply(pipeline.pending())
    client.close()
    assert load_synced(pipeline) == {"one": False}
    assert load_state(pipeline, MILVUS) == (0, "pending")
    assert load_statuses(pipeline) == {"pending"}


@pytest.mark.parametrize("first", [MILVUS, MINIO])
def test_invariant_8_document_is_completed_only_when_both_sinks_hold_it(pipeline: Pipeline, first: str) -> None:
    pipeline.upsert(document("a", "one", file=b"x"))
    second = MINIO if first == MILVUS else MILVUS
    for version in (1, 2):
        applier_of(pipeline, first).apply(pipeline.pending())
        assert load_statuses(pipeline) == {"pending"}
        assert (load_state(pipeline, first), load_state(pipeline, second)[1]) == ((version, "applied"), "pending")
        applier_of(pipeline, second).apply(pipeline.pending())
        assert load_statuses(pipeline) == {"completed"}
        pipeline.upsert(document("a", "one", "two", file=b"x"))


def test_invariant_8_two_sinks_mark_concurrently(pipeline: Pipeline) -> None:
    pipeline.upsert(*(document(f"doc-{number}", "one") for number in range(40)))
    events = pipeline.pending()
    meet, mark = threading.Barrier(2, timeout=10), Marking._mark

    def mark_together(*args: Any) -> Any:
        meet.wait()
        return mark(*args)

    with patch.object(Marking, "_mark", mark_together), ThreadPoolExecutor(2) as pool:
        for start in range(0, 40, 4):
            batch = events[start : start + 4]
            assert list(pool.map(lambda one, batch=batch: one.apply(batch), pipeline.appliers())) == [[], []]
    assert load_statuses(pipeline) == {"completed"}


def test_invariant_8_chunk_that_was_removed_and_added_again_is_not_marked(pipeline: Pipeline) -> None:
    def rewrite() -> None:
        pipeline.upsert(document("a", "two"))
        pipeline.upsert(document("a", "one", "two"))

    pipeline.upsert(document("a", "one"))
    with after_first_call(milvus_upsert, "upsert", rewrite):
        applier_of(pipeline, MILVUS).apply(pipeline.pending())
    assert load_synced(pipeline) == {"one": False, "two": False}  # another event sends them
    assert load_state(pipeline, MILVUS) == (1, "pending")
    applier_of(pipeline, MINIO).apply(pipeline.pending())
    assert load_statuses(pipeline) == {"pending"}
    pipeline.run()
    pipeline.assert_in_step()


def test_invariant_8_marks_never_return_to_an_older_version(pipeline: Pipeline) -> None:
    def overtake() -> None:
        pipeline.upsert(document("a", "two"))
        pipeline.run()

    pipeline.upsert(document("a", "one"))
    older = pipeline.pending()
    with after_first_call(milvus_upsert, "upsert", overtake):
        applier_of(pipeline, MILVUS).apply(older)
    assert load_state(pipeline, MILVUS) == (0, "absent")  # the consumer cannot know which of the two wrote last
    assert applier_of(pipeline, MILVUS).apply(older) == []
    assert load_state(pipeline, MILVUS) == (0, "absent")
    assert load_synced(pipeline) == {"two": False}
    assert load_statuses(pipeline) == {"pending"}


def test_invariant_8_newer_tombstone_is_not_confirmed_by_an_older_delete(pipeline: Pipeline) -> None:
    def rewrite() -> None:
        pipeline.upsert(document("a", "one", "two"))
        pipeline.upsert(document("a", "two"))

    pipeline.upsert(document("a", "one", "two"))
    pipeline.run()
    pipeline.upsert(document("a", "two"))
    with after_first_call(pipeline.milvus, "delete", rewrite):
        applier_of(pipeline, MILVUS).apply(pipeline.pending())
    assert [row.removed_in_version for row in pipeline.sql("SELECT * FROM chunk_tombstones")] == [4]
    pipeline.run()
    pipeline.assert_in_step()


def test_invariant_8_newer_file_removal_is_not_confirmed_by_an_older_one(pipeline: Pipeline) -> None:
    def rewrite() -> None:
        pipeline.upsert(document("a", "one", file=b"x", source_type="text"))
        pipeline.upsert(document("a", "one", file=b"x", source_type="pdf"))

    pipeline.upsert(document("a", "one", file=b"x", source_type="text"))
    pipeline.run()
    pipeline.upsert(document("a", "one", file=b"x", source_type="pdf"))
    with after_first_call(pipeline.store, "remove", rewrite):
        applier_of(pipeline, MINIO).apply(pipeline.pending())
    removed = pipeline.sql("SELECT * FROM document_files WHERE removed_in_version IS NOT NULL")
    assert [(row.object_key.split("/")[1], row.removed_in_version) for row in removed] == [("text", 4)]
    pipeline.run()
    pipeline.assert_in_step()


def test_invariant_9_older_events_cannot_resurrect_a_deleted_document(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", "two", file=b"x"))
    pipeline.upsert(document("a", "two", "three", file=b"y"))
    older = pipeline.pending()
    pipeline.run()
    pipeline.delete("a")

    def tombstones() -> tuple[str, int, int]:
        count = "SELECT (SELECT count(*) FROM chunk_tombstones), (SELECT count(*) FROM document_files)"
        return (load_statuses(pipeline).pop(), *pipeline.sql(count)[0])

    assert tombstones() == ("deleting", 2, 1)
    deletion = pipeline.pending()
    assert applier_of(pipeline, MILVUS).apply(deletion) == []
    assert tombstones() == ("deleting", 0, 1)
    assert applier_of(pipeline, MINIO).apply(deletion) == []
    assert tombstones() == ("completed", 0, 0)
    for one in pipeline.appliers():
        for event in older:
            assert one.apply([event]) == []
        assert one.apply([*older, *deletion, *older]) == []
    assert pipeline.milvus_rows() == {}
    assert pipeline.objects() == {}
    kept = pipeline.sql("SELECT version, chunk_count, deleted_at FROM documents")
    assert [(row.version, row.chunk_count, row.deleted_at is None) for row in kept] == [(3, 0, False)]


def test_invariant_9_deleted_document_can_be_written_again(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", "two", file=b"x"))
    pipeline.delete("a")
    older = pipeline.pending()
    pipeline.upsert(document("a", "two", "three", file=b"y"))
    pipeline.run()
    pipeline.assert_in_step()
    for one in pipeline.appliers():
        assert one.apply(older) == []  # the late deletion included
    pipeline.assert_in_step()
    assert sorted(row["content"] for row in pipeline.milvus_rows().values()) == ["three", "two"]
    assert [content for key, content in pipeline.objects().items() if key.startswith("raw-files/")] == [b"y"]


def test_invariant_9_document_deleted_before_it_was_applied_leaves_nothing(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", file=b"x"), document("b", "one", file=b"x"))
    pipeline.delete("a")
    pipeline.run()
    pipeline.assert_in_step()
    assert {row["doc_id"] for row in pipeline.milvus_rows().values()} == {"b"}


@pytest.mark.parametrize("event_bytes", [limits.EVENT_BYTES, 700], ids=["one-event", "many-parts"])
def test_invariant_10_search_always_finds_a_document_during_its_update(pipeline: Pipeline, event_bytes: int) -> None:
    pipeline.upsert(document("a", *(f"old {number}" for number in range(5))))
    pipeline.run()
    calls: list[str] = []

    def watched(owner: Any, method: str) -> Callable[..., Any]:
        real = getattr(owner, method)

        def call(*args: Any, **kwargs: Any) -> Any:
            look()
            result = real(*args, **kwargs)
            calls.append(method)
            look()
            return result

        return call

    def look() -> None:
        """Search as a reader would now."""
        found = pipeline.milvus.search("rag_vectors", [vector("old 0")], limit=20, output_fields=["doc_id", "content"])
        contents = {hit["entity"]["content"] for hit in found[0]}
        old = {f"old {number}" for number in range(5)}
        assert contents >= old or contents >= {f"new {number}" for number in range(5)}

    with patch.object(limits, "EVENT_BYTES", event_bytes):
        pipeline.upsert(document("a", *(f"new {number}" for number in range(5))))
    assert len(pipeline.pending()) == (1 if event_bytes == limits.EVENT_BYTES else 6)
    with (
        patch.object(milvus_module, "_ROWS_PER_REQUEST", 2),
        patch.object(milvus_upsert, "upsert", watched(milvus_upsert, "upsert")),
        patch.object(pipeline.milvus, "delete", watched(pipeline.milvus, "delete")),
    ):
        for event in pipeline.pending():
            applier_of(pipeline, MILVUS).apply([event])
    assert calls == sorted(calls, reverse=True)  # every upsert, then every delete
    assert set(calls) == {"upsert", "delete"}
    pipeline.run()
    pipeline.assert_in_step()


def test_invariant_10_moved_file_is_written_before_its_old_key_is_deleted(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", file=b"x", source_type="text"))
    pipeline.run()
    pipeline.upsert(document("a", "one", file=b"x", source_type="pdf"))
    real, seen = pipeline.store.remove, []

    def remove(keys: Any) -> None:
        seen.append({key.split("/")[1] for key in pipeline.store.keys("raw-files/")})
        real(keys)

    with patch.object(pipeline.store, "remove", remove):
        pipeline.run()
    assert seen == [{"text", "pdf"}]
    assert {key.split("/")[1] for key in pipeline.store.keys("raw-files/")} == {"pdf"}
    pipeline.assert_in_step()
