"""A document whose file comes first and whose chunks come later; and documents that keep their chunks."""

from typing import Any

import pytest
from sqlalchemy import Connection

from producer import Chunk, Document, DocumentFile, FileRequired, NotApplied, Receipt, VectorRequired, Writer, run
from tests.support import written
from tests.support.pipeline import Pipeline, chunk, document

pytestmark = [pytest.mark.integration, pytest.mark.both_databases]

STATE = "SELECT version, status, chunk_count FROM documents WHERE doc_id = 'd'"


def scan(file: bytes | None = b"%PDF", chunks: list[Chunk] | None = None, **fields: Any) -> Document:
    original = None if file is None else DocumentFile.from_bytes(file, "scan.pdf")
    return Document(
        **{"doc_id": "d", "title": "Scan", "source_type": "pdf", "chunks": chunks, "file": original} | fields
    )


def write(pipeline: Pipeline, given: Document) -> Receipt:
    return run(pipeline.engine, lambda connection: pipeline.writer.upsert(connection, given))


def state(pipeline: Pipeline) -> tuple[Any, ...]:
    [row] = written.rows(pipeline.engine, STATE)
    return row


def test_file_reaches_its_store_before_any_chunk(pipeline: Pipeline) -> None:
    receipt = write(pipeline, scan())
    assert state(pipeline) == (1, "processing", None)
    pipeline.run()
    receipt.wait(timeout_seconds=0)
    assert [content for key, content in pipeline.objects().items() if key.startswith("raw-files/pdf/")] == [b"%PDF"]
    assert state(pipeline) == (1, "processing", None)

    write(pipeline, scan(file=None, chunks=[chunk("one"), chunk("two")]))
    assert state(pipeline) == (2, "pending", 2)
    pipeline.run()
    assert state(pipeline) == (2, "completed", 2)
    pipeline.assert_in_step()


def test_first_chunks_may_come_before_the_file_is_applied(pipeline: Pipeline) -> None:
    write(pipeline, scan())
    write(pipeline, scan(file=None, chunks=[chunk("one")]))
    pipeline.execute("DELETE FROM outbox WHERE aggregate_version = 1")
    pipeline.run()
    pipeline.assert_in_step()
    assert [content for key, content in pipeline.objects().items() if key.startswith("raw-files/pdf/")] == [b"%PDF"]


def test_document_without_chunks_is_completed_by_an_empty_list(pipeline: Pipeline) -> None:
    write(pipeline, scan())
    write(pipeline, scan(chunks=[]))
    assert state(pipeline) == (2, "pending", 0)
    pipeline.run()
    assert state(pipeline) == (2, "completed", 0)
    assert pipeline.milvus_rows() == {}


def test_processing_document_is_relabelled_resynced_and_deleted(pipeline: Pipeline) -> None:
    operations: dict[str, Any] = {
        "write": lambda connection: pipeline.writer.upsert(connection, scan()),
        "relabel": lambda connection: pipeline.writer.relabel(connection, "d", title="New", business_tag="tag"),
        "resync": lambda connection: pipeline.writer.resync(connection, "d"),
        "other file": lambda connection: pipeline.writer.upsert(connection, scan(b"other", title="New")),
        "same again": lambda connection: pipeline.writer.upsert(connection, scan(b"other", title="New")),
    }
    states = []
    for operation in operations.values():
        run(pipeline.engine, operation)
        states.append(state(pipeline))
    assert states == [(version, "processing", None) for version in (1, 2, 3, 4, 4)]
    pipeline.run()
    assert state(pipeline) == (4, "processing", None)
    assert [content for key, content in pipeline.objects().items() if key.startswith("raw-files/")] == [b"other"]
    run(pipeline.engine, lambda connection: pipeline.writer.delete(connection, "d"))
    assert state(pipeline) == (5, "deleting", 0)
    pipeline.run()
    pipeline.assert_in_step()
    write(pipeline, scan())
    assert state(pipeline) == (6, "processing", None)


def test_refused_file_fails_a_processing_document(pipeline: Pipeline) -> None:
    write(pipeline, scan())
    pipeline.execute("UPDATE sink_states SET state = 'failed', last_error = 'too bad' WHERE sink = 'minio'")
    write(pipeline, scan(b"other"))
    assert state(pipeline) == (2, "processing", None)


def test_chunks_that_are_none_stay_as_they_are(pipeline: Pipeline) -> None:
    pipeline.upsert(document("d", "one", "two", file=b"x", source_type="pdf"))
    pipeline.run()
    write(pipeline, scan(b"other", business_tag="new"))
    assert state(pipeline) == (2, "pending", 2)
    [event] = written.events(pipeline.engine, "d", 2)
    assert (event["chunks"], len(event["relabelled"]), len(event["files"])) == ([], 2, 1)
    pipeline.run()
    pipeline.assert_in_step()
    assert {row["business_tag"] for row in pipeline.milvus_rows().values()} == {"new"}
    assert not write(pipeline, scan(b"other", business_tag="new")).changed


