"""A service in another language: it uses the SQL of docs/contract.md and a MySQL connection, none of our code."""

import hashlib
import io
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pymysql
import pytest
from pymysql.constants import CLIENT
from sqlalchemy import Engine

from consumers import marks
from consumers.lost_history import LostEvent, mark_lost
from schema.kafka.names import Names
from tests.integration.test_grants import SCRIPT, run_script
from tests.integration.test_kafka_consumers import wait_until_completed
from tests.support import kafka, plain_sql
from tests.support.pipeline import Pipeline, document
from tests.support.plain_sql import Service
from tests.support.servers import Servers

pytestmark = pytest.mark.integration


@pytest.fixture
def connecting(mysql: Engine) -> Iterator[Callable[[], Any]]:
    """A context manager that opens a service; it may be used several times."""
    prefix, password = f"t{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    run_script(mysql, SCRIPT.read_text().replace("'rag-", f"'{prefix}-"))
    url = mysql.url

    @contextmanager
    def connect() -> Iterator[Service]:
        with closing(
            pymysql.connect(
                host=url.host,
                port=url.port or 3306,
                user=f"{prefix}-writer",
                password=password,
                database=url.database,
                client_flag=CLIENT.MULTI_STATEMENTS,
                autocommit=True,  # the contract's blocks begin and end their own transactions
            )
        ) as connection:
            service = Service(connection)
            service.run(plain_sql.VALUES)
            yield service

    with mysql.begin() as connection:
        connection.exec_driver_sql(f"ALTER USER '{prefix}-writer' IDENTIFIED BY '{password}' ACCOUNT UNLOCK")
    yield connect
    with mysql.begin() as connection:
        connection.exec_driver_sql(f"DROP USER '{prefix}-writer', '{prefix}-relay', '{prefix}-consumer'")


@pytest.fixture
def service(connecting: Callable[[], Any]) -> Iterator[Service]:
    with connecting() as service:
        yield service


@pytest.fixture
def engine(mysql: Engine) -> Engine:
    """The pipeline as in the embedded profile, but on MySQL."""
    return mysql


def stage(pipeline: Pipeline, content: bytes, extension: str) -> dict[str, object]:
    """Stage a file in the bucket, and return the values that the contract's SQL needs."""
    key, digest = f"temp/upload_{uuid.uuid4().hex}/file", hashlib.sha256(content).hexdigest()
    size = len(content)
    pipeline.store.put(key, io.BytesIO(content), size_bytes=size, content_type="text/markdown", sha256=digest)
    final = f"raw-files/text/2025/06/01/handbook.{extension}"
    return {
        "file_key": final,
        "file_sha256": digest,
        "file_bytes": size,
        "file_type": "text/markdown",
        "staged_key": key,
    }


def test_documents_written_by_plain_sql_reach_both_stores(
    servers: Servers, pipeline: Pipeline, names: Names, service: Service
) -> None:
    def wait_for_stores() -> list[str]:
        wait_until_completed(pipeline.engine)
        kafka.wait_until_empty(pipeline.engine)
        pipeline.assert_in_step()
        return sorted(row["content"] for row in pipeline.milvus_rows().values())

    def files() -> dict[str, bytes]:
        found = pipeline.objects().items()
        return {key: value for key, value in found if not key.startswith(("processed-data/", "temp/"))}

    with ExitStack() as stack:
        stack.enter_context(kafka.relaying(pipeline.engine, servers, names))
        for sink in (pipeline.milvus_sink, pipeline.minio_sink):
            stack.enter_context(kafka.consuming(pipeline.engine, sink, servers, names))

        service.bind(**stage(pipeline, b"first", "md"))
        service.run(plain_sql.UPSERT, plain_sql.FILE, plain_sql.EVENT)
        assert wait_for_stores() == ["One transaction writes.", "The relay publishes.", "Two sinks apply."]
        assert files() == {"raw-files/text/2025/06/01/handbook.md": b"first"}

        service.upsert("One transaction writes.", "Consumers apply.", "Two sinks apply.")
        assert wait_for_stores() == ["Consumers apply.", "One transaction writes.", "Two sinks apply."]
        assert files() == {"raw-files/text/2025/06/01/handbook.md": b"first"}

        service.bind(**stage(pipeline, b"second", "txt"))
        service.run(plain_sql.UPSERT, plain_sql.FILE, plain_sql.EVENT)
        wait_for_stores()
        assert files() == {"raw-files/text/2025/06/01/handbook.txt": b"second"}

        service.run(plain_sql.DELETE)
        assert wait_for_stores() == []
        assert {key for key in pipeline.objects() if not key.startswith("temp/")} == set()
        assert pipeline.sql("SELECT version, chunk_count FROM documents") == [(4, 0)]

        service.upsert("Back again.")
        assert wait_for_stores() == ["Back again."]
        assert pipeline.sql("SELECT version, oss_key FROM documents") == [(5, None)]
        pipeline.upsert(document("handbook", "Back again.", "Ours now."))
        assert wait_for_stores() == ["Back again.", "Ours now."]


