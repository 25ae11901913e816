"""On a Milvus server, thousands of equal rows do not hide other documents from a search.

Equal vectors are the worst case: the index (HNSW) links each of them to others of their kind alone.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from pymilvus import MilvusClient
from sqlalchemy import event

from producer import Chunk, Document
from retrieval.search import Filters, Hit, search
from schema import collection
from tests.support.pipeline import Pipeline, chunk, document, vector
from tests.support.servers import MilvusServer
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(500)]

ROWS = 3_000  # Milvus gives smaller segments no index
CROWD = vector("row")
TEXTS = [f"text {number}" for number in range(6)]


@pytest.fixture
def milvus(milvus_server: MilvusServer) -> Iterator[MilvusClient]:
    with milvus_server.database() as name, milvus_server.client(name) as client:
        yield client


def rows(first: int, last: int, **labels: str) -> list[Chunk]:
    return [chunk(f"row {number}", vector=CROWD, **labels) for number in range(first, last)]


def find(pipeline: Pipeline, text: str, **labels: str) -> list[Hit]:
    return search(
        pipeline.engine,
        pipeline.store,
        lambda work: work(pipeline.milvus),
        vector(text),
        limit=5,
        filters=Filters(**labels),
    )


def is_hidden(pipeline: Pipeline, text: str) -> bool:
    """Whether one request does not find the text."""
    [found] = pipeline.milvus.search(
        collection.ALIAS,
        data=[vector(text)],
        anns_field="vector",
        limit=5,
        search_params=collection.search_params(5),
        output_fields=["content"],
    )
    return text not in {row["entity"]["content"] for row in found}


def write(pipeline: Pipeline, *crowd: Document) -> str:
    """Write the crowd, then the texts; wait for the index. Returns a text that it hides."""
    texts = [document(f"doc of {text}", text, business_tag="kept", language="zh") for text in TEXTS]
    for some in (*crowd, *texts):
        pipeline.upsert(some)
    pipeline.run()
    pipeline.milvus.flush(collection.ALIAS)

    def list_hidden() -> list[str]:
        return [text for text in TEXTS if is_hidden(pipeline, text)]

    return wait_for(list_hidden, "the index to hide a text", timeout_seconds=400)[0]


def table(doc_id: str, first: int, last: int) -> Document:
    labels = {"vector_level": "row", "modal_type": "table"}
    return Document(doc_id=doc_id, title="Table", source_type="table", chunks=rows(first, last, **labels))


def test_rows_of_many_tables_hide_no_text(pipeline: Pipeline) -> None:
    tables = [table(f"table {number}", number * 1_000, (number + 1) * 1_000) for number in range(ROWS // 1_000)]
    hidden = write(pipeline, *tables)

    [best, *others] = find(pipeline, hidden)
    assert (best.content, best.doc_id, best.score, best.stale) == (hidden, f"doc of {hidden}", 1.0, False)
    assert [hit.score for hit in others] == sorted((hit.score for hit in others), reverse=True)
    assert len(others) == 4

    assert find(pipeline, hidden, language="zh")[0].content == hidden
    assert find(pipeline, hidden, business_tag="kept")[0].content == hidden
    assert find(pipeline, hidden, business_tag="other") == []
    pipeline.delete(f"doc of {hidden}")
    assert hidden not in {hit.content for hit in find(pipeline, hidden)}, "MySQL decides what exists"


def test_chunks_of_one_document_hide_no_other(pipeline: Pipeline) -> None:
    crowd = Document(doc_id="crowd", title="Log", source_type="text", chunks=rows(0, ROWS))
    hidden = write(pipeline, crowd)

    assert find(pipeline, hidden)[0].content == hidden
    assert {hit.doc_id for hit in find(pipeline, "row")} == {"crowd"}, "the best hits stay the best"


def test_requests_and_statements_of_a_search_are_bounded(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    filters: list[str] = []
    statements: list[str] = []
    ask = pipeline.milvus.search

    def note(alias: str, **options: Any) -> Any:
        filters.append(options["filter"])
        return ask(alias, **options)

    pipeline.upsert(document("a", "one"), document("b", "two"))
    pipeline.run()
    wait_for(lambda: len(find(pipeline, "one")) == 2, "all rows to be searchable")
    monkeypatch.setattr(pipeline.milvus, "search", note)
    event.listen(pipeline.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))

    find(pipeline, "one")
    assert (filters, len(statements)) == ([""], 2), "no table, several documents: one request"

    pipeline.upsert(table("table", 0, 3))
    pipeline.run()
    wait_for(lambda: len(find(pipeline, "one")) == 5, "the table to be searchable")
    filters.clear()
    statements.clear()
    find(pipeline, "one")
    assert (filters, len(statements)) == (["", 'vector_level == "text"'], 2)

    filters.clear()
    statements.clear()
    find(pipeline, "one", modal_type="table")
    assert filters == [
        'modal_type == "table"',
        'modal_type == "table" and doc_id != "table"',
        'modal_type == "table" and vector_level == "text"',
    ]
    assert len(statements) == 2
