"""Search on Milvus Lite and on a server: filters of any script, judged by the current labels of MySQL."""

from collections.abc import Iterator
from typing import Any

import pytest
from pymilvus import MilvusClient

from producer import Document
from retrieval import search as search_module
from retrieval.search import Filters, Hit, search
from tests.support.pipeline import Pipeline, chunk, document, vector
from tests.support.servers import MilvusServer
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration

TAGS = ["人事", "कर्मचारी", "персонал", "شؤون", "emoji 🙂", 'e\u0301 \\ "quoted" \'n {x}']


@pytest.fixture(params=["lite", "server"])
def milvus(request: pytest.FixtureRequest, milvus_uri: str) -> Iterator[MilvusClient]:
    """A client of an own database on Milvus Lite, then on a Milvus server."""
    lite = request.param == "lite"
    server = MilvusServer(milvus_uri) if lite else request.getfixturevalue("milvus_server")
    with server.database() as name, server.client(name) as client:
        yield client


def find(pipeline: Pipeline, text: str = "question", limit: int = 10, **labels: str) -> list[Hit]:
    def call(work: Any) -> Any:
        return work(pipeline.milvus)

    return search(pipeline.engine, pipeline.store, call, vector(text), limit=limit, filters=Filters(**labels))


def ids(hits: list[Hit]) -> list[str]:
    return sorted(hit.doc_id for hit in hits)


def apply(pipeline: Pipeline, *documents: Document) -> None:
    """Write documents to all stores, and wait until a search sees all rows: a server shows them a moment later."""
    pipeline.upsert(*documents)
    pipeline.run()
    rows = len(pipeline.milvus_rows())
    wait_for(lambda: len(find(pipeline, limit=500)) == min(rows, 500), "all rows to be searchable")


def test_filter_of_any_script_finds_its_documents(pipeline: Pipeline) -> None:
    apply(pipeline, *(document(f"doc-{number}", tag, business_tag=tag) for number, tag in enumerate(TAGS)))
    for number, tag in enumerate(TAGS):
        assert ids(find(pipeline, business_tag=tag)) == [f"doc-{number}"]
    assert find(pipeline, business_tag="人") == []


def test_search_by_an_old_tag_does_not_find_the_document(pipeline: Pipeline) -> None:
    apply(pipeline, document("kept", "one", business_tag="public"), document("moved", "two", business_tag="public"))
    with pipeline.engine.begin() as connection:
        pipeline.writer.relabel(connection, "moved", business_tag="secret")

    assert ids(find(pipeline, business_tag="public")) == ["kept"]
    [stale] = [hit for hit in find(pipeline) if hit.doc_id == "moved"]
    assert (stale.business_tag, stale.stale) == ("secret", True)
    assert find(pipeline, business_tag="secret") == []  # not yet
    pipeline.run()
    wait_for(lambda: ids(find(pipeline, business_tag="secret")) == ["moved"], "Milvus to show the new tag")
    assert not any(hit.stale for hit in find(pipeline))


def test_replaced_chunk_is_shown_as_stale_until_applied(pipeline: Pipeline) -> None:
    apply(pipeline, document("d", "old", "same"), document("gone", "other"))
    pipeline.upsert(document("d", "new", "same"))
    pipeline.delete("gone")

    found = {hit.content: hit.stale for hit in find(pipeline)}

    assert found == {"old": True, "same": False}
    pipeline.run()
    wait_for(lambda: {hit.content for hit in find(pipeline)} == {"new", "same"}, "Milvus to show the new chunk")


def test_labels_that_only_mysql_has_filter_too(pipeline: Pipeline) -> None:
    apply(
        pipeline,
        document("a", "one", domain="法務", language="zh"),
        document("b", "two", domain="hr", language="zh", source_type="pdf", file=b"%PDF"),
    )
    assert ids(find(pipeline, language="zh")) == ["a", "b"]
    assert ids(find(pipeline, domain="法務")) == ["a"]
    assert ids(find(pipeline, language="zh", source_type="pdf")) == ["b"]
    assert find(pipeline, domain="hr", language="en") == []


def test_more_is_asked_for_until_enough_hits_are_left(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [chunk(f"other {number}", vector=vector("question")) for number in range(300)]
    wanted = [chunk("wanted", vector=[-1.0, *vector("question")[1:]])]
    common: dict[str, Any] = {"title": "T", "source_type": "text"}
    apply(
        pipeline,
        Document(doc_id="others", chunks=others[::2], domain="x", **common),
        Document(doc_id="more", chunks=others[1::2], domain="x", **common),  # a crowd of one document is left out
        Document(doc_id="wanted", chunks=wanted, domain="y", **common),
    )
    assert ids(find(pipeline, limit=1, domain="y")) == ["wanted"]
    monkeypatch.setattr(search_module, "_MOST", 100)
    assert find(pipeline, limit=1, domain="y") == []


def test_search_explores_more_of_the_index_than_its_default(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(pipeline, document("d", "one"), document("e", "two"))
    asked: list[dict[str, int]] = []
    ask = pipeline.milvus.search

    def note(alias: str, **options: Any) -> Any:
        asked.append(options["search_params"]["params"])
        return ask(alias, **options)

    monkeypatch.setattr(pipeline.milvus, "search", note)
    for limit in (2, 1_000):
        assert ids(find(pipeline, limit=limit)) == ["d", "e"]
    assert [params["ef"] for params in asked] == [256, 1_020]  # Milvus wants at least the limit


def test_released_collection_is_loaded_again(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(pipeline, document("d", "one"))
    loads: list[str] = []
    load = pipeline.milvus.load_collection

    def note_load(alias: str, **options: Any) -> None:
        loads.append(alias)
        load(alias, **options)

    monkeypatch.setattr(pipeline.milvus, "load_collection", note_load)
    assert ids(find(pipeline)) == ["d"]
    assert loads == []
    pipeline.milvus.release_collection("rag_vectors")
    assert ids(find(pipeline)) == ["d"]
    assert loads == ["rag_vectors"]
