"""A deleted document is emptied after its time, once every required sink confirmed it; its tombstone keeps working."""

from typing import Any

import pytest
from sqlalchemy import event

from operations.documents.details import describe
from operations.documents.listing import Query, read_page
from operations.retention.deleted_documents import DeletedDocuments
from operations.settings import Settings
from operations.wiring import System
from producer import DocumentFile, UnknownDocument
from tests.contracts.object_store import put
from tests.support.pipeline import Pipeline, chunk, document
from tests.support.reconciled import found, reconciled, refill_all
from tests.support.refill import make_due, states
from tests.support.retained import DAYS, MINUTE, age_deletions, days_ago, delete_long_ago, dying_at, purged

pytestmark = [pytest.mark.integration, pytest.mark.both_databases]

SECRET = "Zanzibar"
EMPTY = ("", None, None, None, None, None, None, None, None)
METADATA = "title, source_url, business_tag, domain, language, file_size, page_count, oss_key, content_sha256"


def full(doc_id: str, *contents: str, **fields: Any) -> Any:
    labels = {"title": SECRET, "source_url": SECRET, "business_tag": SECRET, "domain": SECRET, "language": "sw"}
    return document(doc_id, *(contents or ("one", "two")), file=b"file", page_count=3, **labels | fields)


def metadata(pipeline: Pipeline, doc_id: str) -> tuple[Any, ...]:
    [row] = pipeline.sql(f"SELECT {METADATA} FROM documents WHERE doc_id = :doc_id", doc_id=doc_id)
    return tuple(row)


def test_deleted_document_is_emptied_at_the_limit_and_not_before(pipeline: Pipeline) -> None:
    pipeline.upsert(*(full(doc_id) for doc_id in ("old", "young", "living")))
    pipeline.run()
    pipeline.delete("old", "young")
    pipeline.run()
    for doc_id, later in (("old", -MINUTE), ("young", MINUTE)):
        at = days_ago(pipeline.engine, DAYS, later)
        pipeline.execute("UPDATE documents SET deleted_at = :at WHERE doc_id = :doc_id", at=at, doc_id=doc_id)
    kept = "doc_id, version, history_id, history_base, lost_version, source_type, created_at, deleted_at, status"
    before = pipeline.sql(f"SELECT {kept} FROM documents ORDER BY doc_id")
    assert DeletedDocuments(pipeline.engine, DAYS).preview().count == 1
    assert purged(pipeline).removed == 1
    assert metadata(pipeline, "old") == EMPTY
    assert SECRET in metadata(pipeline, "young")
    assert SECRET in metadata(pipeline, "living")
    assert pipeline.sql(f"SELECT {kept} FROM documents ORDER BY doc_id") == before
    assert purged(pipeline).removed == 0, "nothing is left to do"
    pipeline.assert_in_step()
    assert found(reconciled(pipeline)) == set()


def test_unconfirmed_deletion_blocks_until_its_sink_confirms_it(pipeline: Pipeline) -> None:
    pipeline.upsert(full("a"))
    pipeline.run()
    pipeline.delete("a")
    milvus, minio = pipeline.appliers()
    age_deletions(pipeline)
    for apply in (lambda: None, lambda: milvus.apply(pipeline.pending())):
        apply()
        assert (purged(pipeline).removed, purged(pipeline).blocked) == (0, 1)
        assert SECRET in metadata(pipeline, "a")
    minio.apply(pipeline.pending())
    assert (purged(pipeline).removed, purged(pipeline).blocked) == (1, 0)
    assert metadata(pipeline, "a") == EMPTY


def test_refused_deletion_blocks(pipeline: Pipeline) -> None:
    """A status that a service set is not believed."""
    pipeline.upsert(full("a"))
    pipeline.run()
    delete_long_ago(pipeline, "a")
    pipeline.execute("UPDATE sink_states SET state = 'failed', applied_version = 1 WHERE sink = 'milvus'")
    assert (purged(pipeline).removed, purged(pipeline).blocked) == (0, 1)


@pytest.mark.parametrize("state", ["pending", "failed", "absent"])
def test_optional_sink_that_lags_becomes_absent(pipeline: Pipeline, state: str) -> None:
    pipeline.execute("INSERT INTO sinks (name, required, takes_vectors, takes_files) VALUES ('extra', 0, 1, 0)")
    pipeline.upsert(full("a"))
    pipeline.run()
    delete_long_ago(pipeline, "a")
    pipeline.execute("UPDATE sink_states SET state = :state, last_error = 'Zanzibar' WHERE sink = 'extra'", state=state)
    pipeline.execute("INSERT INTO sink_states (doc_id, sink, desired_version) VALUES ('a', 'former', 1)")
    assert purged(pipeline).removed == 1
    assert metadata(pipeline, "a") == EMPTY
    assert states(pipeline, "extra") == {"a": ("absent", 0)}
    assert states(pipeline, "former") == {}
    assert states(pipeline, "milvus") == states(pipeline, "minio") == {"a": ("applied", 2)}
    assert pipeline.sql("SELECT status FROM documents") == [("completed",)]


