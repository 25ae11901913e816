"""Sparse weights from the writer to Milvus Lite: sent with the vector, archived, and kept by updates."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from operations.ingest.json_lines import read
from producer import Chunk, Document, Writer
from schema.object_store.directory import DirectoryStore
from tests.support import written
from tests.support.pipeline import MODEL, Pipeline, chunk

pytestmark = pytest.mark.integration

FIVE = b"\x05\x00\x00\x00\x00\x00\x00\x3f"  # {5: 0.5}
SIX = b"\x06\x00\x00\x00\x00\x00\x00\x3f"


def upsert(pipeline: Pipeline, *chunks: Chunk, **fields: Any) -> bool:
    """Returns whether the write changed anything."""
    document = Document(doc_id="d", title="Title", source_type="text", chunks=chunks, **fields)
    with pipeline.engine.begin() as connection:
        return Writer(MODEL).upsert(connection, document).changed


def found(pipeline: Pipeline, token: int) -> list[str]:
    """The contents of chunks with a weight for the token."""
    [hits] = pipeline.milvus.search(
        "rag_vectors",
        [{token: 1.0}],
        anns_field="sparse",
        limit=10,
        output_fields=["content"],
        consistency_level="Strong",
    )
    return sorted(hit["entity"]["content"] for hit in hits)


def test_sparse_weights_are_sent_archived_and_found(pipeline: Pipeline) -> None:
    upsert(pipeline, chunk("one", sparse={5: 0.5}), chunk("two"), chunk("three", sparse={}))
    [event] = written.events(pipeline.engine, "d", 1)
    assert {row["content"]: row.get("sparse") for row in event["chunks"]} == {"one": FIVE, "two": None, "three": None}
    pipeline.run()
    pipeline.assert_in_step()
    assert found(pipeline, 5) == ["one"]
    [archive] = [content for key, content in pipeline.objects().items() if "/embeddings/" in key]
    assert sorted(row.get("sparse", b"") for row in msgspec.msgpack.decode(archive)) == [b"", b"", FIVE]


def test_updates_and_new_labels_keep_sparse_weights(pipeline: Pipeline) -> None:
    upsert(pipeline, chunk("one", sparse={5: 0.5}))
    pipeline.run()
    upsert(pipeline, Chunk(content="one"), chunk("two", sparse={5: 2.0}))  # without vector and weights
    pipeline.run()
    upsert(pipeline, Chunk(content="one", modal_type="image"), Chunk(content="two"), business_tag="new")
    pipeline.run()
    pipeline.assert_in_step()
    assert found(pipeline, 5) == ["one", "two"]
    upsert(pipeline, Chunk(content="two"), business_tag="new")
    pipeline.run()
    assert found(pipeline, 5) == ["two"]


def test_other_weights_for_the_same_content_are_a_change(pipeline: Pipeline) -> None:
    upsert(pipeline, chunk("one", sparse={5: 0.5}))
    pipeline.run()
    assert not upsert(pipeline, chunk("one", sparse={5: 0.5}))
    assert pipeline.pending() == []
    assert upsert(pipeline, chunk("one", sparse={6: 0.5}))


def test_resync_sends_pending_or_given_weights(pipeline: Pipeline) -> None:
    upsert(pipeline, chunk("one", sparse={5: 0.5}))
    with pipeline.engine.begin() as connection:
        Writer(MODEL).resync(connection, "d")
    [event] = written.events(pipeline.engine, "d", 2)
    assert [row["sparse"] for row in event["chunks"]] == [FIVE]
    pipeline.run()
    with pipeline.engine.begin() as connection:
        Writer(MODEL).resync(connection, "d", [chunk("one", sparse={6: 0.5})])
    [event] = written.events(pipeline.engine, "d", 3)
    assert [row["sparse"] for row in event["chunks"]] == [SIX]
    pipeline.run()
    assert (found(pipeline, 5), found(pipeline, 6)) == ([], ["one"])


@pytest.mark.parametrize("content_type", ["application/json", "application/msgpack"])
def test_invariant_12_sparse_weights_count_towards_event_size(pipeline: Pipeline, content_type: str) -> None:
    most = {number * 1_000_000: 0.5 for number in range(4_096)}  # 32 KiB
    chunks = [chunk(f"chunk {number}", sparse=most) for number in range(40)]
    document = Document(doc_id="d", title="Title", source_type="text", chunks=chunks)
    with pipeline.engine.begin() as connection:
        Writer(MODEL, content_type=content_type).upsert(connection, document)
    sizes = [len(payload) for payload in written.payloads(pipeline.engine, "d", 1)]
    assert len(sizes) >= 3
    assert max(sizes) <= 512 * 1024
    pipeline.run()
    pipeline.assert_in_step()
    assert len(found(pipeline, 4_095_000_000)) == 10  # the limit of the search


def test_json_lines_may_contain_sparse_weights(tmp_path: Path, store: DirectoryStore) -> None:
    line = {"doc_id": "d", "title": "t", "source_type": "text"}
    chunks = [{"content": "one", "vector": [1.0] * 8, "sparse": {"5": 0.5, "70": 2}}, {"content": "two"}]
    (tmp_path / "lines").write_text(json.dumps({**line, "chunks": chunks}))
    with (tmp_path / "lines").open("rb") as stream:
        [read_line] = read(stream, tmp_path, store)
    assert [some.sparse for some in read_line.document.chunks or ()] == [{5: 0.5, 70: 2.0}, None]
