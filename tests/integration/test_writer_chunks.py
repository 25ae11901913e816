"""Chunks of a changing document: stable ids, tombstones, and events that carry only what a sink may lack."""

import hashlib
import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from producer import Chunk, Document, DocumentFile, FileRequired, Receipt, VectorRequired, Writer
from tests.support import written
from tests.support.pipeline import MODEL, Pipeline, chunk, document

pytestmark = pytest.mark.integration

EVENT_BYTES = 524_288  # the largest event


def upsert(engine: Engine, *documents: Document) -> list[Receipt]:
    with engine.begin() as connection:
        return Writer(MODEL).upsert_many(connection, documents)


def without_vectors(doc_id: str, *contents: str, **fields: Any) -> Document:
    chunks = [Chunk(content=content) for content in contents]
    values = {"title": f"Title of {doc_id}", "source_type": "text", "chunks": chunks, **fields}
    return Document(doc_id=doc_id, **values)


def sent(engine: Engine, version: int) -> list[str]:
    return [row["content"] for part in written.events(engine, "d", version) for row in part["chunks"]]


@pytest.mark.parametrize(
    ("after", "sent_contents", "tombstones"),
    [
        (["three", "one", "two"], [], 0),
        (["three", "two", "one"], [], 0),
        (["new", "one", "two", "three"], ["new"], 0),
        (["one", "three"], [], 1),
        (["one", "new", "three"], ["new"], 1),
        (["three", "new", "one"], ["new"], 1),
        (["one", "one", "two", "three"], ["one"], 0),  # the second occurrence is another chunk
    ],
)
def test_chunk_keeps_its_id_when_other_chunks_move(
    pipeline: Pipeline, after: list[str], sent_contents: list[str], tombstones: int
) -> None:
    pipeline.upsert(document("d", "one", "two", "three"))
    pipeline.run()
    before = written.chunk_ids(pipeline.engine, "d")

    pipeline.upsert(document("d", *after))

    rows = written.rows(pipeline.engine, "SELECT content, chunk_id FROM chunks ORDER BY chunk_index")
    assert [content for content, _ in rows] == after
    assert set(before.values()) & {chunk_id for _, chunk_id in rows} == {
        chunk_id for content, chunk_id in before.items() if content in after
    }
    [event] = written.events(pipeline.engine, "d", 2)
    assert [row["content"] for row in event["chunks"]] == sent_contents
    assert (len(event["tombstones"]), event["relabelled"]) == (tombstones, [])
    pipeline.run()
    pipeline.assert_in_step()


NUMBERS = itertools.count()
STATES = st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=9), min_size=1, max_size=7)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(states=STATES, parents=st.booleans())
def test_any_sequence_of_updates_ends_in_last_state(engine: Engine, states: list[str], parents: bool) -> None:
    doc_id = f"d{next(NUMBERS)}"
    ever: set[str] = set()
    for state in states:
        contents = [
            chunk(content, start_char=position, parent=0 if parents and position else None)
            for position, content in enumerate(state)
        ]
        upsert(engine, Document(doc_id=doc_id, title="Title", source_type="text", chunks=contents))

        ids = expected_ids(doc_id, state)
        ever |= set(ids)
        columns = "chunk_index, start_char, chunk_id, content, parent_chunk_id"
        assert written.rows(
            engine, f"SELECT {columns} FROM chunks WHERE doc_id = :doc_id ORDER BY chunk_index", doc_id=doc_id
        ) == [
            (position, position, chunk_id, content, ids[0] if parents and position else None)
            for position, (chunk_id, content) in enumerate(zip(ids, state, strict=True))
        ]
        counted = "SELECT chunk_count FROM documents WHERE doc_id = :doc_id"
        assert written.rows(engine, counted, doc_id=doc_id) == [(len(state),)]
        tombstones = "SELECT chunk_id FROM chunk_tombstones WHERE doc_id = :doc_id"
        assert {chunk_id for (chunk_id,) in written.rows(engine, tombstones, doc_id=doc_id)} == ever - set(ids)


def expected_ids(doc_id: str, contents: list[str] | str) -> list[str]:
    """The chunk ids of the contract, computed independently of the code under test."""
    seen: Counter[str] = Counter()
    ids = []
    for content in contents:
        digest = hashlib.sha256(content.encode()).hexdigest()
        identity = b"\0".join((doc_id.encode(), digest.encode(), str(seen[content]).encode()))
        ids.append(hashlib.sha256(identity).hexdigest()[:32])
        seen[content] += 1
    return ids


