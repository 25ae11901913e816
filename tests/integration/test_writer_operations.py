"""The rows that each operation of the writer writes on SQLite, and the operations that it refuses."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from producer import (
    Chunk,
    Document,
    InvalidDocument,
    Receipt,
    UnknownDocument,
    Writer,
    WrongModel,
)
from tests.support import written
from tests.support.pipeline import MODEL, Pipeline, chunk, document, vector

pytestmark = pytest.mark.integration

SHA256_OF_X = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


@pytest.fixture
def write(engine: Engine) -> Callable[[Document], Receipt]:
    def upsert(document: Document) -> Receipt:
        with engine.begin() as connection:
            return Writer(MODEL, operator="tester").upsert(connection, document)

    return upsert


def delete(engine: Engine, doc_id: str) -> Receipt:
    with engine.begin() as connection:
        return Writer(MODEL, operator="tester").delete(connection, doc_id)


def resync(engine: Engine, doc_id: str, *chunks: Chunk) -> Receipt:
    with engine.begin() as connection:
        return Writer(MODEL, operator="tester").resync(connection, doc_id, chunks)


def without_vectors(*contents: str, **fields: Any) -> Document:
    chunks = [Chunk(content=content) for content in contents]
    return Document(**{"doc_id": "d", "title": "Title of d", "source_type": "text", "chunks": chunks, **fields})


def test_versions_count_changes_from_one(engine: Engine, write: Callable[[Document], Receipt]) -> None:
    receipts = [
        write(document("d", "one")),
        write(document("d", "two")),
        write(document("d", "two", title="Another title")),
        write(document("other", "one")),
        resync(engine, "d"),
        delete(engine, "d"),
        write(document("d", "two")),
    ]

    assert [(receipt.doc_id, receipt.version, receipt.changed) for receipt in receipts] == [
        ("d", 1, True),
        ("d", 2, True),
        ("d", 3, True),
        ("other", 1, True),
        ("d", 4, True),
        ("d", 5, True),
        ("d", 6, True),
    ]
    assert written.rows(engine, "SELECT doc_id, version FROM documents ORDER BY 1") == [("d", 6), ("other", 1)]
    desired = written.rows(engine, "SELECT sink, desired_version FROM sink_states WHERE doc_id = 'd' ORDER BY 1")
    assert desired == [("milvus", 6), ("minio", 6)]
    log = "SELECT operation_type FROM operation_logs WHERE target_id = 'd' ORDER BY log_id"
    assert [name for (name,) in written.rows(engine, log)] == ["INSERT", "UPDATE", "UPDATE", "SYNC", "DELETE", "UPDATE"]
    outbox = "SELECT aggregate_version, event_type FROM outbox WHERE aggregate_id = 'd' ORDER BY id"
    upserted, deleted = "rag.document.upserted.v1", "rag.document.deleted.v1"
    assert written.rows(engine, outbox) == [
        *((version, upserted) for version in (1, 2, 3, 4)),
        (5, deleted),
        (6, upserted),
    ]


def test_unchanged_document_writes_nothing(engine: Engine, write: Callable[[Document], Receipt]) -> None:
    state = document("d", "one", "two", "one", file=b"x", business_tag="tag", language="en")
    write(state)
    before = written.tables(engine)

    with written.statements(engine) as sent:
        receipt = write(document("d", "one", "two", "one", file=b"x", business_tag="tag", language="en"))
        again = write(without_vectors("one", "two", "one", business_tag="tag", language="en"))

    assert (receipt.version, receipt.changed) == (1, False)
    assert (again.version, again.changed) == (1, False)
    assert [statement for statement in sent if not statement.startswith(("SELECT", "BEGIN"))] == []
    assert written.tables(engine) == before


def test_batch_writes_only_changed_documents(engine: Engine, write: Callable[[Document], Receipt]) -> None:
    write(document("same", "one"))
    write(document("changes", "one"))

    with engine.begin() as connection:
        receipts = Writer(MODEL).upsert_many(
            connection, [document("new", "one"), document("same", "one"), document("changes", "two")]
        )

    assert [(receipt.version, receipt.changed) for receipt in receipts] == [(1, True), (1, False), (2, True)]
    assert written.rows(engine, "SELECT aggregate_id FROM outbox WHERE id > 2") == [("changes",), ("new",)]


def test_operation_log_keeps_previous_state(engine: Engine, write: Callable[[Document], Receipt]) -> None:
    write(document("d", "one", "two", file=b"x", business_tag="tag"))
    write(document("d", "one", file=b"x", title="Second"))
    resync(engine, "d")
    delete(engine, "d")

    statement = """SELECT operation_type, target_table, target_id, operator, payload
                   FROM operation_logs ORDER BY log_id"""
    log = written.rows(engine, statement)
    assert [row[:4] for row in log] == [
        (operation, "documents", "d", "tester") for operation in ("INSERT", "UPDATE", "SYNC", "DELETE")
    ]
    assert log[0][4] is None
    [(history_id,)] = written.rows(engine, "SELECT history_id FROM system_identity")
    first, second, third = (json.loads(row[4]) for row in log[1:])
    created_at = datetime.fromisoformat(first.pop("created_at"))
    assert abs((datetime.now(UTC).replace(tzinfo=None) - created_at).total_seconds()) < 60
    assert datetime.fromisoformat(first.pop("updated_at")) == created_at
    assert first == {
        "doc_id": "d",
        "version": 1,
        "history_id": history_id,
        "history_base": 0,
        "lost_version": 0,
        "title": "Title of d",
        "source_type": "text",
        "source_url": None,
        "business_tag": "tag",
        "domain": None,
        "language": None,
        "file_size": 1,
        "page_count": None,
        "oss_key": f"raw-files/text/{created_at:%Y/%m/%d}/d.md",
        "content_sha256": SHA256_OF_X,
        "status": "pending",
        "chunk_count": 2,
        "embedding_model": "test-model",
        "deleted_at": None,
    }
    assert (second["version"], second["title"], second["chunk_count"]) == (2, "Second", 1)
    assert (second["business_tag"], second["file_size"]) == (None, 1)
    assert (third["version"], third["title"], third["status"], third["deleted_at"]) == (3, "Second", "pending", None)


def test_delete_leaves_tombstones_and_second_delete_writes_nothing(
    engine: Engine, write: Callable[[Document], Receipt]
) -> None:
    write(document("d", "one", "two", file=b"x"))
    ids = written.chunk_ids(engine, "d")

    assert (delete(engine, "d").version, delete(engine, "d").changed) == (2, False)
    before = written.tables(engine)
    receipt = delete(engine, "d")

    assert (receipt.version, receipt.changed) == (2, False)
    assert written.tables(engine) == before
    state = "SELECT status, version, chunk_count, deleted_at IS NOT NULL FROM documents"
    assert written.rows(engine, state) == [("deleting", 2, 0, 1)]
    tombstones = written.rows(engine, "SELECT chunk_id, removed_in_version FROM chunk_tombstones ORDER BY 1")
    assert tombstones == sorted((chunk_id, 2) for chunk_id in ids.values())
    [event] = written.events(engine, "d", 2)
    assert sorted(event["tombstones"]) == sorted(ids.values())
    assert [key.rpartition("/")[2] for key in event["removed_files"]] == ["d.md"]


@pytest.mark.parametrize("doc_id", ["unknown", "", "\udcff", "a/b", 5, None, ["d"]])
def test_delete_and_resync_refuse_unknown_document(engine: Engine, doc_id: Any) -> None:
    with engine.begin() as connection:
        Writer(MODEL).upsert(connection, document("d", "one"))
    before = written.tables(engine)

    with engine.begin() as connection:
        with pytest.raises(UnknownDocument, match="no such document: ") as refused:
            Writer(MODEL).delete_many(connection, ["d", doc_id])
        assert refused.value.doc_ids == (doc_id,)
        with pytest.raises(UnknownDocument):
            Writer(MODEL).resync(connection, doc_id)

    assert written.tables(engine) == before


def test_delete_refuses_duplicate_in_one_batch(engine: Engine, write: Callable[[Document], Receipt]) -> None:
    write(document("d", "one"))
    before = written.tables(engine)

    with engine.begin() as connection, pytest.raises(InvalidDocument, match="'d': doc_id is a duplicate in one batch"):
        Writer(MODEL).delete_many(connection, ["d", "d"])

    assert written.tables(engine) == before


def test_resync_refuses_deleted_document(engine: Engine, write: Callable[[Document], Receipt]) -> None:
    write(document("d", "one"))
    delete(engine, "d")
    before = written.tables(engine)

    with pytest.raises(UnknownDocument, match="deleted document: 'd'"):
        resync(engine, "d", chunk("one"))

    assert written.tables(engine) == before


def test_recreated_document_continues_its_versions_and_is_searchable(pipeline: Pipeline) -> None:
    pipeline.upsert(document("d", "one", "two", file=b"x"), document("other", "three"))
    pipeline.run()
    pipeline.delete("d")
    pipeline.run()
    assert nearest(pipeline, "two") == "other"
    # the tombstone of the first delete is confirmed, those of the second are not
    pipeline.upsert(document("d", "one", "two", "four"))
    pipeline.delete("d")
    pipeline.upsert(document("d", "two", "five"))
    [event] = written.events(pipeline.engine, "d", 5)
    pipeline.run()

    assert [row["content"] for row in event["chunks"]] == ["two", "five"]
    assert len(event["tombstones"]) == 2  # "one" and "four"
    assert nearest(pipeline, "two") == "d"
    state = "SELECT version, status, deleted_at, oss_key, chunk_count FROM documents WHERE doc_id = 'd'"
    assert written.rows(pipeline.engine, state) == [(5, "completed", None, None, 2)]
    pipeline.assert_in_step()


def nearest(pipeline: Pipeline, content: str) -> str:
    [[hit]] = pipeline.milvus.search("rag_vectors", [vector(content)], limit=1, output_fields=["doc_id"])
    return str(hit["entity"]["doc_id"])


def test_writer_with_other_model_is_refused(engine: Engine) -> None:
    before = written.tables(engine)
    other = Writer("another-model")
    refused: list[Callable[[Connection], object]] = [
        lambda connection: other.upsert(connection, document("d", "one")),
        lambda connection: other.upsert_many(connection, []),
    ]

    for operation in refused:
        with (
            engine.begin() as connection,
            pytest.raises(
                WrongModel, match="the system's embedding model is 'test-model', this writer's is 'another-model'"
            ),
        ):
            operation(connection)

    assert written.tables(engine) == before


def test_writer_refuses_system_without_embedding_model(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM system_identity"))
    before = written.tables(engine)
    writer = Writer(MODEL)

    with (
        engine.begin() as connection,
        pytest.raises(WrongModel, match="the system is not initialised: run rag-outbox init"),
    ):
        writer.upsert(connection, document("d", "one"))

    assert written.tables(engine) == before


def test_transaction_context_stays_with_every_operation(engine: Engine) -> None:
    context = {"request": "7f3a", "user": {"id": 12, "name": "Zoë"}}
    writer = Writer(MODEL)
    with engine.begin() as connection:
        writer.upsert(connection, document("d", "one"), transaction_context=context)
        writer.relabel(connection, "d", title="New", transaction_context={**context, "step": 2})
        writer.resync(connection, "d", transaction_context={**context, "step": 3})
        writer.delete(connection, "d", transaction_context={**context, "step": 4})
        writer.upsert(connection, document("without", "one"))
    found = written.rows(engine, "SELECT operation_type, transaction_context FROM operation_logs ORDER BY log_id")
    assert [(operation, None if value is None else json.loads(value)) for operation, value in found] == [
        ("INSERT", context),
        ("UPDATE", {**context, "step": 2}),
        ("SYNC", {**context, "step": 3}),
        ("DELETE", {**context, "step": 4}),
        ("INSERT", None),
    ]