def test_late_event_does_not_resurrect_a_purged_document(pipeline: Pipeline) -> None:
    pipeline.upsert(full("a"))
    [first] = pipeline.pending()
    pipeline.run()
    delete_long_ago(pipeline, "a")
    purged(pipeline)
    for one in pipeline.appliers():
        assert one.apply([first]) == []
    assert pipeline.milvus_rows() == {}
    assert pipeline.objects() == {}
    pipeline.assert_in_step()


def test_purged_document_is_created_again(pipeline: Pipeline) -> None:
    pipeline.upsert(full("a"))
    pipeline.run()
    delete_long_ago(pipeline, "a")
    purged(pipeline)
    with pipeline.engine.begin() as connection:
        with pytest.raises(UnknownDocument):
            pipeline.writer.resync(connection, "a", [chunk("one")])
        with pytest.raises(UnknownDocument):
            pipeline.writer.relabel(connection, "a", title="x")
        assert not pipeline.writer.delete(connection, "a").changed
    pipeline.upsert(full("a", "one", "three"))
    pipeline.run()
    assert purged(pipeline).removed == 0
    assert pipeline.sql("SELECT version, title, deleted_at FROM documents") == [(3, SECRET, None)]
    pipeline.assert_in_step()
    delete_long_ago(pipeline, "a")
    assert purged(pipeline).removed == 1, "and is emptied once more"


def test_refill_of_a_purged_document_removes_what_a_late_consumer_left(pipeline: Pipeline) -> None:
    file = DocumentFile.from_bytes(b"x" * 70_000, "a.pdf", pipeline.store)
    pipeline.upsert(document("a", "one", file=file, source_type="pdf"))
    pipeline.run()
    [(key,)] = pipeline.sql("SELECT oss_key FROM documents")
    row = next(iter(pipeline.milvus_rows().values()))
    delete_long_ago(pipeline, "a")
    purged(pipeline)
    put(pipeline.store, key, b"late")
    pipeline.milvus.upsert("rag_vectors", [row])
    assert {one[:2] for one in found(reconciled(pipeline))} == {("milvus", "orphaned"), ("minio", "orphaned")}
    pipeline.execute("UPDATE sink_states SET state = 'absent', applied_version = 0")
    make_due(pipeline)
    refill_all(pipeline)
    assert list(pipeline.store.keys("raw-files/")) == []
    assert found(reconciled(pipeline)) == set()


def test_list_and_show_have_the_tombstone(pipeline: Pipeline) -> None:
    pipeline.upsert(full("a"))
    pipeline.run()
    delete_long_ago(pipeline, "a")
    purged(pipeline)
    [listed] = read_page(pipeline.engine, Query(state="deleted")).documents
    assert (listed["doc_id"], listed["title"], listed["business_tag"]) == ("a", "", None)
    shown = describe(System(Settings(), pipeline.engine), "a", chunk_count=1)
    assert (shown["state"], shown["title"], shown["files"]) == ("deleted", "", [])


def test_write_at_the_same_time_wins(pipeline: Pipeline) -> None:
    """The document is created again after the policy found it, and before it locks it."""
    pipeline.upsert(full("a"))
    pipeline.run()
    delete_long_ago(pipeline, "a")
    done: list[str] = []

    def write(_connection: object, _cursor: object, sent: str, *_: object) -> None:
        if "deleted_at" in sent and sent.startswith("SELECT") and "LIMIT" in sent and not done:
            done.append(sent)
            pipeline.upsert(full("a", "new"))

    event.listen(pipeline.engine, "after_cursor_execute", write)
    try:
        assert purged(pipeline).removed == 0
    finally:
        event.remove(pipeline.engine, "after_cursor_execute", write)
    assert done
    pipeline.run()
    assert SECRET in metadata(pipeline, "a")
    pipeline.assert_in_step()


def test_purge_that_dies_changes_nothing_and_is_repeated(pipeline: Pipeline) -> None:
    pipeline.upsert(full("a"))
    pipeline.run()
    delete_long_ago(pipeline, "a")
    pipeline.execute("INSERT INTO chunk_tombstones (chunk_id, doc_id, removed_in_version) VALUES ('c', 'a', 2)")
    before = metadata(pipeline, "a")
    with dying_at(pipeline.engine, "DELETE FROM chunk_tombstones"), pytest.raises(KeyboardInterrupt):
        purged(pipeline)
    assert metadata(pipeline, "a") == before
    assert purged(pipeline).removed == 1
    assert pipeline.sql("SELECT * FROM chunk_tombstones") == []