def test_one_changed_chunk_sends_one_vector_and_one_tombstone(pipeline: Pipeline) -> None:
    contents = [f"content {number}" for number in range(1_000)]
    pipeline.upsert(document("d", *contents))
    pipeline.run()
    old = written.chunk_ids(pipeline.engine, "d")["content 500"]

    pipeline.upsert(document("d", *contents[:500], "changed", *contents[501:]))

    [event] = written.events(pipeline.engine, "d", 2)
    assert [row["content"] for row in event["chunks"]] == ["changed"]
    assert event["tombstones"] == [old]
    assert (event["relabelled"], event["files"], event["removed_files"]) == ([], [], [])
    assert len(written.payloads(pipeline.engine, "d", 2)[0]) < 1_000  # bytes
    pipeline.run()
    pipeline.assert_in_step()
    assert len(pipeline.milvus_rows()) == 1_000


def test_changed_business_tag_reaches_every_row_without_vectors(pipeline: Pipeline) -> None:
    contents = [f"content {number}" for number in range(300)]
    pipeline.upsert(document("d", *contents, business_tag="old"), document("other", "content 0", business_tag="old"))
    pipeline.run()

    pipeline.upsert(without_vectors("d", *contents, business_tag="new"))

    [event] = written.events(pipeline.engine, "d", 2)
    assert (event["chunks"], event["tombstones"], event["business_tag"]) == ([], [], "new")
    ids = written.chunk_ids(pipeline.engine, "d")
    assert sorted(row["chunk_id"] for row in event["relabelled"]) == sorted(ids.values())
    unsynced = "SELECT doc_id, COUNT(*) FROM chunks WHERE NOT milvus_synced GROUP BY doc_id"
    assert written.rows(pipeline.engine, unsynced) == [("d", 300)]
    pipeline.run()
    tags = Counter((row["doc_id"], row["business_tag"]) for row in pipeline.milvus_rows().values())
    assert tags == {("d", "new"): 300, ("other", "old"): 1}
    pipeline.assert_in_step()


def test_only_chunks_with_changed_labels_are_relabelled(pipeline: Pipeline) -> None:
    pipeline.upsert(document("d", "one", "two", "three"))
    pipeline.run()
    labels: dict[str, Any] = {"modal_type": "table", "vector_level": "row", "associate_id": "image 7"}
    chunks = [Chunk(content="one"), Chunk(content="two", **labels), Chunk(content="three")]

    pipeline.upsert(without_vectors("d", chunks=chunks))

    [event] = written.events(pipeline.engine, "d", 2)
    assert event["chunks"] == []
    two = written.chunk_ids(pipeline.engine, "d")["two"]
    assert event["relabelled"] == [{"chunk_id": two, **labels}]
    pipeline.run()
    assert pipeline.milvus_rows()[two].items() >= labels.items()
    pipeline.assert_in_step()


def test_missing_vectors_are_named_and_nothing_is_written(engine: Engine) -> None:
    upsert(engine, document("d", "one", "two"))
    before = written.tables(engine)

    message = r"4 chunks of 2 documents need their vectors, the first is chunks\[0\] of document 'd'"
    with pytest.raises(VectorRequired, match=message) as refused:
        upsert(
            engine,
            document("good", "one"),
            without_vectors("d", "two", "one", "three"),
            without_vectors("new", chunks=[chunk("a"), Chunk(content="b"), chunk("c")]),
        )

    assert refused.value.chunks == {"d": (0, 1, 2), "new": (1,)}
    assert written.tables(engine) == before


def test_vector_is_optional_once_every_sink_confirmed(pipeline: Pipeline) -> None:
    pipeline.upsert(document("d", "one", "two"))
    with pytest.raises(VectorRequired):
        pipeline.upsert(without_vectors("d", "two", "one"))
    with pipeline.engine.begin() as connection:  # one confirmed sink is not enough
        connection.execute(text("UPDATE sink_states SET applied_version = 1, state = 'applied' WHERE sink = 'milvus'"))
    with pytest.raises(VectorRequired):
        pipeline.upsert(without_vectors("d", "two", "one"))
    with pipeline.engine.begin() as connection:
        connection.execute(text("UPDATE sink_states SET applied_version = 0, state = 'pending'"))
    pipeline.run()

    with pytest.raises(VectorRequired) as refused:
        pipeline.upsert(without_vectors("d", "three", "two", "one"))
    assert refused.value.chunks == {"d": (0,)}
    pipeline.upsert(without_vectors("d", chunks=[chunk("three"), Chunk(content="two"), Chunk(content="one")]))
    pipeline.run()
    pipeline.assert_in_step()


