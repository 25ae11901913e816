"""Least privilege in MySQL: each process has its own user of `compose/grants/grants.sql`, and no other right."""

import os
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pymysql
import pytest
from prometheus_client import CollectorRegistry
from pymilvus import MilvusClient
from pymysql.constants import CLIENT, ER
from sqlalchemy import Engine, make_url, select, text
from sqlalchemy.exc import DBAPIError

from consumers.dead_letters import KafkaDeadLetters
from consumers.milvus.sink import MilvusSink
from consumers.minio.sink import MinioSink
from operations import history
from operations.backup import newest
from operations.backup.database.mysql_client import MySQLClient
from operations.backup.database.mysql_snapshot import take_snapshot
from operations.backup.database.table_states import DUMPED
from operations.monitoring import backlog
from operations.monitoring.metrics import BacklogMetrics
from operations.monitoring.monitor import Monitor
from operations.retention.run import policies_of_database, policies_of_store, run_due
from operations.settings import Settings
from operations.staging import sweep
from producer import Writer
from producer.processing.embed.cache import CachedEmbedder
from relays.outbox import SqlOutbox
from schema.database import dead_letters, revision
from schema.database.connection import connect, reading
from schema.database.tables import LANES, TASK_TYPES, system_identity
from schema.events.events import FileRecord
from schema.failures import DeadLetter
from schema.kafka.names import Names
from schema.object_store import layout
from schema.object_store.directory import DirectoryStore
from tests.contracts.dead_letters import letter
from tests.integration.test_embedding_cache import Counting
from tests.integration.test_kafka_consumers import wait_until_completed
from tests.support import kafka, prometheus
from tests.support.foreign_events import LOST, forge, lose
from tests.support.pipeline import DIMENSION, MODEL, SYSTEM_ID, Pipeline, applier, chunk, document
from tests.support.servers import ROOT, Servers
from tests.support.tasks import upload_text, work
from tests.support.waiting import wait_for
from tests.support.written import rows

pytestmark = pytest.mark.integration

SCRIPT = ROOT / "compose" / "grants" / "grants.sql"
PROCESSES = ("writer", "relay", "consumer", "monitor")
DENIED = {
    ER.DBACCESS_DENIED_ERROR,
    ER.TABLEACCESS_DENIED_ERROR,
    ER.COLUMNACCESS_DENIED_ERROR,
    ER.SPECIFIC_ACCESS_DENIED_ERROR,
}


@dataclass(frozen=True)
class Users:
    """One engine per process, with a user that has only its grants."""

    writer: Engine
    relay: Engine
    consumer: Engine
    monitor: Engine
    exporter: Engine
    backup: Engine


@pytest.fixture
def users(mysql: Engine) -> Iterator[Users]:
    """The users of the script, with a new prefix instead of `rag-`."""
    prefix, password = f"t{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    names = (*PROCESSES, "exporter", "backup")
    accounts = ", ".join(f"'{prefix}-{name}'" for name in names)
    try:
        for _ in range(2):  # repeating it is harmless
            run_script(mysql, SCRIPT.read_text().replace("'rag-", f"'{prefix}-"))
        with mysql.begin() as connection:
            for name in names:
                user = f"'{prefix}-{name}'"
                connection.exec_driver_sql(f"ALTER USER {user} IDENTIFIED BY '{password}' ACCOUNT UNLOCK")
        engines = {name: engine_of(mysql, f"{prefix}-{name}", password) for name in names}
        yield Users(**engines)
        for engine in engines.values():
            engine.dispose()
    finally:
        with mysql.begin() as connection:
            connection.exec_driver_sql(f"DROP USER IF EXISTS {accounts}")


def run_script(database: Engine, script: str) -> None:
    """Run a script as `mysql database < script` does."""
    url = database.url
    with pymysql.connect(
        host=url.host,
        port=url.port or 3306,
        user=url.username,
        password=url.password or "",
        database=url.database,
        client_flag=CLIENT.MULTI_STATEMENTS,
    ) as connection:
        cursor = connection.cursor()
        cursor.execute(script)
        while cursor.nextset():
            pass


def engine_of(database: Engine, user: str, password: str) -> Engine:
    url = make_url(database.url).set(username=user, password=password)
    return connect(url.render_as_string(hide_password=False))


