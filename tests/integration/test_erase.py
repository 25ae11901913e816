"""Erase: the text that a document does not have any more is found in no table and in no object afterwards."""

from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import count
from typing import Any, cast

import pytest
from sqlalchemy import Engine, event, insert, inspect, text

from operations.retention.erase import erase
from operations.retention.erase.limits import find_limits
from operations.retention.erase.refusals import CannotErase
from operations.settings import Settings
from operations.wiring import System
from producer import Document
from schema import archive
from schema.database.connection import reading
from schema.database.tables import outbox_dead_letters, processing_tasks
from schema.kafka.names import Names
from schema.object_store import layout
from schema.object_store.directory import DirectoryStore
from tests.contracts.object_store import put
from tests.support.pipeline import Pipeline, document
from tests.support.reconciled import found, pipeline_on_servers, reconciled
from tests.support.retained import ArchivePipeline, age_deletions, purged, tidied
from tests.support.servers import MilvusServer, MinioServer, Servers

pytestmark = pytest.mark.integration

SECRET = "Zanzibar"
GONE = f"the treaty of {SECRET} in full"
STAYS = "what is public"


@pytest.fixture
def pipeline(sqlite: Engine, store: DirectoryStore) -> Iterator[ArchivePipeline]:
    with ArchivePipeline.opened(sqlite, store) as made:
        yield made


def system_of(pipeline: Pipeline, **settings: Any) -> System:
    system = System(Settings(**settings), pipeline.engine)
    system.__dict__["store"] = pipeline.store  # instead of that of the settings
    return system


def places(engine: Engine, store: Any, wanted: str = SECRET) -> list[str]:
    """The tables and objects that have a text anywhere, read without the code of the product."""
    needle, where = wanted.encode(), []
    with reading(engine) as connection:
        for table in inspect(connection).get_table_names():
            for row in connection.execute(text(f"SELECT * FROM {table}")):
                values = (one if isinstance(one, bytes) else str(one).encode() for one in row)
                if any(needle in value for value in values):
                    where.append(table)
    return sorted(set(where)) + [key for key in store.keys("") if needle in store.read(key)]


def secret_document(doc_id: str, *contents: str) -> Document:
    labels = {"title": SECRET, "source_url": f"https://{SECRET}", "business_tag": SECRET}
    return document(doc_id, *(contents or (GONE, STAYS)), file=SECRET.encode(), **labels)


def public(doc_id: str, *contents: str) -> Document:
    return document(doc_id, *(contents or (STAYS,)), file=b"public", title="public")


def letter(doc_id: str, state: str = "discarded", version: int = 1, stage: str = "minio") -> dict[str, Any]:
    closed = {"closed_at": None if state == "open" else datetime(2026, 1, 1), "closed_by": "p", "closed_reason": "r"}
    of_event = {"aggregate_type": "document", "aggregate_id": doc_id, "aggregate_version": version, "outbox_id": 0}
    more = {
        "event_id": f"{doc_id} {state} {version}",
        "event_type": "t",
        "content_type": "c",
        "attempts": 1,
        "stage": stage,
    }
    return {
        "state": state,
        "payload": GONE.encode(),
        "error": GONE,
        "headers": {"x": GONE},
        **closed,
        **of_event,
        **more,
    }


def add_letter(pipeline: Pipeline, *letters: dict[str, Any]) -> None:
    with pipeline.engine.begin() as connection:
        connection.execute(insert(outbox_dead_letters), list(letters))


def add_task(pipeline: Pipeline, doc_id: str, status: str) -> None:
    values = {"task_id": f"{doc_id} {status}", "task_type": "chunk", "doc_id": doc_id, "status": status}
    with pipeline.engine.begin() as connection:
        connection.execute(insert(processing_tasks).values(**values, result_json={"text": GONE}, error_message=GONE))


def make_traces(pipeline: Pipeline, doc_id: str) -> None:
    """A document that lost its secret texts, and all that a system may still have of them."""
    pipeline.upsert(secret_document(doc_id))
    pipeline.run()
    pipeline.upsert(public(doc_id))
    pipeline.run()
    add_letter(pipeline, letter(doc_id), letter(doc_id, "open"))
    add_task(pipeline, doc_id, "completed")