def test_small_file_is_optional_once_object_store_confirmed(pipeline: Pipeline) -> None:
    pipeline.upsert(document("d", "one", file=b"x"))
    before = written.tables(pipeline.engine)
    with pytest.raises(
        FileRequired, match=r"document 'd': file is required, 'raw-files/text/.*/d\.md' is not"
    ) as refused:
        pipeline.upsert(document("d", "one", title="Second"))
    assert refused.value.doc_id == "d"
    assert written.tables(pipeline.engine) == before
    pipeline.run()

    pipeline.upsert(document("d", "one", title="Second"))
    pipeline.run()

    pipeline.assert_in_step()
    assert [content for key, content in pipeline.objects().items() if key.startswith("raw-files/")] == [b"x"]


def test_omitted_large_file_is_sent_again_from_staging(pipeline: Pipeline) -> None:
    file = DocumentFile.from_bytes(b"x" * 70_000, "large.md", pipeline.store)
    pipeline.upsert(document("d", "one", file=file))

    pipeline.upsert(document("d", "one", title="Second"))

    [event] = written.events(pipeline.engine, "d", 2)
    assert [(row["staged_key"], row.get("content")) for row in event["files"]] == [(file.staged_key, None)]
    pipeline.run()
    pipeline.assert_in_step()


def test_returning_chunk_removes_its_tombstone(engine: Engine) -> None:
    upsert(engine, document("d", "one", "two"))
    ids = written.chunk_ids(engine, "d")
    upsert(engine, document("d", "one"))
    assert written.rows(engine, "SELECT * FROM chunk_tombstones") == [(ids["two"], "d", 2)]

    upsert(engine, document("d", "two"))

    assert written.rows(engine, "SELECT * FROM chunk_tombstones") == [(ids["one"], "d", 3)]
    [event] = written.events(engine, "d", 3)
    assert sent(engine, 3) == ["two"]
    assert event["tombstones"] == [ids["one"]]


def test_large_document_is_sent_in_parts_with_tombstones_last(pipeline: Pipeline) -> None:
    first = [f"{number} {'first ' * 80}" for number in range(2_000)]
    second = [f"{number} {'second ' * 80}" for number in range(2_000)]
    pipeline.upsert(document("d", *first, file=b"x" * 65_536))
    gone = set(written.chunk_ids(pipeline.engine, "d").values())
    pipeline.run()
    pipeline.assert_in_step()

    pipeline.upsert(document("d", *second))

    payloads = written.payloads(pipeline.engine, "d", 2)
    parts = written.events(pipeline.engine, "d", 2)
    assert len(payloads) == 3
    assert all(len(payload) <= EVENT_BYTES for payload in payloads)
    assert [(part["part"], part["parts"]) for part in parts] == [(1, 3), (2, 3), (3, 3)]
    assert sent(pipeline.engine, 2) == second
    with_chunks = [part["part"] for part in parts if part["chunks"]]
    with_tombstones = [part["part"] for part in parts if part["tombstones"]]
    assert max(with_chunks) <= min(with_tombstones)
    removed = [chunk_id for part in parts for chunk_id in part["tombstones"]]
    assert (len(removed), set(removed)) == (2_000, gone)
    pipeline.run()
    pipeline.assert_in_step()
    assert {row["doc_version"] for row in pipeline.milvus_rows().values()} == {2}


@pytest.mark.parametrize("database", ["engine", "mysql"])
def test_comparison_covers_all_chunks_and_characters(database: str, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(database)
    odd = {"modal_type": "\"\\'文", "associate_id": "😀,]\\", "strategy": "[é]", "start_char": 2**31 - 1}
    chunks = [chunk(str(number), parent=0 if number else None, **odd) for number in range(5_001)]
    chunks += [chunk("empty", associate_id=""), chunk("none")]
    first = Document(doc_id="d", title="t", source_type="text", chunks=chunks)
    [written_first] = upsert(engine, first)

    [again] = upsert(engine, first)
    [moved] = upsert(engine, replace(first, chunks=[*chunks[:-2], chunk("empty"), chunk("none", start_char=0)]))

    assert (written_first.changed, again.changed, moved.changed) == (True, False, True)
    assert written.rows(engine, "SELECT COUNT(*) FROM chunks") == [(5_003,)]
    last_two = "SELECT content, associate_id, start_char FROM chunks ORDER BY chunk_index DESC LIMIT 2"
    assert written.rows(engine, last_two) == [("none", None, 0), ("empty", None, None)]