def test_event_lists_pending_tombstones_without_returning_chunks(pipeline: Pipeline, service: Service) -> None:
    """Consumers skip older events, so the newest must be complete."""
    for contents in (["one", "two", "three"], ["one"], ["two"]):
        service.upsert(*contents)
    ids = {name: sha256(f"handbook\0{sha256(name)}\0" + "0")[:32] for name in ("one", "two", "three")}
    events = [json.loads(envelope.payload) for envelope in pipeline.pending()]
    assert [sorted(event["tombstones"]) for event in events] == [
        [],
        sorted([ids["two"], ids["three"]]),
        sorted([ids["one"], ids["three"]]),
    ]
    assert [[chunk["content"] for chunk in event["chunks"]] for event in events][1:] == [["one"], ["two"]]
    service.run(plain_sql.DELETE)
    assert sorted(json.loads(pipeline.pending()[-1].payload)["tombstones"]) == sorted(ids.values())


def sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def test_writer_finds_rows_of_plain_sql_unchanged(pipeline: Pipeline, service: Service) -> None:
    """The rows are identical, for repeated, long, quoted and Chinese texts too."""
    contents = ["twice", 'it\'s "so"\n\\', "四 😀", "twice", "twice", "long " * 1_000]
    service.upsert(*contents)
    longest = pipeline.sql("SELECT CHAR_LENGTH(content), char_count FROM chunks ORDER BY char_count DESC LIMIT 1")
    assert longest == [(500, 5_000)]  # a preview
    with pipeline.engine.begin() as connection:
        same = document("handbook", *contents, title="Handbook", business_tag="hr")
        assert not pipeline.writer.upsert(connection, same).changed
        other = document("handbook", *reversed(contents), title="Handbook", business_tag="hr")
        assert pipeline.writer.upsert(connection, other).changed


@pytest.mark.parametrize("content", ["x" * 65_536, None], ids=["longer than Milvus takes", "absent"])
def test_unwritable_chunk_rolls_back_transaction(
    pipeline: Pipeline, connecting: Callable[[], Any], content: str | None
) -> None:
    with connecting() as service:
        service.bind(chunks=json.dumps([{"content": "good"}, {"content": content}]))
        with pytest.raises(pymysql.MySQLError, match="cannot be null"):
            service.run(plain_sql.UPSERT, plain_sql.EVENT)
    for table in ("documents", "chunks", "outbox"):
        assert pipeline.sql(f"SELECT * FROM {table}") == []