def test_unconfirmed_chunks_stay_through_the_version_that_carried_them(pipeline: Pipeline) -> None:
    pipeline.upsert(document("d", "one", "two"))
    write(pipeline, scan(None, source_type="text", title="Title of d", business_tag="new"))
    [event] = written.events(pipeline.engine, "d", 2)
    assert event["builds_on"] == 1
    pipeline.run()
    pipeline.assert_in_step()


def test_unconfirmed_chunks_travel_again_with_a_new_file(pipeline: Pipeline) -> None:
    pipeline.upsert(document("d", "one", "two"))
    write(pipeline, scan(b"other", source_type="text"))
    pipeline.execute("DELETE FROM outbox WHERE aggregate_version = 1")
    pipeline.run()
    pipeline.assert_in_step()
    pipeline.upsert(document("d", "three", source_type="text", title="Scan"))
    pipeline.execute("DELETE FROM outbox")
    with pytest.raises(VectorRequired):
        write(pipeline, scan(b"third", source_type="text"))


def test_chunks_of_a_published_file_need_it_again(pipeline: Pipeline) -> None:
    """Its event is between outbox and object store, where the writer cannot read it."""
    receipt = write(pipeline, scan())
    pipeline.execute("DELETE FROM outbox")
    with pytest.raises(FileRequired):
        write(pipeline, scan(file=None, chunks=[chunk("one")]))
    with pytest.raises(NotApplied):
        receipt.wait(timeout_seconds=0)


def test_another_vector_of_the_same_text_is_a_change(pipeline: Pipeline) -> None:
    pipeline.upsert(document("d", "one", "two", "three"))
    pipeline.run()
    new = [0.5] * 8

    def late(connection: Connection) -> Receipt:
        chunks = [chunk("zero"), chunk("one", vector=new), chunk("two"), chunk("three", vector=new, modal_type="table")]
        given = Document(doc_id="d", title="Title of d", source_type="text", chunks=chunks)
        return pipeline.writer.upsert(connection, given)

    assert run(pipeline.engine, late).version == 2
    [event] = written.events(pipeline.engine, "d", 2)
    assert sorted(row["content"] for row in event["chunks"]) == ["one", "three", "zero"]
    assert not run(pipeline.engine, late).changed
    pipeline.run()
    rows = {row["content"]: row["vector"] for row in pipeline.milvus_rows().values()}
    assert (rows["one"], rows["three"]) == (new, new)
    assert written.rows(pipeline.engine, "SELECT COUNT(*) FROM chunks WHERE NOT milvus_synced") == [(0,)]

    pipeline.execute("UPDATE sink_states SET state = 'failed' WHERE sink = 'milvus'")  # the archive has the new one
    run(pipeline.engine, lambda connection: pipeline.writer.resync(connection, "d"), store=pipeline.store)
    [event] = written.events(pipeline.engine, "d", 3)
    assert {row["content"]: len(set(row["vector"])) > 4 for row in event["chunks"]} == {
        "zero": True, "one": False, "two": True, "three": False
    }  # fmt: skip


def test_many_changed_vectors_share_their_statements(pipeline: Pipeline) -> None:
    contents = [f"text {number}" for number in range(50)]
    pipeline.upsert(document("d", *contents), document("e", "text"))
    pipeline.run()
    counts: list[int] = []
    with pipeline.engine.connect() as connection:
        for doc_id, changed in (("e", ["text"]), ("e", ["text"]), ("d", contents)):
            value = float(len(counts) + 1)
            chunks = [chunk(content, vector=[value] * 8) for content in changed]
            given = Document(doc_id=doc_id, title=f"Title of {doc_id}", source_type="text", chunks=chunks)
            with written.statements(pipeline.engine) as sent, connection.begin():
                assert pipeline.writer.upsert(connection, given).changed
            counts.append(len(sent))
    assert counts[1] == counts[2]  # the first write of a connection compares the server, too


def test_chunk_without_a_vector_digest_accepts_any_vector(pipeline: Pipeline) -> None:
    """A writer in another language leaves the digest out."""
    pipeline.upsert(document("d", "one"))
    pipeline.run()
    pipeline.execute("UPDATE chunks SET vector_digest = NULL")
    given = Document(doc_id="d", title="Title of d", source_type="text", chunks=[chunk("one", vector=[0.5] * 8)])
    assert not run(pipeline.engine, lambda connection: Writer("test-model").upsert(connection, given)).changed
