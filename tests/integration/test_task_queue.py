"""The task queue: an uploaded file becomes a document in all stores, whatever happens to its workers."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from consumers.refill import mark_all_absent
from operations import staging
from operations.backup.objects.lacking_files import find_lacking
from operations.documents.resync import find_unprocessed
from operations.retention.erase import erase
from operations.transient_errors import note_transient_errors
from producer import DocumentFile, InvalidDocument, run
from producer.processing.tasks import queue
from producer.processing.tasks.queue import LeaseLost, Task
from producer.processing.tasks.steps import Superseded
from producer.processing.tasks.task_input import TaskInput, UploadedFile
from producer.processing.tasks.upload import Upload, upload
from schema.database.tables import TASK_TYPES
from schema.object_store.directory import DirectoryStore
from schema.object_store.port import Readable
from tests.contracts.object_store import put
from tests.support.console import ConsoleSystem
from tests.support.pipeline import Pipeline, document
from tests.support.reconciled import refill_all
from tests.support.tasks import VectorEmbedder, open_steps, upload_text, work

pytestmark = [pytest.mark.integration, pytest.mark.both_databases]

LEASE = 60.0


def tasks(pipeline: Pipeline) -> dict[str, str]:
    """The status of the newest task of each step."""
    rows = pipeline.sql("SELECT task_type, status FROM processing_tasks ORDER BY created_at, attempt")
    return dict(map(tuple, rows))


def state(pipeline: Pipeline, doc_id: str = "d") -> tuple[Any, ...]:
    [row] = pipeline.sql("SELECT version, status, chunk_count FROM documents WHERE doc_id = :doc_id", doc_id=doc_id)
    return tuple(row)


def claim(pipeline: Pipeline) -> Task:
    task = queue.claim(pipeline.engine, TASK_TYPES, LEASE)
    assert task is not None
    return task


def end_leases(pipeline: Pipeline) -> None:
    pipeline.execute("UPDATE processing_tasks SET lease_until = '2000-01-01' WHERE status = 'running'")


def make_due(pipeline: Pipeline) -> None:
    pipeline.execute("UPDATE processing_tasks SET available_at = '2000-01-01' WHERE status = 'queued'")


def test_uploaded_file_is_visible_before_its_chunks(pipeline: Pipeline) -> None:
    upload_text(pipeline, "d", "# Cats\n\nThe cat sleeps.", business_tag="pets")
    assert state(pipeline) == (1, "processing", None)
    pipeline.run()
    assert [content for key, content in pipeline.objects().items() if key.startswith("raw-files/")] == [
        b"# Cats\n\nThe cat sleeps."
    ]
    assert work(pipeline) == [(step, "completed") for step in TASK_TYPES]
    pipeline.run()
    assert state(pipeline) == (2, "completed", 1)
    pipeline.assert_in_step()
    [row] = pipeline.milvus_rows().values()
    assert (row["content"], row["business_tag"]) == ("# Cats\n\nThe cat sleeps.", "pets")
    assert pipeline.sql("SELECT title FROM documents") == [("Cats",)]


def test_task_without_input_fails_and_ends_no_worker(pipeline: Pipeline) -> None:
    upload_text(pipeline, "d", "One text.")
    pipeline.execute(
        "INSERT INTO processing_tasks (task_id, task_type, doc_id, priority, upload_id) "
        "VALUES ('broken', 'extract', 'd', 9, 'broken')"
    )
    assert queue.claim(pipeline.engine, TASK_TYPES, LEASE) is None
    [(status, error)] = pipeline.sql("SELECT status, error_message FROM processing_tasks WHERE task_id = 'broken'")
    assert (status, error.startswith("its input cannot be read: ")) == ("failed", True)
    assert claim(pipeline).task_id != "broken"


def test_steps_leave_nothing_in_the_store(pipeline: Pipeline) -> None:
    task_id = upload_text(pipeline, "d", "text")
    work(pipeline)
    assert list(pipeline.store.keys(f"temp/task_{task_id}/")) == []


def test_new_file_changes_nothing_before_the_last_step(pipeline: Pipeline) -> None:
    upload_text(pipeline, "d", "old text", title="Kept title")
    work(pipeline)
    pipeline.run()
    before = pipeline.objects(), pipeline.milvus_rows(), state(pipeline)
    upload_text(pipeline, "d", "new text")
    assert work_only(pipeline, "extract", "chunk", "embed") == 3
    pipeline.run()
    now = {key: value for key, value in pipeline.objects().items() if not key.startswith("temp/")}
    assert (now, pipeline.milvus_rows(), state(pipeline)) == (
        {key: value for key, value in before[0].items() if not key.startswith("temp/")},
        before[1],
        before[2],
    )
    work(pipeline)
    pipeline.run()
    assert state(pipeline) == (3, "completed", 1)
    pipeline.assert_in_step()
    assert [row["content"] for row in pipeline.milvus_rows().values()] == ["new text"]
    assert pipeline.sql("SELECT title FROM documents") == [("Kept title",)]


def work_only(pipeline: Pipeline, *steps: str) -> int:
    done = 0
    for step in steps:
        task = queue.claim(pipeline.engine, [step], LEASE)
        assert task is not None
        with open_steps(pipeline) as some:
            some.run(task)
        done += 1
    return done


def test_unchanged_chunks_are_not_embedded_again(pipeline: Pipeline) -> None:
    paragraphs = [f"# Part {number}\n\n{f'word{number} ' * 60}" for number in range(5)]
    upload_text(pipeline, "d", "\n\n".join(paragraphs))
    work(pipeline)
    pipeline.run()
    embedder = VectorEmbedder()
    upload_text(pipeline, "d", "\n\n".join([*paragraphs, "# More\n\n" + "extra " * 60]))
    work(pipeline, embedder=embedder)
    pipeline.run()
    pipeline.assert_in_step()
    assert [text[:6] for text in embedder.texts] == ["# More"]


def test_newer_upload_supersedes_older_one(pipeline: Pipeline) -> None:
    upload_text(pipeline, "d", "first")
    running = claim(pipeline)
    upload_text(pipeline, "d", "second")
    with open_steps(pipeline) as steps, pytest.raises((LeaseLost, Superseded)):
        steps.run(running)
    work(pipeline)
    pipeline.run()
    pipeline.assert_in_step()
    assert [row["content"] for row in pipeline.milvus_rows().values()] == ["second"]


def test_deleted_document_supersedes_its_upload(pipeline: Pipeline) -> None:
    upload_text(pipeline, "d", "text")
    pipeline.delete("d")
    assert work(pipeline) == [("extract", "superseded")]
    assert state(pipeline) == (2, "deleting", 0)


def test_document_that_another_writer_chunked_supersedes_its_upload(pipeline: Pipeline) -> None:
    upload_text(pipeline, "d", "text")
    pipeline.upsert(document("d", "written by a service"))
    assert work(pipeline) == [("extract", "superseded")]


def test_new_labels_do_not_supersede_an_upload(pipeline: Pipeline) -> None:
    upload_text(pipeline, "d", "text")
    run(pipeline.engine, lambda connection: pipeline.writer.relabel(connection, "d", business_tag="hr", title="New"))
    work(pipeline)
    pipeline.run()
    assert pipeline.sql("SELECT title, business_tag, status FROM documents") == [("New", "hr", "completed")]


def test_open_tasks_lead_to_later_steps_and_not_to_earlier_ones(pipeline: Pipeline) -> None:
    upload_text(pipeline, "d", "text")
    work_only(pipeline, "extract")
    open_tasks = {step: queue.count_open(pipeline.engine, [step]) for step in TASK_TYPES}
    assert open_tasks == {"extract": 0, "chunk": 1, "embed": 1, "sync": 1}


def test_file_name_of_any_bytes_becomes_a_title(pipeline: Pipeline) -> None:
    upload_text(pipeline, "d", "text", "caf\udce9\n1.txt")
    work(pipeline)
    assert pipeline.sql("SELECT title, status FROM documents") == [("caf\\udce9 1", "pending")]


def test_damaged_file_fails_its_task_and_its_document_alone(pipeline: Pipeline) -> None:
    upload_text(pipeline, "bad", b"%PDF-1.7 nothing", "bad.pdf")
    upload_text(pipeline, "good", "text")
    assert ("extract", "failed") in work(pipeline)
    pipeline.run()
    assert state(pipeline, "bad")[1:] == ("failed", None)
    assert state(pipeline, "good")[1:] == ("completed", 1)
    [(task_id, reason)] = pipeline.sql("SELECT task_id, error_message FROM processing_tasks WHERE status = 'failed'")
    assert reason.startswith("bad.pdf: ")
    assert queue.retry(pipeline.engine, [task_id, "unknown"]) == [task_id]
    assert state(pipeline, "bad")[1:] == ("processing", None)
    assert work(pipeline) == [("extract", "failed")]


def fail_upload(pipeline: Pipeline) -> str:
    """A document whose only file could not be processed. Returns the id of its task."""
    upload_text(pipeline, "d", b"%PDF-1.7 nothing", "bad.pdf")
    assert work(pipeline) == [("extract", "failed")]
    pipeline.run()
    assert state(pipeline) == (1, "failed", None)
    [(task_id,)] = pipeline.sql("SELECT task_id FROM processing_tasks")
    return str(task_id)


def send_again(pipeline: Pipeline) -> str:
    """Resync the document until its sinks hold it. Returns its status."""
    run(pipeline.engine, lambda connection: pipeline.writer.resync(connection, "d"), store=pipeline.store)
    pipeline.run()
    return str(state(pipeline)[1])


def test_failed_document_stays_failed_until_a_retry_or_another_file(pipeline: Pipeline) -> None:
    """A status `processing` without an open task would stay for ever."""
    task_id = fail_upload(pipeline)
    assert send_again(pipeline) == "failed"
    run(pipeline.engine, lambda connection: pipeline.writer.relabel(connection, "d", title="new"))
    assert state(pipeline) == (3, "failed", None)
    assert queue.retry(pipeline.engine, [task_id]) == [task_id]
    assert send_again(pipeline) == "processing", "its task is open"
    assert work(pipeline) == [("extract", "failed")]
    assert state(pipeline)[1] == "failed"
    upload_text(pipeline, "d", b"%PDF-1.7 nothing", "bad.pdf")
    assert state(pipeline)[1] == "processing", "the same file, in a new task"
    assert work(pipeline) == [("extract", "failed")]
    upload_text(pipeline, "d", "text")
    assert state(pipeline)[1] == "processing"
    work(pipeline)
    pipeline.run()
    assert state(pipeline)[1:] == ("completed", 1)


def test_failed_document_stays_failed_when_a_sink_loses_it(pipeline: Pipeline) -> None:
    fail_upload(pipeline)
    mark_all_absent(pipeline.engine, "minio", "lost")
    assert state(pipeline)[1] == "failed"
    refill_all(pipeline)
    assert state(pipeline)[1] == "failed"


def test_failed_document_stays_failed_without_its_task(pipeline: Pipeline, tmp_path: Path) -> None:
    """An erase, or retention, has removed the failed task."""
    fail_upload(pipeline)
    done = erase.erase(ConsoleSystem.of(pipeline, tmp_path / "system"), "d")
    assert done.counts["processing_tasks"] == 1
    assert pipeline.sql("SELECT COUNT(*) FROM processing_tasks") == [(0,)]
    assert state(pipeline)[1] == "failed"
    assert send_again(pipeline) == "failed"
    upload_text(pipeline, "d", b"%PDF-1.7 nothing", "bad.pdf")
    assert state(pipeline)[1] == "processing"


def test_resync_says_what_a_failed_document_needs(pipeline: Pipeline, tmp_path: Path) -> None:
    system = ConsoleSystem.of(pipeline, tmp_path / "system")
    task_id = fail_upload(pipeline)
    send_again(pipeline)
    found = find_unprocessed(system, "d")
    assert found is not None
    assert found.task_id == task_id
    assert found.describe().startswith("it stays failed, because its file could not be processed: bad.pdf: ")
    assert found.describe().endswith(f"run rag-outbox tasks retry {task_id}, or ingest another file")
    pipeline.execute("DELETE FROM processing_tasks")
    found = find_unprocessed(system, "d")
    assert found is not None
    assert found.describe() == "it stays failed: its failed task was removed; ingest its file again"
    pipeline.execute("UPDATE sink_states SET state = 'failed' WHERE sink = 'minio'")
    assert find_unprocessed(system, "d") is None, "a sink refused it"
    upload_text(pipeline, "d", "text")
    assert find_unprocessed(system, "d") is None


def test_damaged_new_file_leaves_a_chunked_document_as_it_was(pipeline: Pipeline) -> None:
    upload_text(pipeline, "d", "text")
    work(pipeline)
    pipeline.run()
    upload_text(pipeline, "d", b"%PDF-1.7 nothing", "bad.pdf")
    work(pipeline)
    pipeline.run()
    assert state(pipeline) == (2, "completed", 1)
    pipeline.assert_in_step()


def test_task_of_a_dead_worker_is_done_by_another(pipeline: Pipeline) -> None:
    upload_text(pipeline, "d", "text")
    lost = claim(pipeline)
    end_leases(pipeline)
    assert queue.reap(pipeline.engine) == 1
    make_due(pipeline)
    assert work(pipeline) == [(step, "completed") for step in TASK_TYPES]
    with open_steps(pipeline) as steps, pytest.raises((LeaseLost, Superseded)):
        steps.run(lost)
    pipeline.run()
    assert state(pipeline) == (2, "completed", 1)


@pytest.mark.parametrize("step", TASK_TYPES)
def test_worker_whose_lease_ended_changes_nothing(pipeline: Pipeline, step: str) -> None:
    upload_text(pipeline, "d", "text")
    for before in TASK_TYPES[: TASK_TYPES.index(step)]:
        work_only(pipeline, before)
    zombie = claim(pipeline)
    end_leases(pipeline)
    queue.reap(pipeline.engine)
    make_due(pipeline)
    newer = claim(pipeline)
    with open_steps(pipeline) as steps:
        with pytest.raises(LeaseLost):
            steps.run(zombie)
        assert state(pipeline)[0] == 1
        steps.run(newer)
    work(pipeline)
    pipeline.run()
    assert state(pipeline) == (2, "completed", 1)
    assert Counter(dict(pipeline.sql("SELECT task_id, task_type FROM processing_tasks")).values()) == dict.fromkeys(
        TASK_TYPES, 1
    )


def test_file_that_kills_its_workers_fails_in_the_end(pipeline: Pipeline) -> None:
    upload_text(pipeline, "d", "text")
    for _ in range(queue.MAX_RETRIES + 1):
        make_due(pipeline)
        claim(pipeline)
        end_leases(pipeline)
        queue.reap(pipeline.engine)
    assert tasks(pipeline) == {"extract": "failed"}
    assert state(pipeline) == (1, "failed", None)


def test_outage_of_a_store_is_not_counted(pipeline: Pipeline) -> None:
    upload_text(pipeline, "d", "text")
    for _ in range(queue.MAX_RETRIES + 2):
        make_due(pipeline)
        queue.release(pipeline.engine, claim(pipeline), "object store: away", is_counted=False)
    rows = pipeline.sql("SELECT status, retry_count, attempt, error_message FROM processing_tasks")
    assert rows == [("queued", 0, queue.MAX_RETRIES + 2, "object store: away")]


def test_claim_takes_the_highest_priority_then_the_oldest(pipeline: Pipeline) -> None:
    for doc_id, priority in (("a", 0), ("b", 5), ("c", 5), ("d", -1)):
        upload_text(pipeline, doc_id, "text", priority=priority)
    assert [claim(pipeline).doc_id for _ in range(4)] == ["b", "c", "a", "d"]
    assert queue.claim(pipeline.engine, TASK_TYPES, LEASE) is None


def test_upload_is_finished_before_a_later_one_begins(pipeline: Pipeline) -> None:
    for doc_id in ("a", "b"):
        upload_text(pipeline, doc_id, "text")
    work(pipeline)
    ended = pipeline.sql("SELECT doc_id, task_type FROM processing_tasks ORDER BY completed_at")
    assert [tuple(row) for row in ended] == [(doc_id, step) for doc_id in ("a", "b") for step in TASK_TYPES]


def test_sweep_keeps_what_an_open_or_failed_task_needs(pipeline: Pipeline) -> None:
    upload_text(pipeline, "d", "text")
    work(pipeline)
    pipeline.run()
    upload_text(pipeline, "d", "new")
    work_only(pipeline, "extract")
    needed = [key for key in pipeline.store.keys("temp/") if "task_" in key]
    [(staged,)] = pipeline.sql("SELECT DISTINCT staged_key FROM processing_tasks WHERE status = 'queued'")
    unknown = f"temp/task_{'0' * 32}/extract-1.msgpack"
    keys = [*needed, staged, unknown]
    assert staging.select_unneeded(pipeline.engine, keys) == [unknown]
    queue.fail(pipeline.engine, claim(pipeline), "test")
    assert staging.select_unneeded(pipeline.engine, keys) == [unknown]
    upload_text(pipeline, "d", "newer")
    assert staging.select_unneeded(pipeline.engine, keys) == keys


def test_old_upload_is_staged_again_for_the_writer(pipeline: Pipeline) -> None:
    upload_text(pipeline, "d", "text")
    work(pipeline)
    pipeline.run()
    upload_text(pipeline, "d", "new")
    work_only(pipeline, "extract", "chunk", "embed")
    sync = claim(pipeline)
    staged_at = sync.input.file.staged_at - timedelta(days=1)
    old = TaskInput(
        UploadedFile(
            **{name: getattr(sync.input.file, name) for name in UploadedFile.__struct_fields__}
            | {"staged_at": staged_at}
        ),
        **{name: getattr(sync.input, name) for name in TaskInput.__struct_fields__ if name != "file"},
    )
    with open_steps(pipeline) as steps:
        steps.run(Task(sync.task_id, sync.task_type, sync.doc_id, sync.upload_id, sync.attempt, sync.version, 0, old))
    pipeline.run()
    pipeline.assert_in_step()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"doc_id": "a/b"}, "doc_id"),
        ({"name": "a.xyz"}, "name"),
        ({"name": f"{'é' * 127}.md"}, "name"),
        ({"name": "a\0.md"}, "name"),
        ({"strategy": "best"}, "strategy"),
        ({"title": ""}, "title"),
        ({"business_tag": "x" * 200}, "business_tag"),
        ({"file": DocumentFile.from_bytes(b"text", "a.md")}, "file"),
    ],
)
def test_wrong_upload_is_refused_and_nothing_is_written(
    pipeline: Pipeline, fields: dict[str, Any], problem: str
) -> None:
    path = pipeline.store.root.parent / "a.md"
    path.write_text("text")
    file = DocumentFile.from_path(path, pipeline.store, always_stage=True)
    values: dict[str, Any] = {"doc_id": "d", "name": "a.md", "file": file}
    given = Upload(**values | fields)
    with pytest.raises(InvalidDocument) as refused:
        run(pipeline.engine, lambda connection: upload(connection, pipeline.writer, given))
    assert [one.field for one in refused.value.problems] == [problem]
    assert pipeline.sql("SELECT COUNT(*) FROM processing_tasks") == [(0,)]
    assert pipeline.sql("SELECT COUNT(*) FROM documents") == [(0,)]


def test_workers_share_the_queue_without_doing_a_task_twice(pipeline: Pipeline) -> None:
    """Claims and ends of 400 tasks in 4 threads."""
    path = pipeline.store.root.parent / "a.md"
    path.write_text("text")
    file = UploadedFile.of("a.md", DocumentFile.from_path(path, pipeline.store, always_stage=True))
    with pipeline.engine.begin() as connection:
        for number in range(400):
            queue.add(connection, f"d{number}", 1, TaskInput(file, {}))
    codes: Counter[str] = Counter()
    note_transient_errors(pipeline.engine, lambda code: codes.update([code]))
    claimed: list[str] = []
    lock = threading.Lock()

    def drain() -> None:
        while (task := queue.claim(pipeline.engine, TASK_TYPES, LEASE)) is not None:
            with lock:
                claimed.append(task.task_id)
            with pipeline.engine.begin() as connection:
                queue.finish(connection, task, {})

    with ThreadPoolExecutor(4) as threads:
        for call in [threads.submit(drain) for _ in range(4)]:
            call.result()
    assert (len(claimed), len(set(claimed)), dict(codes)) == (400, 400, {})
    assert pipeline.sql("SELECT DISTINCT status FROM processing_tasks") == [("completed",)]


def test_restore_names_what_open_tasks_lack(pipeline: Pipeline) -> None:
    """In the bucket of the system, staged files are removed after the dump."""

    def lacking() -> list[str]:
        return [key for _, key in find_lacking(pipeline.engine, pipeline.store)]

    upload_text(pipeline, "d", "one")
    pipeline.run()
    [uploaded] = pipeline.sql("SELECT staged_key FROM processing_tasks")[0]
    assert lacking() == []
    content = pipeline.store.read(uploaded)
    pipeline.store.remove([uploaded])
    assert lacking() == [uploaded]
    put(pipeline.store, uploaded, content)
    with open_steps(pipeline) as steps:
        steps.run(claim(pipeline))
    pipeline.store.remove([uploaded])
    assert lacking() == [], "the next step has the text"
    extracted = list(pipeline.store.keys("temp/task_"))
    pipeline.store.remove(extracted)
    assert lacking() == extracted


def test_intermediate_objects_of_tasks_have_a_digest_for_backups(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup compares digests, which a bucket has only of objects that were written with them."""
    digests: dict[str, str | None] = {}
    put_object = DirectoryStore.put

    def put_and_note(store: DirectoryStore, key: str, content: Readable, **more: Any) -> None:
        digests[key] = more["sha256"]
        put_object(store, key, content, **more)

    upload_text(pipeline, "d", "one")
    monkeypatch.setattr(DirectoryStore, "put", put_and_note)
    with open_steps(pipeline) as steps:
        steps.run(claim(pipeline))
    [key] = pipeline.store.keys("temp/task_")
    assert digests[key] == pipeline.store.sha256(key)
