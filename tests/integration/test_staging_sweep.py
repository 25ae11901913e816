"""The sweep removes a staged object only when no document, no event on its way and no sink needs it."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from operations import staging
from operations.staging import sweep, sweep_hourly
from producer import DocumentFile, InvalidDocument
from schema.events.events import decode
from schema.object_store.directory import DirectoryStore
from schema.object_store.s3 import S3Store
from tests.contracts.object_store import put
from tests.support import written
from tests.support.foreign_events import forge
from tests.support.pipeline import Pipeline, document
from tests.support.servers import MinioServer
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.both_databases]

LARGE = b"0123456789abcdef" * 4_097  # 64 KiB and 16 bytes
HOUR = 3_600
DAY = 24 * HOUR


def staged(pipeline: Pipeline, content: bytes = LARGE) -> DocumentFile:
    return DocumentFile.from_bytes(content, "original.pdf", pipeline.store)


def age(store: DirectoryStore, seconds: float = DAY + 60) -> None:
    """Let all staged objects be this old."""
    for key in store.keys("temp/"):
        os.utime(store.root / key, (time.time() - seconds,) * 2)


def run_sweep(pipeline: Pipeline) -> list[str]:
    """Sweep; returns the staged objects that are left."""
    sweep(pipeline.engine, pipeline.store, threading.Event())
    return list(pipeline.store.keys("temp/"))


def upsert_with(pipeline: Pipeline, doc_id: str, file: DocumentFile) -> None:
    pipeline.upsert(document(doc_id, "one", file=file, source_type="pdf"))


def contents(pipeline: Pipeline) -> dict[str, bytes]:
    """The bytes of the original of each document."""
    rows = pipeline.sql("SELECT doc_id, oss_key FROM documents")
    return {doc_id: pipeline.store.read(key) for doc_id, key in rows}


def test_only_abandoned_objects_older_than_a_day_are_removed(pipeline: Pipeline) -> None:
    staged(pipeline)
    put(pipeline.store, "temp/sweep_of_a_killed_process", b"")
    age(pipeline.store)
    young = staged(pipeline)
    os.utime(pipeline.store.root / str(young.staged_key), (time.time() - DAY + 60,) * 2)
    put(pipeline.store, "raw-files/a", b"")
    os.utime(pipeline.store.root / "raw-files/a", (0, 0))
    assert run_sweep(pipeline) == [young.staged_key]
    assert list(pipeline.store.keys("raw-files/")) == ["raw-files/a"]


def test_file_of_a_waiting_event_is_kept_for_any_time(pipeline: Pipeline) -> None:
    upsert_with(pipeline, "a", staged(pipeline))
    age(pipeline.store, 30 * DAY)
    pipeline.store.ensure()  # what init does
    assert len(run_sweep(pipeline)) == 1
    pipeline.run()
    assert contents(pipeline) == {"a": LARGE}
    age(pipeline.store)
    assert run_sweep(pipeline) == []
    assert contents(pipeline) == {"a": LARGE}
    pipeline.assert_in_step()


def test_one_file_serves_two_documents(pipeline: Pipeline) -> None:
    file = staged(pipeline)
    upsert_with(pipeline, "a", file)
    pipeline.run()
    run_sweep(pipeline)
    upsert_with(pipeline, "b", file)
    age(pipeline.store)
    assert run_sweep(pipeline) == [file.staged_key]
    pipeline.run()
    assert contents(pipeline) == {"a": LARGE, "b": LARGE}
    assert run_sweep(pipeline) == []
    pipeline.assert_in_step()


@pytest.mark.parametrize("is_slow", [False, True], ids=["applied one by one", "in one batch"])
def test_file_that_returns_is_still_there(pipeline: Pipeline, is_slow: bool) -> None:
    first, second = staged(pipeline), staged(pipeline, LARGE + b"2")
    for file in (first, second, first):
        upsert_with(pipeline, "a", file)
        if not is_slow:
            pipeline.run()
            run_sweep(pipeline)
    age(pipeline.store)
    if is_slow:
        assert run_sweep(pipeline) == [first.staged_key]
    pipeline.run()
    assert contents(pipeline) == {"a": LARGE}
    assert run_sweep(pipeline) == []
    pipeline.assert_in_step()


def test_foreign_object_at_its_own_staged_key_stays(pipeline: Pipeline) -> None:
    file = staged(pipeline)
    upsert_with(pipeline, "a", file)
    [event] = pipeline.pending()
    files = [msgspec.structs.replace(one, object_key=file.staged_key) for one in decode(event).files]  # type: ignore[union-attr]
    pipeline.execute("UPDATE document_files SET object_key = :key", key=file.staged_key)
    for one in pipeline.appliers():
        assert one.apply([forge(event, files=files)]) == []
    age(pipeline.store)
    assert run_sweep(pipeline) == [file.staged_key]


def test_slower_sink_that_takes_files_keeps_the_object(pipeline: Pipeline) -> None:
    pipeline.execute("INSERT INTO sinks (name, required, takes_vectors, takes_files) VALUES ('slow', 0, 0, 1)")
    file = staged(pipeline)
    upsert_with(pipeline, "a", file)
    for one in pipeline.appliers():
        assert one.apply(pipeline.pending()) == []
    age(pipeline.store)
    assert run_sweep(pipeline) == [file.staged_key]
    pipeline.execute("UPDATE sink_states SET applied_version = 1, state = 'applied' WHERE sink = 'slow'")
    assert run_sweep(pipeline) == []


def test_superseded_event_whose_object_is_gone_is_no_dead_letter(pipeline: Pipeline) -> None:
    upsert_with(pipeline, "a", staged(pipeline))
    second = staged(pipeline, LARGE + b"2")
    upsert_with(pipeline, "a", second)
    age(pipeline.store)
    assert run_sweep(pipeline) == [second.staged_key]
    for one in pipeline.appliers():
        for event in pipeline.pending():  # a consumer gets them in two batches
            assert one.apply([event]) == []
    pipeline.execute("DELETE FROM outbox")
    assert contents(pipeline) == {"a": LARGE + b"2"}
    pipeline.assert_in_step()


def test_writer_refuses_a_file_that_was_staged_long_ago(pipeline: Pipeline) -> None:
    file = staged(pipeline)
    assert file.staged_at is not None
    upsert_with(pipeline, "a", replace(file, staged_at=file.staged_at - timedelta(hours=11)))
    for wrong in (file.staged_at - timedelta(hours=13), None, datetime.now()):  # noqa: DTZ005
        with pytest.raises(InvalidDocument, match=r"file was staged more than 12 hours ago|must have its content"):
            upsert_with(pipeline, "b", replace(file, staged_at=wrong))


def test_clock_of_the_store_decides(pipeline: Pipeline) -> None:
    class Behind(DirectoryStore):
        """Its clock is two days behind."""

        def written_at(self, prefix: str, *, after: str = "") -> Iterator[tuple[str, datetime]]:
            return ((key, at - timedelta(days=2)) for key, at in super().written_at(prefix, after=after))

    file = staged(pipeline)
    assert sweep(pipeline.engine, Behind(pipeline.store.root), threading.Event()) == 0
    assert list(pipeline.store.keys("temp/")) == [file.staged_key]


def test_many_objects_are_looked_up_in_bounded_batches(pipeline: Pipeline) -> None:
    for number in range(2_100):
        path = pipeline.store.root / f"temp/upload_{number:032x}/file"
        path.parent.mkdir(parents=True)
        path.touch()
    age(pipeline.store)
    with written.statements(pipeline.engine) as sent:
        assert run_sweep(pipeline) == []
    assert len([one for one in sent if one.startswith("SELECT")]) == 9, "files, keys and tasks, in three batches"


def test_sweep_is_repeated_after_a_failure(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    class Flaky(DirectoryStore):
        failures = 2

        def remove(self, keys: object) -> None:
            if self.failures:
                self.failures -= 1
                raise OSError("the store is away")
            super().remove(keys)  # type: ignore[arg-type]

    monkeypatch.setattr(staging, "_PAUSE_SECONDS", 0.01)
    staged(pipeline)
    age(pipeline.store)
    with sweep_hourly(pipeline.engine, Flaky(pipeline.store.root)):
        wait_for(lambda: not list(pipeline.store.keys("temp/upload_")), "the abandoned object to be removed")
    assert [one for one in threading.enumerate() if one.name == "staging-sweep"] == []


def test_sweep_on_a_server(
    minio_server: MinioServer, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with minio_server.bucket() as bucket:
        store = S3Store(minio_server.client(), bucket)
        store.ensure()
        named, _abandoned = (DocumentFile.from_bytes(LARGE, "original.pdf", store) for _ in range(2))
        upsert_with(pipeline, "a", named)
        assert sweep(pipeline.engine, store, threading.Event()) == 0
        assert len(list(store.keys(""))) == 2
        monkeypatch.setattr(staging, "_AGE", timedelta(seconds=-10))
        assert sweep(pipeline.engine, store, threading.Event()) == 1
        assert list(store.keys("")) == [named.staged_key]
