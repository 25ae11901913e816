"""On MySQL with 100,000 documents, no statement that a consumer sends per batch reads a whole table or index."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, event, text

from tests.support.foreign_events import lose
from tests.support.pipeline import Pipeline, applier, document

pytestmark = pytest.mark.integration

NUMBERS = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000)
"""
FILL = (
    "SET SESSION cte_max_recursion_depth = 100000",
    "INSERT INTO documents (doc_id, version, history_id, title, source_type, chunk_count)"
    f" {NUMBERS} SELECT CONCAT('other-', n), 1, 'h', 't', 'text', 1 FROM numbers",
    "INSERT INTO sink_states (doc_id, sink, desired_version)"
    " SELECT doc_id, name, 1 FROM documents JOIN sinks WHERE doc_id LIKE 'other-%%'",
    "INSERT INTO chunks (chunk_id, doc_id, chunk_index, vector_level, modal_type, content, content_hash, char_count,"
    " vector_version, row_version)"
    " SELECT doc_id, doc_id, 0, 'text', 'text', '', '', 0, 1, 1 FROM documents WHERE doc_id LIKE 'other-%%'",
    "INSERT INTO chunk_tombstones (chunk_id, doc_id, removed_in_version)"
    " SELECT doc_id, doc_id, 1 FROM documents WHERE doc_id LIKE 'other-%%'",
    "INSERT INTO document_files (object_key, doc_id, kind, sha256, size_bytes, content_type, version)"
    " SELECT doc_id, doc_id, 'raw', '', 0, '', 1 FROM documents WHERE doc_id LIKE 'other-%%'",
    "ANALYZE TABLE documents, sink_states, chunks, chunk_tombstones, document_files",
)
SMALL = {"sinks", "packed", "given"}  # and derived tables, whose names start with "<"


@pytest.fixture
def engine(mysql: Engine) -> Engine:
    """The fixture `pipeline` on MySQL."""
    return mysql


@contextmanager
def recorded(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    sent: list[tuple[str, Any]] = []

    def record(
        _connection: object, _cursor: object, statement: str, parameters: Any, _context: object, many: bool
    ) -> None:
        sent.append((statement, parameters[0] if many else parameters))

    event.listen(engine, "before_cursor_execute", record)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", record)


def test_statements_of_a_batch_use_keys(pipeline: Pipeline) -> None:
    with pipeline.engine.begin() as connection:
        for statement in FILL:
            connection.execute(text(statement.replace("%%", "%")))
    names = [f"d{number}" for number in range(100)]
    pipeline.upsert(*(document(name, "kept", "gone", file=b"x") for name in names))
    for one in pipeline.appliers():
        one.apply(pipeline.pending())
    pipeline.upsert(*(document(name, "kept", file=b"x", source_type="pdf") for name in names))
    events = pipeline.pending()[len(names) :]
    pipeline.execute("DELETE FROM sink_states WHERE doc_id = 'd0'")  # a writer in another language
    refused = [msgspec.structs.replace(events[-1], payload=b"")]
    sinks = (pipeline.milvus_sink, pipeline.minio_sink)
    with recorded(pipeline.engine) as sent:
        for sink in sinks:
            consumer = applier(pipeline.engine, sink)
            consumer.apply(events)
            consumer.apply([lose(event) for event in events[:50]] + refused)
    explained = [(statement, plan(pipeline.engine, statement, parameters)) for statement, parameters in sent]
    assert len([one for one in explained if one[1]]) > 20
    for statement, rows in explained:
        for row in rows:
            is_small = row["table"] in SMALL or (row["table"] or "<").startswith("<")
            if not is_small and row["select_type"] != "INSERT":
                assert row["type"] not in ("ALL", "index"), (statement, row)


def plan(engine: Engine, statement: str, parameters: Any) -> list[Any]:
    if not statement.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE", "INSERT INTO SINK_STATES")):
        return []
    with engine.connect() as connection:
        explained = connection.exec_driver_sql(f"EXPLAIN FORMAT=TRADITIONAL {statement}", parameters)
        return list(explained.mappings())