def erase_everywhere(pipeline: Pipeline, doc_id: str) -> None:
    shown = erase.preview(system_of(pipeline), doc_id)
    before = places(pipeline.engine, pipeline.store)
    assert {"operation_logs", "outbox_dead_letters", "processing_tasks"} < set(before)
    assert len(before) > 3, "and the archive"
    done = erase.erase(system_of(pipeline), doc_id)
    assert done.counts == shown.counts
    assert all(done.counts.values())
    assert places(pipeline.engine, pipeline.store) == []


def test_removed_text_of_a_living_document_is_found_nowhere(pipeline: ArchivePipeline) -> None:
    make_traces(pipeline, "a")
    make_traces(pipeline, "b")
    pipeline.execute("DELETE FROM outbox_dead_letters WHERE aggregate_id = 'b'")
    tidied(pipeline)  # it moved rows to superseded objects
    operations = pipeline.sql("SELECT log_id, operation_type, target_id, operator FROM operation_logs")
    erase.erase(system_of(pipeline), "b")
    erase_everywhere(pipeline, "a")
    rows = pipeline.sql("SELECT log_id, operation_type, target_id, operator FROM operation_logs")
    assert rows[: len(operations)] == operations, "the log keeps who did what"
    erasures = pipeline.sql(
        "SELECT target_id, payload FROM operation_logs WHERE operation_type = 'SYNC' ORDER BY log_id"
    )
    assert [target for target, _ in erasures] == ["b", "a"]
    assert all('"version": 2' in payload for _, payload in erasures)
    letters = pipeline.sql("SELECT state, payload, error, headers FROM outbox_dead_letters ORDER BY id")
    assert letters == [("discarded", b"", "erased", None), ("superseded", b"", "erased", None)]
    assert [row.content for row in rows_of(pipeline, "a")] == [STAYS]
    assert found(reconciled(pipeline, ("minio",))) == set()
    again = erase.erase(system_of(pipeline), "a")
    assert again.counts == {"operation_logs": 0, "dead_letters": 2, "processing_tasks": 0, "archive_objects": 0}


def rows_of(pipeline: Pipeline, doc_id: str) -> list[Any]:
    return [row for key in archive.keys(pipeline.store, doc_id) for row in archive.decode(pipeline.store.read(key))]


@pytest.mark.parametrize("is_purged", [False, True], ids=["young", "purged"])
def test_deleted_document_is_erased_before_its_time(pipeline: ArchivePipeline, is_purged: bool) -> None:
    make_traces(pipeline, "a")
    pipeline.upsert(secret_document("a"))
    pipeline.run()
    pipeline.delete("a")
    pipeline.run()
    archive.write(pipeline.store, "a", 2, 7, [])  # what a process that died left
    put(pipeline.store, archive.keys(pipeline.store, "a")[0], GONE.encode())
    if is_purged:
        age_deletions(pipeline)
        purged(pipeline)
    erase_everywhere(pipeline, "a")
    assert pipeline.sql("SELECT title, source_url, oss_key FROM documents") == [("", None, None)]
    assert pipeline.sql("SELECT version, state FROM documents JOIN sink_states USING (doc_id)") == [(4, "applied")]
    assert found(reconciled(pipeline, ("minio",))) == set()


@pytest.mark.slow
def test_secret_is_found_nowhere_in_mysql_and_minio(
    mysql: Engine, milvus_server: MilvusServer, minio_server: MinioServer, names: Names, servers: Servers
) -> None:
    with pipeline_on_servers(mysql, milvus_server, minio_server) as pipeline:
        for doc_id in ("living", "deleted"):
            make_traces(pipeline, doc_id)
        pipeline.delete("deleted")
        pipeline.run()
        for doc_id in ("living", "deleted"):
            erase.erase(system_of(pipeline), doc_id)
        assert places(mysql, pipeline.store) == []
        assert SECRET not in str(pipeline.milvus_rows())
        assert [row.content for row in rows_of(pipeline, "living")] == [STAYS]
        assert found(reconciled(pipeline)) == set()

        given = {"kafka_bootstrap_servers": servers.kafka, "namespace": names.namespace, "profile": "embedded"}
        system = system_of(pipeline, **given)
        limits = {one.place: one.how_long for one in find_limits(system, ["extra"])}
        with reading(mysql) as connection:
            seconds = connection.execute(text("SELECT @@binlog_expire_logs_seconds")).scalar_one()
        assert limits["MySQL's binary log"] == f"{seconds / 86_400:.1f} days"
        assert limits[f"Kafka topic {names.documents_topic}"].endswith(" days")
        assert limits["sink extra"].startswith("until its refill")