def test_every_process_works_with_its_own_user(
    servers: Servers, mysql: Engine, users: Users, names: Names, store: DirectoryStore, milvus: MilvusClient
) -> None:
    milvus_sink, minio_sink = MilvusSink(milvus, DIMENSION, SYSTEM_ID), MinioSink(store, SYSTEM_ID)
    for sink in (milvus_sink, minio_sink):
        sink.create()
    written = Pipeline(users.writer, store, milvus, Writer(MODEL), milvus_sink, minio_sink)
    with ExitStack() as stack:
        stack.callback(minio_sink.close)
        stack.enter_context(kafka.relaying(users.relay, servers, names))
        for sink in (milvus_sink, minio_sink):
            stack.enter_context(kafka.consuming(users.consumer, sink, servers, names))
        written.upsert(*(document(f"d{n}", "one", f"two {n}", file=b"first") for n in range(20)))
        wait_until_completed(mysql)
        written.upsert(  # moved, removed, relabelled chunks and another file
            *(document(f"d{n}", f"two {n}", "three", file=b"second", business_tag="hr") for n in range(10)),
            document("d10", "one", "two 10", file=b"first", source_type="webpage"),
        )
        wait_until_completed(mysql)
        with users.writer.begin() as connection:
            written.writer.resync(connection, "d11", [chunk("one")])
        written.delete("d12", "d13")
        wait_until_completed(mysql)
        written.upsert(document("d12", "one", "back"))
        with mysql.begin() as connection:  # a writer in another language inserts none
            connection.execute(text("DELETE FROM sink_states WHERE doc_id = 'd14'"))
        written.upsert(document("d14", "one", file=b"first"))
        wait_until_completed(mysql)

    Pipeline(mysql, store, milvus, written.writer, milvus_sink, minio_sink).assert_in_step()


def test_consumer_user_may_mark_a_refused_event(
    servers: Servers, mysql: Engine, users: Users, names: Names, store: DirectoryStore, milvus: MilvusClient
) -> None:
    """It inserts the dead letter and the `failed` marks."""
    milvus_sink = MilvusSink(milvus, DIMENSION, SYSTEM_ID)
    milvus_sink.create()
    with users.writer.begin() as connection:
        Writer(MODEL).upsert(connection, document("d", "one"))
    with mysql.begin() as connection:
        connection.execute(text("UPDATE outbox SET payload = 'broken'"))
    with (
        kafka.relaying(users.relay, servers, names),
        kafka.consuming(users.consumer, milvus_sink, servers, names),
    ):
        kafka.wait_until_empty(mysql)
        wait_for(lambda: state_of(mysql) == "failed", "the sink to refuse it")


def test_consumer_user_may_mark_a_lost_version_and_keep_a_dead_letter(
    servers: Servers, mysql: Engine, users: Users, names: Names, store: DirectoryStore, milvus: MilvusClient
) -> None:
    sink = MinioSink(store, SYSTEM_ID)
    written = Pipeline(mysql, store, milvus, Writer(MODEL), MilvusSink(milvus, DIMENSION, SYSTEM_ID), sink)
    written.upsert(document("d", "one", file=b"x"))
    [event] = written.pending()
    lost = [lose(event), forge(event, doc_id="lost", history_id=LOST, files=files_of("lost"))]
    assert applier(users.consumer, sink).apply([event, *lost]) == []
    sink.close()
    message, dead = letter(1, [("ce_id", b"e"), ("x", b"x" * 2_000_000)])
    KafkaDeadLetters(kafka.properties(servers), names.dead_letters_topic("minio"), users.consumer, "minio").send(
        [(message, dead)]
    )
    assert written.sql("SELECT DISTINCT state FROM sink_states") == [("absent",)]
    assert written.sql("SELECT doc_id, lost_version FROM documents WHERE lost_version > 0 ORDER BY doc_id") == [
        ("d", 1),
        ("lost", 1),
    ]
    assert written.sql("SELECT doc_id FROM document_files WHERE removed_in_version = 2") == [("lost",)]
    assert written.sql("SELECT event_id FROM outbox_dead_letters") == [("e",)]


def files_of(doc_id: str) -> list[FileRecord]:
    key = layout.extracted_text_key(doc_id)
    return [FileRecord(object_key=key, content_type="text/plain", sha256="", size_bytes=0)]


