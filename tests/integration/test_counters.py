"""Statements, requests and bytes per event, counted, so that the speed of the machine does not matter."""

import threading
import uuid
from collections.abc import Sequence
from unittest.mock import patch

import pytest
from sqlalchemy import Connection, Engine, text

from producer import Document, Writer
from relays.kafka import kafka_relay
from relays.ports import OutboxRow
from schema.database.connection import connect
from schema.database.tables import LANES
from schema.kafka.names import Names
from tests.contracts.milvus_collection import record_requests
from tests.support import kafka, written
from tests.support.pipeline import MODEL, Pipeline, applier, chunk, document
from tests.support.servers import Servers

pytestmark = pytest.mark.integration

EVENTS = 16_000
STATEMENTS_PER_EVENT = 0.002  # of a relay, at most
STATEMENTS_PER_BATCH = 9  # of a consumer; one is the BEGIN of SQLite, one locks the roles of the sinks
INSERT = text(
    "INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, payload) "
    "VALUES (:event_id, :doc_id, 1, 'rag.document.upserted.v1', 'application/msgpack', 'x')"
)


def test_backlog_is_published_with_few_statements_and_transactions(
    servers: Servers, mysql: Engine, names: Names
) -> None:
    events = [{"event_id": str(uuid.uuid4()), "doc_id": f"d{number}"} for number in range(EVENTS)]
    with mysql.begin() as connection:
        connection.execute(INSERT, events)
    batches: list[int] = []
    engine = connect(mysql.url.render_as_string(hide_password=False))
    stop = threading.Event()

    def report(rows: Sequence[OutboxRow]) -> None:
        batches.append(len(rows))
        if sum(batches) == EVENTS:
            stop.set()

    with written.statements(engine) as sent:
        kafka_relay(engine, names, kafka.properties(servers), lanes=LANES, report=report).run(stop)
    engine.dispose()

    assert kafka.pending(mysql) == 0
    assert len(kafka.topic(servers, names.documents_topic)) == EVENTS
    assert len(sent) <= STATEMENTS_PER_EVENT * EVENTS
    assert len(batches) <= 4


def test_moving_chunks_takes_a_constant_number_of_statements(mysql: Engine) -> None:
    contents = [f"chunk {number}" for number in range(300)]
    edited = ["new", *contents[:150], *contents[160:]]
    with mysql.begin() as connection:
        Writer(MODEL).upsert(connection, numbered(contents))
        before = updates(connection)
        Writer(MODEL).upsert(connection, numbered(edited))
        sent = updates(connection) - before
        found = connection.execute(text("SELECT chunk_index, start_char FROM chunks ORDER BY chunk_index")).all()
    assert found == [(number, 10 * number) for number in range(len(edited))]
    assert sent == 6, (
        "all chunks out of the way, those before the gap, those after it, those sent again; document; sink states"
    )


def numbered(contents: Sequence[str]) -> Document:
    chunks = [chunk(content, start_char=10 * number) for number, content in enumerate(contents)]
    return Document(doc_id="d", title="T", source_type="text", chunks=chunks)


def updates(connection: Connection) -> int:
    """The number of UPDATE statements of this connection, counted by MySQL."""
    return int(connection.execute(text("SHOW SESSION STATUS LIKE 'Com_update'")).one()[1])


@pytest.mark.parametrize("documents", [1, 100])
def test_statements_per_batch_do_not_grow_with_its_size(pipeline: Pipeline, documents: int) -> None:
    pipeline.upsert(*(document(f"d{number}", "one", "two") for number in range(documents)))
    events = pipeline.pending()
    with (
        written.statements(pipeline.engine) as sent,
        record_requests() as upserts,
        patch.object(pipeline.milvus, "delete") as delete,
    ):
        assert applier(pipeline.engine, pipeline.milvus_sink).apply(events) == []
    assert len(sent) == STATEMENTS_PER_BATCH
    assert [rows for rows, _ in upserts] == [2 * documents]
    delete.assert_not_called()


def test_event_is_hardly_larger_than_its_vectors_and_texts(engine: Engine) -> None:
    contents = [f"Chunk {number} of ten. " * 30 for number in range(10)]
    with engine.begin() as connection:
        Writer(MODEL).upsert(connection, document("d", *contents))
        size = connection.execute(text("SELECT payload_bytes FROM outbox")).scalar_one()
    bare = sum(4 * 8 + len(content) for content in contents)
    assert size <= bare + 10 * 200 + 300, "ids, hash and labels per chunk, and fields of the document"