def test_cached_vectors_of_its_text_are_named(pipeline: ArchivePipeline) -> None:
    def cached() -> list[str]:
        return [one.how_long for one in find_limits(system_of(pipeline)) if one.place.startswith("cached vectors")]

    assert cached() == []
    pipeline.execute("INSERT INTO embedding_cache (cache_key, model, vector) VALUES ('k', 'm', 'v')")
    [how_long] = cached()
    assert how_long.endswith("DELETE FROM embedding_cache removes all")


def wait_in_outbox(pipeline: Pipeline) -> None:
    """The sinks hold the version, and the relay that published it died before it removed the row."""
    pipeline.upsert(public("a", "more"))
    rows = pipeline.sql("SELECT event_id, aggregate_id, event_type, content_type, payload FROM outbox")
    pipeline.run()
    for row in rows:
        pipeline.execute(
            "INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, payload)"
            " VALUES (:event_id, :aggregate_id, 3, :event_type, :content_type, :payload)",
            **row._mapping,
        )


def leave_file(pipeline: Pipeline) -> None:
    [(key,)] = pipeline.sql("SELECT oss_key FROM documents")
    pipeline.delete("a")
    pipeline.run()
    put(pipeline.store, key, GONE.encode())


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (
            lambda one: one.upsert(public("a", "more")),
            "minio has not confirmed version 3 (pending): see rag-outbox show a",
        ),
        (lambda one: one.execute("UPDATE sink_states SET state = 'failed', applied_version = 1"), "(failed)"),
        (lambda one: one.execute("UPDATE sink_states SET state = 'absent', applied_version = 0"), "(absent)"),
        (lambda one: one.execute("DELETE FROM sink_states"), "(pending)"),
        (wait_in_outbox, "1 events of it wait in the outbox"),
        (lambda one: add_letter(one, letter("a", "open", 2)), "is open: replay or discard it"),
        (lambda one: add_task(one, "a", "running"), "1 tasks of it have not ended"),
        (leave_file, "run rag-outbox reconcile --repair --yes"),
    ],
    ids=[
        "pending",
        "failed",
        "absent",
        "without state",
        "waiting event",
        "open letter",
        "open task",
        "file",
    ],
)
def test_erase_is_refused_with_a_reason_and_a_command(
    pipeline: ArchivePipeline, prepare: Callable[[Any], None], reason: str
) -> None:
    pipeline.upsert(secret_document("a"))
    pipeline.run()
    pipeline.upsert(public("a"))
    pipeline.run()
    prepare(pipeline)
    logs, objects = pipeline.sql("SELECT * FROM operation_logs"), pipeline.objects()
    for act in (erase.preview, erase.erase):
        with pytest.raises(CannotErase) as refused:
            act(system_of(pipeline), "a")
        assert reason in str(refused.value)
    assert (pipeline.sql("SELECT * FROM operation_logs"), pipeline.objects()) == (logs, objects)


@pytest.mark.parametrize("is_deleted", [False, True], ids=["living", "deleted"])
def test_erase_removes_the_text_of_a_lost_history(pipeline: ArchivePipeline, is_deleted: bool) -> None:
    """A refill healed the suspect, and left the objects of the lost version."""
    make_traces(pipeline, "a")
    lost = rows_of(pipeline, "a")
    if is_deleted:
        pipeline.delete("a")
        pipeline.run()
    pipeline.execute("UPDATE documents SET lost_version = 7")
    archive.write(pipeline.store, "a", 7, 1, lost)
    erase_everywhere(pipeline, "a")
    assert {row.content for row in rows_of(pipeline, "a")} == (set() if is_deleted else {STAYS})


