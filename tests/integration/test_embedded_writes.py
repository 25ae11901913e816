"""Documents without vectors, written with an embedder: sparse weights reach Milvus, and errors name the chunk."""

from collections.abc import Sequence

import numpy as np
import pytest
from sqlalchemy import Connection

from producer import Chunk, Document, InvalidDocument, Receipt, run
from producer.processing.embed.cache import CachedEmbedder
from producer.processing.embed.port import Embedded, EmbedderUnavailable, EmbedError, Vectors
from schema.retry import Backoff
from tests.support import written
from tests.support.pipeline import DIMENSION, MODEL, Pipeline, vector

pytestmark = pytest.mark.integration

SOON = Backoff(0.001, 0.01)


class SparseEmbedder:
    """The only weight of a text: 0.5 for the token that its length is."""

    model, dimension, gives_weights = MODEL, DIMENSION, True

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.away = 0  # calls that fail

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self.embed_both(texts).vectors

    def embed_both(self, texts: Sequence[str]) -> Embedded:
        if self.away:
            self.away -= 1
            raise EmbedderUnavailable("the server is away")
        if "bad" in texts:
            raise EmbedError("is bad", index=list(texts).index("bad"))
        self.calls.append(list(texts))
        vectors = np.array([vector(text) for text in texts], dtype=np.float32)
        return Embedded(vectors, [{len(text): 0.5} for text in texts])


def upsert(pipeline: Pipeline, embedder: SparseEmbedder | CachedEmbedder, **documents: list[str]) -> list[Receipt]:
    given = [
        Document(doc_id=doc_id, title="Title", source_type="text", chunks=[Chunk(content=text) for text in texts])
        for doc_id, texts in documents.items()
    ]

    def write(connection: Connection) -> list[Receipt]:
        return pipeline.writer.upsert_many(connection, given, embedder=embedder)

    return run(pipeline.engine, write, backoff=SOON)


def test_sparse_weights_of_the_embedder_reach_milvus(pipeline: Pipeline) -> None:
    upsert(pipeline, SparseEmbedder(), d=["one", "three"])
    pipeline.run()
    pipeline.assert_in_step()
    [hits] = pipeline.milvus.search(
        "rag_vectors", [{5: 1.0}], anns_field="sparse", limit=5, output_fields=["content"], consistency_level="Strong"
    )
    assert [hit["entity"]["content"] for hit in hits if hit["distance"] > 0.1] == ["three"]


def test_same_text_of_another_document_comes_from_the_cache(pipeline: Pipeline) -> None:
    inner = SparseEmbedder()
    cached = CachedEmbedder(inner, pipeline.engine)
    upsert(pipeline, cached, a=["one", "two"])
    upsert(pipeline, cached, b=["two", "three"], c=["one"])
    assert inner.calls == [["one", "two"], ["three"]]
    [a], [b] = written.events(pipeline.engine, "a", 1), written.events(pipeline.engine, "b", 1)
    assert a["chunks"][1]["vector"] == b["chunks"][0]["vector"]
    assert a["chunks"][1]["sparse"] == b["chunks"][0]["sparse"]


def test_large_document_is_embedded_in_batches(pipeline: Pipeline) -> None:
    embedder = SparseEmbedder()
    upsert(pipeline, embedder, d=[f"text {number}" for number in range(1_100)])
    assert [len(call) for call in embedder.calls] == [512, 512, 76]
    assert pipeline.sql("SELECT count(*) FROM chunks WHERE vector_digest IS NOT NULL") == [(1_100,)]


def test_unavailable_embedder_is_asked_again(pipeline: Pipeline) -> None:
    embedder = SparseEmbedder()
    embedder.away = 2
    [receipt] = upsert(pipeline, embedder, d=["one"])
    assert receipt.version == 1
    embedder.away = 100
    with pytest.raises(EmbedderUnavailable, match="the server is away"):
        upsert(pipeline, embedder, d=["two"])
    assert pipeline.sql("SELECT version FROM documents") == [(1,)]


def test_text_at_fault_keeps_its_position_behind_other_batches(pipeline: Pipeline) -> None:
    with pytest.raises(EmbedError, match="text 600: is bad"):
        upsert(pipeline, SparseEmbedder(), d=[*(f"text {number}" for number in range(600)), "bad"])
    assert pipeline.sql("SELECT count(*) FROM documents") == [(0,)]


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({1: -1.0}, r"chunks\[1\]\.sparse must have weights above 0 that fit float32, has -1\.0 at id 1 \(from the"),
        ({-1: 1.0}, r"chunks\[1\]\.sparse must have whole numbers from 0"),
        (dict.fromkeys(range(5_000), 1.0), "at most 4096 entries, has 5000"),
    ],
)
def test_invariant_13_wrong_weights_are_refused(pipeline: Pipeline, weights: dict[int, float], reason: str) -> None:
    class Wrong(SparseEmbedder):
        def embed_both(self, texts: Sequence[str]) -> Embedded:
            return super().embed_both(texts)._replace(weights=[{1: 1.0}, weights])

    with pytest.raises(InvalidDocument, match=reason):
        upsert(pipeline, Wrong(), d=["one", "two"])
    assert pipeline.sql("SELECT count(*) FROM documents") == [(0,)]