def test_relay_user_may_check_a_new_history(servers: Servers, mysql: Engine, users: Users, names: Names) -> None:
    with users.writer.begin() as connection:
        Writer(MODEL).upsert_many(connection, [document(name, "one", file=b"x") for name in ("kept", "lost")])
    with kafka.relaying(users.relay, servers, names):
        kafka.wait_until_empty(mysql)
    for table in ("chunks", "document_files", "sink_states", "documents"):
        with mysql.begin() as connection:
            connection.execute(text(f"DELETE FROM {table} WHERE doc_id = 'lost'"))
    wait_for(lambda: len(kafka.topic(servers, names.documents_topic)) == 2, "both events in the topic")
    history.start(mysql, "test")
    with mysql.begin() as connection:
        connection.execute(text("UPDATE histories SET started_at = '2020-01-01'"))
    report = history.check_if_due(users.relay, names, kafka.properties(servers), lambda: False)
    assert report is not None
    assert report.documents == {"lost"}
    assert rows(mysql, "SELECT COUNT(*) FROM histories WHERE checked_at IS NULL") == [(0,)]


def test_relay_user_may_store_a_dead_letter_twice(servers: Servers, mysql: Engine, users: Users, names: Names) -> None:
    """The second time, the outcome of the first transaction was unknown."""
    with users.writer.begin() as connection:
        Writer(MODEL).upsert(connection, document("d", "one"))
    relay = SqlOutbox(users.relay)
    [row] = relay.claim_lanes(range(LANES), [], 10, 1_000_000)
    for reason in ("first", "last"):
        relay.settle([row], [DeadLetter("relay", row.envelope, reason)])
    assert rows(mysql, "SELECT error FROM outbox_dead_letters") == [("last",)]
    assert rows(mysql, "SELECT id FROM outbox") == []


def test_binlog_has_only_keys_of_rows_that_the_relay_deletes(mysql: Engine, users: Users) -> None:
    def row_image() -> str:
        with users.relay.connect() as connection:
            return str(connection.scalar(text("SELECT @@SESSION.binlog_row_image")))

    assert row_image() == "FULL"
    SqlOutbox(users.relay).open()
    assert row_image() == "MINIMAL"

    with mysql.begin() as connection:
        connection.execute(text(f"REVOKE SESSION_VARIABLES_ADMIN ON *.* FROM '{users.relay.url.username}'"))
    users.relay.dispose()
    assert row_image() == "FULL", "and the relay works without it"


def test_monitor_user_may_read_the_whole_backlog(mysql: Engine, users: Users) -> None:
    with users.writer.begin() as connection:
        Writer(MODEL).upsert(connection, document("d", "one"))
    with reading(users.monitor) as connection:
        found = backlog.read(connection)
    assert (found.pending_events, found.documents["pending"], found.sinks["milvus"].documents["pending"]) == (1, 1, 1)
    assert found.history_list_length is not None
    Monitor(users.monitor, metrics := BacklogMetrics(CollectorRegistry())).close_superseded()
    assert metrics.up == {"database": True}
    with users.monitor.begin() as connection:
        dead_letters.close_superseded(connection, [1])

    with mysql.begin() as connection:
        connection.execute(text(f"REVOKE PROCESS ON *.* FROM '{users.monitor.url.username}'"))
    users.monitor.dispose()
    with reading(users.monitor) as connection:
        assert backlog.read(connection).history_list_length is None, "and it works without it"


def test_monitor_user_may_remove_what_retention_does_not_keep(mysql: Engine, users: Users) -> None:
    with users.writer.begin() as connection:
        Writer(MODEL).upsert(connection, document("d", "one", file=b"x", business_tag="secret"))
    with users.writer.begin() as connection:
        Writer(MODEL).delete(connection, "d")
    long_ago = "UTC_TIMESTAMP(6) - INTERVAL 2 YEAR"
    for statement in (
        f"UPDATE documents SET status = 'completed', deleted_at = {long_ago}",
        "UPDATE sink_states SET state = 'applied', applied_version = desired_version",
        "INSERT INTO sinks (name, required, takes_vectors, takes_files) VALUES ('extra', 0, 1, 0)",
        "INSERT INTO sink_states (doc_id, sink, desired_version) VALUES ('d', 'extra', 2), ('d', 'former', 2)",
        f"UPDATE operation_logs SET created_at = {long_ago}",
        "INSERT INTO processing_tasks (task_id, task_type, doc_id, status, completed_at)"
        f" VALUES ('t', 'chunk', 'd', 'completed', {long_ago})",
        "INSERT INTO outbox_dead_letters (stage, outbox_id, event_id, aggregate_type, aggregate_id, aggregate_version,"
        " event_type, content_type, payload, error, attempts, state, closed_at)"
        f" VALUES ('relay', 1, 'e', 'document', 'd', 1, 't', 'c', '', 'e', 1, 'replayed', {long_ago})",
    ):
        with mysql.begin() as connection:
            connection.execute(text(statement))
    removed = run_due(users.monitor, policies_of_database(users.monitor, Settings()), threading.Event(), seconds=60)
    assert removed == {"operation_logs": 2, "deleted_documents": 1, "dead_letters": 1, "processing_tasks": 1}
    assert rows(mysql, "SELECT title, business_tag, oss_key FROM documents") == [("", None, None)]
    states = rows(mysql, "SELECT sink, state FROM sink_states ORDER BY sink")
    assert states == [("extra", "absent"), ("milvus", "applied"), ("minio", "applied")]


