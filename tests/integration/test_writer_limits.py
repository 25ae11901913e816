"""The limits agree: accepted values fit the columns and Milvus, and are read back unchanged."""

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, Table, text

from producer import Chunk, Document, DocumentFile, Writer, desired, event_parts, statements
from producer.event_parts import encode_event
from producer.plan import plan_upsert
from schema.database import tables
from schema.events.events import encode
from tests.support import written
from tests.support.pipeline import DIMENSION, MODEL, Pipeline, document, vector

pytestmark = pytest.mark.integration

EVENT_BYTES = 524_288  # the largest event


@pytest.mark.parametrize(
    ("table", "lengths"),
    [
        (
            tables.documents,
            {
                "doc_id": 64,
                "history_id": 36,
                "title": 512,
                "source_url": 1024,
                "business_tag": 128,
                "domain": 64,
                "language": 16,
            }
            | {"oss_key": 256, "content_sha256": 64, "embedding_model": 128},
        ),
        (
            tables.chunks,
            {
                "chunk_id": 64,
                "doc_id": 64,
                "chunk_strategy": 32,
                "modal_type": 16,
                "content_hash": 64,
                "parent_chunk_id": 64,
            }
            | {"associate_id": 64},
        ),
        (
            tables.document_files,
            {"object_key": 256, "doc_id": 64, "sha256": 64, "content_type": 128, "staged_key": 256},
        ),
        (tables.chunk_tombstones, {"chunk_id": 64, "doc_id": 64}),
        (tables.sink_states, {"doc_id": 64, "sink": 32}),
        (tables.operation_logs, {"target_table": 64, "target_id": 64, "operator": 64}),
        (
            tables.outbox,
            {"event_id": 36, "aggregate_type": 32, "aggregate_id": 64, "event_type": 64, "content_type": 64},
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Table) else "",
)
def test_column_lengths_match_accepted_lengths(table: Table, lengths: dict[str, int]) -> None:
    found = {
        column.name: column.type.length
        for column in table.columns
        if column.type.__class__.__name__ == "String" and hasattr(column.type, "length")
    }
    assert found == lengths


METADATA: dict[str, Any] = {
    "doc_id": "文" * 21 + "x",
    "title": "😀" * 512,
    "source_type": "webpage",
    "source_url": "é" * 1_024,
    "business_tag": "文" * 42 + "xx",
    "domain": "文" * 64,
    "language": "文" * 16,
    "page_count": 2_147_483_647,
}
LABELS: dict[str, Any] = {"modal_type": "文" * 5 + "x", "associate_id": "😀" * 16}
LARGEST = ("文" * 21_845, '"' * 65_535, "\n" * 65_534 + "x", "x" * 65_535)  # 65,535 bytes; JSON escapes two of them


@pytest.mark.parametrize("content_type", ["application/msgpack", "application/json"])
def test_document_at_every_limit_is_read_back_unchanged(pipeline: Pipeline, content_type: str) -> None:
    given = replace(
        document("d", file=DocumentFile.from_bytes(b"x" * 65_536, "a.abcdefghijklmnop")),
        chunks=[
            Chunk(
                content=content,
                vector=vector(content),
                start_char=2**31 - 1,
                strategy="文" * 32,
                parent=parent,
                **LABELS,
            )
            for content, parent in zip(LARGEST, (1, 2, 3, None), strict=True)
        ],
        **METADATA,
    )

    with pipeline.engine.begin() as connection:
        Writer(MODEL, operator="文" * 70, content_type=content_type).upsert(connection, given)

    sizes = [size for (size,) in written.rows(pipeline.engine, "SELECT LENGTH(payload) FROM outbox")]
    assert sizes
    assert max(sizes) <= EVENT_BYTES
    pipeline.run()
    pipeline.assert_in_step()
    [stored] = pipeline.sql("SELECT * FROM documents")
    assert {name: stored._mapping[name] for name in METADATA} == METADATA
    assert (stored.file_size, len(stored.oss_key.rpartition("/")[2].encode())) == (65_536, 64 + 1 + 16)
    chunks = pipeline.sql("SELECT * FROM chunks ORDER BY chunk_index")
    assert [row.content for row in chunks] == ["文" * 500, '"' * 500, "\n" * 500, "x" * 500]
    assert [row.char_count for row in chunks] == [21_845, 65_535, 65_535, 65_535]
    assert [row.parent_chunk_id for row in chunks] == [
        chunks[1].chunk_id,
        chunks[2].chunk_id,
        chunks[3].chunk_id,
        None,
    ]
    assert {(row.start_char, row.chunk_strategy) for row in chunks} == {(2_147_483_647, "文" * 32)}
    assert {row.modal_type: row.associate_id for row in chunks} == {"文" * 5 + "x": "😀" * 16}
    assert pipeline.sql("SELECT operator FROM operation_logs") == [("文" * 64,)]
    rows = pipeline.milvus_rows()
    assert [rows[row.chunk_id]["content"] for row in chunks] == list(LARGEST)
    assert all(np.allclose(rows[row.chunk_id]["vector"], vector(LARGEST[row.chunk_index])) for row in chunks)
    assert {row["doc_id"] for row in rows.values()} == {METADATA["doc_id"]}
    assert {row["business_tag"] for row in rows.values()} == {METADATA["business_tag"]}


@pytest.mark.parametrize("content_type", ["application/msgpack", "application/json"])
def test_parts_of_a_huge_document_are_not_in_memory_together(engine: Engine, content_type: str) -> None:
    content = "word " * 300
    huge = Document(
        doc_id="d",
        title="t",
        source_type="text",
        chunks=[Chunk(content=content, vector=vector(content))] * 100_000,
    )
    plan = plan_upsert(
        desired.from_document(huge, [bytes(4 * DIMENSION)] * 100_000, None, "test-model"), None, "history"
    )
    assert plan is not None
    with engine.connect() as connection:
        tracemalloc.start()
        try:
            encoded = encode_event(plan, content_type, embedding_model=MODEL, dimension=DIMENSION)
            statements.append_events(connection, ((plan, payload) for payload in encoded), content_type, None)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        totals = connection.execute(text("SELECT COUNT(*), SUM(payload_bytes), MAX(payload_bytes) FROM outbox")).one()
        connection.rollback()
    assert peak < 24 * 1024 * 1024
    parts, total_bytes, largest = totals
    assert parts > 250
    assert total_bytes > 150_000_000
    assert largest <= EVENT_BYTES


def test_event_of_one_part_is_encoded_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []

    def count(value: object, content_type: str) -> bytes:
        encoded.append(type(value).__name__)
        return encode(value, content_type)

    monkeypatch.setattr(event_parts, "encode", count)
    with engine.begin() as connection:
        Writer(MODEL).upsert(connection, document("d", "one", "two"))
    assert encoded == ["dict", "ChunkRow", "ChunkRow", "DocumentUpserted"]


def test_inserts_of_a_batch_are_bounded_in_bytes(engine: Engine) -> None:
    words = ["x" * 60_000 + str(number) for number in range(8)]
    batch = [document(f"d{number}", *words) for number in range(80)]
    with engine.begin() as connection, written.statements(engine) as sent:
        Writer(MODEL).upsert_many(connection, batch)
    assert len([statement for statement in sent if statement.startswith("INSERT INTO outbox")]) == 3
    assert written.rows(engine, "SELECT COUNT(*) FROM outbox") == [(80,)]
