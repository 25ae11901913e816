"""`read_whole` returns a document with all chunks of its version, or says that they are not there yet."""

import threading
from typing import Any

import pytest
from sqlalchemy import Engine, event

from producer import Document, Writer, run
from retrieval.documents import DocumentMissing, DocumentPartial, read_whole
from tests.support.pipeline import MODEL, chunk, document

pytestmark = [pytest.mark.integration, pytest.mark.both_databases]


def write(engine: Engine, given: Document) -> None:
    run(engine, lambda connection: Writer(MODEL).upsert(connection, given))


def execute(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def test_invariant_2_whole_document_has_its_chunks_in_order(engine: Engine) -> None:
    parts = [chunk("one", modal_type="table"), chunk("two", parent=0, start_char=7)]
    write(engine, Document(doc_id="d", title="D", source_type="pdf", chunks=parts, business_tag="tag", page_count=3))
    found = read_whole(engine, "d")
    assert (found.doc_id, found.version, found.title, found.business_tag, found.page_count) == ("d", 1, "D", "tag", 3)
    assert (found.status, found.is_chunked) == ("pending", True)
    assert [(one.content, one.modal_type, one.start_char) for one in found.chunks] == [
        ("one", "table", None),
        ("two", "text", 7),
    ]
    assert found.chunks[1].parent_chunk_id == found.chunks[0].chunk_id


def test_missing_and_deleted_documents_are_told_apart_from_partial_ones(engine: Engine) -> None:
    with pytest.raises(DocumentMissing, match="no such document: 'd'"):
        read_whole(engine, "d")
    write(engine, document("d", "one"))
    run(engine, lambda connection: Writer(MODEL).delete(connection, "d"))
    with pytest.raises(DocumentMissing):
        read_whole(engine, "d")
    write(engine, Document(doc_id="d", title="D", source_type="pdf", chunks=None))
    found = read_whole(engine, "d")
    assert (found.version, found.status, found.is_chunked, found.chunks) == (3, "processing", False, ())


def test_invariant_2_partial_document_is_read_again_until_it_is_whole(engine: Engine) -> None:
    write(engine, document("d", "one", "two"))
    execute(engine, "UPDATE documents SET chunk_count = 3")
    with pytest.raises(DocumentPartial, match="version 1: 2 of 3 chunks are there after 0 seconds"):
        read_whole(engine, "d", timeout_seconds=0)

    reads = threading.Event()

    def note(_connection: object, _cursor: object, statement: str, *_: Any) -> None:
        if "FROM chunks" in statement:
            reads.set()

    event.listen(engine, "after_cursor_execute", note)

    def complete() -> None:
        reads.wait(60)
        execute(engine, "UPDATE documents SET chunk_count = 2")

    thread = threading.Thread(target=complete)
    thread.start()
    try:
        assert len(read_whole(engine, "d", timeout_seconds=60).chunks) == 2
    finally:
        thread.join()


def test_invariant_2_chunk_of_a_later_version_makes_a_document_partial(engine: Engine) -> None:
    write(engine, document("d", "one", "two"))
    execute(engine, "UPDATE chunks SET row_version = 2 WHERE chunk_index = 1")
    with pytest.raises(DocumentPartial):
        read_whole(engine, "d", timeout_seconds=0)