def test_consumer_user_may_remove_superseded_rows_of_archives(
    mysql: Engine, users: Users, store: DirectoryStore, milvus: MilvusClient
) -> None:
    with mysql.begin() as connection:
        connection.execute(text("DELETE FROM sinks WHERE name = 'milvus'"))
    sink = MinioSink(store, SYSTEM_ID)
    sink.create()
    written = Pipeline(users.writer, store, milvus, Writer(MODEL), MilvusSink(milvus, DIMENSION, SYSTEM_ID), sink)
    for contents in (("one", "two"), ("two", "three")):
        written.upsert(document("d", *contents))
        assert applier(users.consumer, sink).apply(written.pending()) == []
    sink.close()
    run_due(users.consumer, policies_of_store(users.consumer, store, Settings()), threading.Event(), seconds=60)
    assert rows(mysql, "SELECT doc_id, version FROM tidied_documents") == [("d", 2)]
    assert any(map(layout.is_superseded_key, store.keys("processed-data/embeddings/d/")))


def test_consumer_user_embeds_through_the_cache(users: Users) -> None:
    """As it does while a rebuild changes the model."""
    embedder = CachedEmbedder(Counting(), users.consumer)
    first, again = (embedder.embed(["one", "two"]) for _ in range(2))
    assert np.array_equal(first, again)
    assert rows(users.consumer, "SELECT COUNT(*) FROM embedding_cache") == [(2,)]


def test_writer_user_works_on_tasks_and_consumer_user_keeps_their_files(
    users: Users, store: DirectoryStore, milvus: MilvusClient
) -> None:
    sinks = MilvusSink(milvus, DIMENSION, SYSTEM_ID), MinioSink(store, SYSTEM_ID)
    uploaded = Pipeline(users.writer, store, milvus, Writer(MODEL), *sinks)
    upload_text(uploaded, "d", "one")
    staged = [*store.keys(layout.STAGING_PREFIX)]
    for key in staged:
        os.utime(store.root / key, (0, 0))
    assert (len(staged), sweep(users.consumer, store, threading.Event())) == (1, 0)
    assert work(uploaded) == [(step, "completed") for step in TASK_TYPES]


def test_exporter_user_may_read_what_the_dashboards_show(users: Users, tmp_path: Path) -> None:
    url = users.exporter.url.render_as_string(hide_password=False)
    with prometheus.exporters(tmp_path, url) as jobs:
        [port] = jobs["mysqld-exporter"]
        wait_for(lambda: prometheus.answers(port, "/metrics"), "the exporter")
        served = prometheus.get(port, "/metrics").data.decode()
    failed = re.findall(r'^mysql_exporter_collector_success\{collector="(.+)"\} 0$', served, re.MULTILINE)
    assert failed == []
    assert "mysql_global_status_innodb_row_lock_waits " in served


def state_of(mysql: Engine) -> str:
    with reading(mysql) as connection:
        return str(connection.scalar(text("SELECT status FROM documents")))


def test_backup_user_may_make_a_backup_that_is_counted(mysql: Engine, users: Users, mysql_client: Path) -> None:
    with users.writer.begin() as connection:
        Writer(MODEL).upsert(connection, document("d", "one"))
    client = MySQLClient(users.backup.url, mysql_client)
    with take_snapshot(users.backup) as taken:
        with client.dump(mysql.url.database or "", DUMPED) as output:
            output.await_snapshot()
            taken.release()
            assert b"INSERT INTO `documents`" in output.read()
        states = taken.read_states()
    assert (taken.unverified, states is not None and states["documents"].rows) == ("", 1)
    assert taken.server.binlog_position > 0
    newest.note_begun(users.backup, newest.BUCKET)
    with reading(users.monitor) as connection:
        assert backlog.read(connection).backups["bucket"].made_at is None

    with mysql.begin() as connection:
        user = f"'{users.backup.url.username}'"
        connection.execute(text(f"REVOKE LOCK TABLES ON * FROM {user}"))
        connection.execute(text(f"REVOKE REPLICATION CLIENT ON *.* FROM {user}"))
    users.backup.dispose()
    with take_snapshot(users.backup) as taken, client.dump(mysql.url.database or "", DUMPED) as output:
        assert taken.unverified == "the user has not the privilege LOCK TABLES"
        assert (taken.server.binlog_position, taken.read_states()) == (0, None)
        assert b"INSERT INTO `documents`" in output.read(), "and it works without them"