def test_concurrent_services_write_one_document_in_turn(pipeline: Pipeline, connecting: Callable[[], Any]) -> None:
    start = threading.Barrier(4)

    def write(name: int) -> None:
        with connecting() as service:
            start.wait(30)
            for number in range(10):
                service.upsert(f"by {name}", f"number {number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert [envelope.version for envelope in pipeline.pending()] == list(range(1, 41))
    [row] = pipeline.sql("SELECT version, chunk_count, (SELECT COUNT(*) FROM chunks) FROM documents")
    assert tuple(row) == (40, 2, 2)


def test_write_on_another_server_waits_for_a_new_history(pipeline: Pipeline, service: Service) -> None:
    service.upsert("one")
    [(before,)] = pipeline.sql("SELECT history_id FROM system_identity")
    pipeline.execute("UPDATE system_identity SET server_uuid = 'the old primary'")
    for block in (plain_sql.UPSERT, plain_sql.DELETE):
        with pytest.raises(pymysql.MySQLError, match="'history_id' cannot be null"):
            service.run(block)
        service.run("ROLLBACK")
    assert pipeline.sql("SELECT version FROM documents") == [(1,)]

    service.run(plain_sql.ANOTHER_SERVER, plain_sql.ANOTHER_SERVER)
    service.upsert("two")

    [(after,)] = pipeline.sql("SELECT history_id FROM system_identity WHERE server_uuid = @@server_uuid")
    assert after != before
    assert pipeline.sql("SELECT history_id, reason FROM histories ORDER BY number") == [
        (before, "init"),
        (after, "another server"),
    ]
    assert [json.loads(envelope.payload)["history_id"] for envelope in pipeline.pending()] == [before, after]
    assert pipeline.sql("SELECT version, history_id, history_base FROM documents") == [(2, after, 1)]


def test_operation_log_keeps_previous_state_of_plain_sql(pipeline: Pipeline, service: Service) -> None:
    service.upsert("one", "two")
    service.bind(title="Second", operator="another")
    service.upsert("one")
    service.run(plain_sql.DELETE)
    statement = "SELECT operation_type, target_table, target_id, operator, payload FROM operation_logs ORDER BY log_id"
    log = pipeline.sql(statement)
    assert [tuple(row)[:4] for row in log] == [
        ("INSERT", "documents", "handbook", "handbook-service"),
        ("UPDATE", "documents", "handbook", "another"),
        ("DELETE", "documents", "handbook", "another"),
    ]
    assert log[0].payload is None
    first, second = (json.loads(row.payload) for row in log[1:])
    assert (first["version"], first["title"], first["chunk_count"], first["status"]) == (1, "Handbook", 2, "pending")
    assert (second["version"], second["title"], second["chunk_count"]) == (2, "Second", 1)

    pipeline.upsert(document("handbook", "one"))
    [(ours,)] = pipeline.sql("SELECT payload FROM operation_logs ORDER BY log_id DESC LIMIT 1")
    assert first.keys() == second.keys() == json.loads(ours).keys()


def test_plain_sql_writes_a_suspect_above_its_lost_version(pipeline: Pipeline, service: Service) -> None:
    def suspect(lost_version: int) -> None:
        with pipeline.engine.begin() as connection:
            marks.lock_documents(connection, ["handbook"])
            mark_lost(connection, [LostEvent("handbook", lost_version)], "milvus received")

    def assert_absent(version: int) -> None:
        assert pipeline.sql("SELECT version, history_base FROM documents") == [(version, 0)]
        states = pipeline.sql("SELECT sink, applied_version, state FROM sink_states ORDER BY sink")
        assert states == [(sink, 0, "absent") for sink in ("milvus", "minio")]
        assert pipeline.pending()[-1].version == version

    suspect(3)  # the document itself was lost
    service.upsert("one")
    assert_absent(5)  # a deleted document of version 4 took its place
    pipeline.execute("UPDATE sink_states SET desired_version = 5, applied_version = 5, state = 'applied'")
    suspect(7)
    service.upsert("two")
    assert_absent(8)
    suspect(2)
    service.upsert("three")
    assert_absent(9)
    suspect(11)
    service.run(plain_sql.DELETE)
    assert_absent(12)
    assert pipeline.sql("SELECT doc_id, lost_version FROM documents WHERE lost_version > 0") == [("handbook", 11)]


def test_deleting_an_unknown_document_in_plain_sql_writes_nothing(pipeline: Pipeline, service: Service) -> None:
    service.upsert("one")
    service.bind(doc_id="unknown")
    service.run(plain_sql.DELETE)
    assert pipeline.sql("SELECT operation_type FROM operation_logs") == [("INSERT",)]
    assert len(pipeline.pending()) == 1


def test_dimension_may_be_bound_as_a_string(pipeline: Pipeline, service: Service) -> None:
    service.bind(dimension="8")
    service.upsert("one")
    [envelope] = pipeline.pending()
    assert json.loads(envelope.payload)["dimension"] == 8
    pipeline.run()
    pipeline.assert_in_step()
