"""Labels with the separators of the packed rows, which only another writer can store, confuse no run."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from operations.reconcile.expected_rows import packed_statement
from operations.reconcile.packed_rows import TEXT_END, VALUE_END, read_packed
from schema.database.tables import chunks
from tests.support.damage import row_of
from tests.support.pipeline import Pipeline, document
from tests.support.reconciled import found, pipeline_on_servers, reconciled
from tests.support.servers import MilvusServer, MinioServer

pytestmark = pytest.mark.integration

TAGS = {"a": f"x{VALUE_END}y", "b": f"x{TEXT_END}y", "c": "x\x1ey", "d": "plain, ø"}


@pytest.fixture
def on_servers(mysql: Engine, milvus_server: MilvusServer, minio_server: MinioServer) -> Iterator[Pipeline]:
    with pipeline_on_servers(mysql, milvus_server, minio_server) as made:
        yield made


def test_separators_in_labels_are_compared_exactly(on_servers: Pipeline) -> None:
    on_servers.upsert(*(document(doc_id, f"{doc_id} text") for doc_id in TAGS))
    on_servers.run()
    rows = {doc_id: row_of(on_servers, doc_id) for doc_id in TAGS}
    for doc_id, tag in TAGS.items():
        on_servers.execute("UPDATE documents SET business_tag = :tag WHERE doc_id = :doc_id", tag=tag, doc_id=doc_id)
        on_servers.milvus.upsert("rag_vectors", [rows[doc_id] | {"business_tag": tag}])
    assert found(reconciled(on_servers)) == set()

    for doc_id, tag in TAGS.items():
        on_servers.milvus.upsert("rag_vectors", [rows[doc_id] | {"business_tag": f"{tag}!"}])
    assert found(reconciled(on_servers)) == {("milvus", "stale", doc_id) for doc_id in TAGS}


def test_packed_slice_equals_the_texts_of_its_rows(on_servers: Pipeline) -> None:
    """One value per slice, longer than GROUP_CONCAT returns by default."""
    on_servers.upsert(document("a", *(f"text {number}" for number in range(100))), document("b", "one"))
    on_servers.run()
    on_servers.execute("UPDATE sink_states SET state = 'absent' WHERE doc_id = 'b'")
    statement = packed_statement("mysql", "milvus").order_by(chunks.c.chunk_id).limit(1_000)
    with on_servers.engine.connect() as connection:
        rows = connection.execute(statement).all()
        texts, last = read_packed(connection, statement)
    assert sorted(texts) == sorted(row.packed for row in rows)
    assert (len(texts), last) == (101, rows[-1].chunk_id)
    assert sum(map(len, texts)) > 10_000
    assert [text for text in texts if TEXT_END not in text] == [row.chunk_id for row in rows if row.packed == row[0]]