@pytest.mark.parametrize("process", PROCESSES)
def test_every_process_may_read_revision_and_model(users: Users, process: str) -> None:
    engine: Engine = getattr(users, process)
    with reading(engine) as connection:
        revision.require_compatible(connection)
        assert connection.execute(select(system_identity.c.embedding_model)).scalar_one() == MODEL


STATEMENTS = {
    "writer": [
        "DELETE FROM documents",
        "DELETE FROM outbox",
        "UPDATE outbox SET payload = 'other'",
        "SELECT * FROM operation_logs",
        "UPDATE operation_logs SET operator = 'somebody else'",
        "DELETE FROM operation_logs",
        "SELECT * FROM outbox_dead_letters",
        "DELETE FROM sink_states",
        "UPDATE system_identity SET embedding_model = 'other'",
        "INSERT INTO rag_outbox_revision VALUES ('other')",
        "ALTER TABLE documents ADD COLUMN more INT",
        "DROP TABLE outbox",
    ],
    "relay": [
        "SELECT * FROM documents",
        "SELECT * FROM chunks",
        "UPDATE documents SET title = 'other'",
        "SELECT title FROM documents",
        "SELECT content FROM chunks",
        "INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, payload)"
        " VALUES ('e', 'd', 1, 't', 'c', 'p')",
        "UPDATE outbox SET payload = 'other'",
        "SELECT * FROM outbox_dead_letters",
        "DELETE FROM outbox_dead_letters",
        "DELETE FROM sink_states",
        "UPDATE system_identity SET embedding_model = 'other'",
        "TRUNCATE TABLE outbox",
    ],
    "consumer": [
        "UPDATE documents SET version = 9",
        "UPDATE documents SET title = 'other'",
        "INSERT INTO documents (doc_id, version, history_id, title, source_type, chunk_count, oss_key)"
        " VALUES ('d', 1, 'h', 't', 'text', 0, 'k')",
        "DELETE FROM documents",
        "UPDATE chunks SET content = 'other'",
        "DELETE FROM chunks",
        "SELECT * FROM outbox",
        "DELETE FROM outbox",
        "INSERT INTO chunk_tombstones VALUES ('c', 'd', 1)",
        "UPDATE document_files SET sha256 = 'other'",
        "SELECT * FROM outbox_dead_letters",
        "UPDATE sinks SET required = 0",
        "DELETE FROM sink_states",
        "SELECT * FROM operation_logs",
        "DELETE FROM operation_logs",
        "DROP TABLE chunks",
    ],
    "monitor": [
        "UPDATE outbox_dead_letters SET error = 'other'",
        "SELECT title FROM documents",
        "SELECT * FROM chunks",
        "SELECT payload FROM outbox",
        "SELECT error FROM outbox_dead_letters",
        "SELECT last_error FROM sink_states",
        "SELECT * FROM operation_logs",
        "SELECT payload FROM operation_logs",
        "UPDATE operation_logs SET operator = 'somebody else'",
        "SELECT payload FROM outbox_dead_letters",
        "SELECT content FROM chunks",
        "UPDATE documents SET version = 9",
        "DELETE FROM documents",
        "DELETE FROM outbox",
        "UPDATE documents SET status = 'completed'",
        "UPDATE histories SET checked_at = NULL",
    ],
    "backup": [
        "UPDATE documents SET version = 9",
        "DELETE FROM outbox",
        "INSERT INTO histories (history_id, server_uuid, reason) VALUES ('h', 's', 'r')",
        "DROP TABLE outbox",
    ],
    "exporter": [
        "SELECT * FROM documents",
        "SELECT id FROM outbox",
        "SELECT * FROM sinks",
    ],
}


@pytest.mark.parametrize("process", STATEMENTS)
def test_no_process_has_the_rights_of_another(mysql: Engine, users: Users, process: str) -> None:
    for statement in [*STATEMENTS[process], "CREATE TABLE more (id INT)", "CREATE USER somebody", "SHUTDOWN"]:
        with pytest.raises(DBAPIError) as raised, getattr(users, process).begin() as connection:
            connection.execute(text(statement))
        assert raised.value.orig is not None
        assert raised.value.orig.args[0] in DENIED, (statement, raised.value.orig)