def test_optional_sink_that_lags_becomes_absent(pipeline: ArchivePipeline) -> None:
    make_traces(pipeline, "a")
    pipeline.execute("INSERT INTO sinks (name, required, takes_vectors, takes_files) VALUES ('extra', 0, 1, 0)")
    pipeline.execute("INSERT INTO sink_states (doc_id, sink, desired_version) VALUES ('a', 'extra', 2)")
    done = erase.erase(system_of(pipeline), "a")
    assert places(pipeline.engine, pipeline.store) == []
    assert "sink extra" in [one.place for one in done.limits]
    assert pipeline.sql("SELECT state FROM sink_states WHERE sink = 'extra'") == [("absent",)]


@pytest.mark.parametrize("is_deleted", [False, True], ids=["living", "deleted"])
def test_erase_that_dies_at_any_statement_is_repeated(pipeline: ArchivePipeline, is_deleted: bool) -> None:
    for at in range(100):
        pipeline.execute("DELETE FROM outbox_dead_letters")
        make_traces(pipeline, "a")
        if is_deleted:
            pipeline.delete("a")
            pipeline.run()
        numbers = count()

        def die(_connection: object, _cursor: object, sent: str, *_: object) -> None:
            if sent.startswith(("UPDATE", "DELETE", "INSERT")) and next(numbers) == at:  # noqa: B023
                raise KeyboardInterrupt

        event.listen(pipeline.engine, "before_cursor_execute", die)
        try:
            erase.erase(system_of(pipeline), "a")
            assert at > 4
            return
        except KeyboardInterrupt:
            pass
        finally:
            event.remove(pipeline.engine, "before_cursor_execute", die)
        erase.erase(system_of(pipeline), "a")
        assert places(pipeline.engine, pipeline.store) == []
    raise AssertionError("the erase never ended")


def test_write_during_an_erase_keeps_its_text_and_loses_no_vector(pipeline: ArchivePipeline) -> None:
    """The secret comes back while its old rows are erased: it is text of the document again."""
    make_traces(pipeline, "a")
    store = WritingStore(pipeline.store.root)

    def write() -> None:
        pipeline.upsert(secret_document("a"))
        pipeline.run()

    store.step = write
    system = system_of(pipeline)
    system.__dict__["store"] = store
    with pytest.raises(CannotErase, match="was written during the erase"):
        erase.erase(system, "a")
    wanted = pipeline.sql("SELECT chunk_id, content_hash, vector_version, vector_digest FROM chunks")
    rows = archive.read_vectors(pipeline.store, "a", {one: archive.Wanted(*of_chunk) for one, *of_chunk in wanted})
    assert sorted(row.content for row in rows) == sorted([GONE, STAYS])
    assert found(reconciled(pipeline, ("minio",))) == set()


class WritingStore(DirectoryStore):
    """Calls `step` once, after it wrote an object."""

    step: Callable[[], None] | None

    def put(self, key: str, *args: Any, **options: Any) -> None:
        super().put(key, *args, **options)
        if self.step is not None:
            step, self.step = self.step, None
            step()


def test_tidying_process_leaves_no_copy_behind_an_erase(pipeline: ArchivePipeline) -> None:
    """It has read the archive, and writes its superseded objects while the erase runs."""
    make_traces(pipeline, "a")
    store = WritingStore(pipeline.store.root)
    store.step = lambda: cast(None, erase.erase(system_of(pipeline), "a"))
    tidying = ArchivePipeline(
        pipeline.engine, store, pipeline.milvus, pipeline.writer, cast(Any, None), pipeline.minio_sink
    )
    tidied(tidying)
    assert places(pipeline.engine, pipeline.store) == []
    assert [row.content for row in rows_of(pipeline, "a")] == [STAYS]
    assert not any(layout.is_superseded_key(key) for key in archive.keys(pipeline.store, "a"))
