"""The SYNC operation sends the current state again; a receipt waits until a sink holds the version."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from producer import (
    ApplyFailed,
    Chunk,
    DocumentFile,
    FileRequired,
    InvalidDocument,
    NotApplied,
    Receipt,
    VectorRequired,
    Writer,
)
from tests.support import written
from tests.support.pipeline import MODEL, Pipeline, chunk, document
from tests.support.refill import refill_of

pytestmark = pytest.mark.integration

LARGE = b"x" * 65_537  # one byte too large for the event


def resync(engine: Engine, doc_id: str, *chunks: Chunk) -> Receipt:
    with engine.begin() as connection:
        return Writer(MODEL).resync(connection, doc_id, chunks)


def empty_outbox(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM outbox"))


def test_resync_before_first_apply_reads_vectors_and_file_from_outbox(pipeline: Pipeline) -> None:
    pipeline.upsert(document("d", "one", "two", file=b"x"))
    pipeline.upsert(document("d", "one", "two", "three", file=b"y"))

    receipt = resync(pipeline.engine, "d")

    assert (receipt.version, receipt.changed) == (3, True)
    [event] = written.events(pipeline.engine, "d", 3)
    assert sorted(row["content"] for row in event["chunks"]) == ["one", "three", "two"]
    assert [file["content"] for file in event["files"]] == [b"y"]
    assert event["relabelled"] == []
    keep_only_version(pipeline.engine, 3)
    pipeline.run()
    pipeline.assert_in_step()
    assert [content for key, content in pipeline.objects().items() if key.startswith("raw-files/")] == [b"y"]


def keep_only_version(engine: Engine, version: int) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM outbox WHERE aggregate_version <> :version"), {"version": version})


def test_resync_of_confirmed_document_sends_labels_only(pipeline: Pipeline) -> None:
    pipeline.upsert(document("d", "one", "two", file=b"x", business_tag="tag"))
    pipeline.run()

    receipt = resync(pipeline.engine, "d")

    assert (receipt.version, receipt.changed) == (2, True)
    [event] = written.events(pipeline.engine, "d", 2)
    assert (event["chunks"], event["files"], event["tombstones"]) == ([], [], [])
    assert sorted(row["chunk_id"] for row in event["relabelled"]) == sorted(
        written.chunk_ids(pipeline.engine, "d").values()
    )
    assert event["business_tag"] == "tag"
    pipeline.run()
    pipeline.assert_in_step()


def test_resync_with_chunks_restores_rows_lost_by_milvus(pipeline: Pipeline) -> None:
    pipeline.upsert(document("d", "one", "two", business_tag="tag"))
    pipeline.run()
    ids = written.chunk_ids(pipeline.engine, "d")
    pipeline.milvus.delete("rag_vectors", ids=list(ids.values()))

    resync(pipeline.engine, "d", chunk("two"), chunk("one"))

    [event] = written.events(pipeline.engine, "d", 2)
    assert {row["content"]: row["chunk_id"] for row in event["chunks"]} == ids
    assert event["relabelled"] == []
    assert written.chunks(pipeline.engine, "d") == ["one", "two"]  # the stored order stays
    pipeline.run()
    pipeline.assert_in_step()


def test_resync_of_document_lost_by_milvus_waits_for_the_refill(pipeline: Pipeline) -> None:
    pipeline.upsert(document("d", "one", "two"))
    pipeline.run()
    pipeline.milvus.delete("rag_vectors", ids=list(written.chunk_ids(pipeline.engine, "d").values()))
    receipt = resync(pipeline.engine, "d")
    pipeline.run()
    with pytest.raises(NotApplied):
        receipt.wait("milvus", 0.1)

    assert refill_of(pipeline, pipeline.milvus_sink).run_round() == 1

    receipt.wait("milvus", 0.1)
    assert sorted(row["content"] for row in pipeline.milvus_rows().values()) == ["one", "two"]
    assert written.rows(pipeline.engine, "SELECT version, status FROM documents") == [(2, "completed")]


def test_resync_refuses_chunks_not_in_document(engine: Engine) -> None:
    with engine.begin() as connection:
        Writer(MODEL).upsert(connection, document("d", "one"))

    with pytest.raises(InvalidDocument, match=r"'d': chunks\[1\] is not in the document"):
        resync(engine, "d", chunk("one"), chunk("two"))


def test_failed_delete_can_be_repeated(engine: Engine) -> None:
    with engine.begin() as connection:
        Writer(MODEL).upsert(connection, document("d", "one"))
        Writer(MODEL).delete(connection, "d")
        connection.execute(text("UPDATE sink_states SET state = 'failed' WHERE sink = 'milvus'"))

    with engine.begin() as connection:
        receipt = Writer(MODEL).delete(connection, "d")

    assert (receipt.version, receipt.changed) == (3, True)
    assert len(written.events(engine, "d", 3)[0]["tombstones"]) == 1


def test_resync_names_vectors_that_are_lost(engine: Engine) -> None:
    with engine.begin() as connection:
        Writer(MODEL).upsert(connection, document("d", "one", "two", "three"))
    empty_outbox(engine)
    before = written.tables(engine)

    with pytest.raises(VectorRequired) as refused:
        resync(engine, "d", chunk("two"))

    assert refused.value.chunks == {"d": (0, 2)}
    assert written.tables(engine) == before
    assert resync(engine, "d", chunk("three"), chunk("one"), chunk("two")).version == 2


def test_resync_names_file_that_is_lost(engine: Engine) -> None:
    with engine.begin() as connection:
        Writer(MODEL).upsert(connection, document("d", "one", file=b"x"))
    empty_outbox(engine)
    before = written.tables(engine)

    with pytest.raises(FileRequired, match=r"document 'd': file is required, 'raw-files/text/.*/d.md' is"):
        resync(engine, "d", chunk("one"))

    assert written.tables(engine) == before


def test_receipt_waits_for_its_version_or_newer(pipeline: Pipeline) -> None:
    with pipeline.engine.begin() as connection:
        first = pipeline.writer.upsert(connection, document("d", "one"))
    with pipeline.engine.begin() as connection:
        second = pipeline.writer.upsert(connection, document("d", "two"))
    relay = threading.Thread(target=pipeline.run)
    relay.start()
    try:
        for sink in ("milvus", "minio"):
            second.wait(sink, 30)
            first.wait(sink, 0)
    finally:
        relay.join()
    pipeline.assert_in_step()


def test_receipt_raises_not_applied_on_timeout(pipeline: Pipeline) -> None:
    with pipeline.engine.begin() as connection:
        receipt = pipeline.writer.upsert(connection, document("d", "one"))

    with pytest.raises(NotApplied, match=r"milvus does not hold document 'd' version 1 after 0\.05 seconds"):
        receipt.wait("milvus", 0.05)
    with pytest.raises(NotApplied, match=r"milvus, minio do not hold document 'd' version 1 after 0 seconds"):
        receipt.wait(timeout_seconds=0)


def test_receipt_reports_why_sink_refused_version(pipeline: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "large.md"
    path.write_bytes(LARGE)
    file = DocumentFile.from_path(path, pipeline.store)
    with pipeline.engine.begin() as connection:
        receipt = pipeline.writer.upsert(connection, document("d", "one", file=file))
    pipeline.store.remove([str(file.staged_key)])

    pipeline.run()

    receipt.wait("milvus", 0)
    with pytest.raises(ApplyFailed, match=r"minio refused document 'd': the staged object 'temp/upload_.* is gone"):
        receipt.wait("minio", 1)
    assert written.rows(pipeline.engine, "SELECT status FROM documents") == [("failed",)]
