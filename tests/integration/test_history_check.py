"""The check of a new history: it finds in the topic what the sinks applied before the commits were lost."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from confluent_kafka.admin import AdminClient
from sqlalchemy import Engine, text

from operations import history
from operations.topic import TopicReader
from producer import Writer
from relays.kafka import kafka_relay
from schema.database.history import read_identity
from schema.database.tables import LANES
from schema.events.events import MSGPACK, DocumentUpserted, encode
from schema.failures import Retryable
from schema.kafka.names import Names
from tests.support import kafka, written
from tests.support.pipeline import MODEL, document
from tests.support.servers import Servers
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration

TABLES = ("chunks", "document_files", "sink_states", "documents")
UNCHECKED = "SELECT COUNT(*) FROM histories WHERE checked_at IS NULL"
SUSPECTS = "SELECT doc_id, lost_version FROM documents WHERE lost_version > 0 ORDER BY doc_id"
STATES = "SELECT DISTINCT doc_id, state FROM sink_states ORDER BY doc_id"


def write(engine: Engine, content: str, *doc_ids: str) -> None:
    with engine.begin() as connection:
        Writer(MODEL).upsert_many(connection, [document(doc_id, content) for doc_id in doc_ids])


def publish(engine: Engine, servers: Servers, names: Names) -> None:
    """The outbox is empty a moment before a reader sees the end of the last transaction."""
    expected = len(kafka.topic(servers, names.documents_topic)) + kafka.pending(engine)
    with kafka.relaying(engine, servers, names):
        kafka.wait_until_empty(engine)
    wait_for(lambda: len(kafka.topic(servers, names.documents_topic)) == expected, "all events in the topic")


def age(engine: Engine) -> None:
    """The histories began long ago."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE histories SET started_at = '2020-01-01'"))


def lose(engine: Engine) -> None:
    """As a replica without the last commits has them: version 2 of `changed`, and the whole of `missing`."""
    with engine.begin() as connection:
        for table in TABLES:
            connection.execute(text(f"DELETE FROM {table} WHERE doc_id = 'missing'"))
        connection.execute(text("UPDATE sink_states SET desired_version = 1, applied_version = 1, state = 'applied'"))
        connection.execute(text("UPDATE documents SET version = 1, status = 'completed'"))


@pytest.fixture
def lost(mysql: Engine, servers: Servers, names: Names) -> Engine:
    """Three documents in the topic; the database lost a version of one, and another as a whole."""
    write(mysql, "one", "kept", "changed")
    write(mysql, "two", "changed", "missing")
    publish(mysql, servers, names)
    lose(mysql)
    return mysql


def reader(servers: Servers, names: Names) -> TopicReader:
    return TopicReader(names, kafka.properties(servers))


def test_check_suspects_the_documents_of_lost_events(lost: Engine, servers: Servers, names: Names) -> None:
    history.start(lost, "test")
    report = history.check(lost, reader(servers, names))
    assert (report.events, report.lost_events, report.unreadable) == (4, 2, 0)
    assert report.documents == {"changed", "missing"}
    assert written.rows(lost, SUSPECTS) == [("changed", 2), ("missing", 1)]
    assert written.rows(lost, STATES) == [("changed", "absent"), ("kept", "applied"), ("missing", "absent")]
    reasons = written.rows(lost, "SELECT DISTINCT last_error FROM sink_states WHERE doc_id = 'changed'")
    assert reasons == [("the topic has version 2 of a lost history",)]
    assert written.rows(lost, UNCHECKED) == [(0,)]

    again = history.check(lost, reader(servers, names))
    assert (again.events, again.documents) == (4, frozenset())


def test_check_removes_files_of_lower_lost_versions(mysql: Engine, servers: Servers, names: Names) -> None:
    """A consumer saw version 2 first, which has no file; version 1 and its file were applied before."""
    with mysql.begin() as connection:
        Writer(MODEL).upsert(connection, document("a", "one", file=b"lost"))
    publish(mysql, servers, names)
    [(key,)] = written.rows(mysql, "SELECT object_key FROM document_files")
    with mysql.begin() as connection:
        connection.execute(text("DELETE FROM document_files"))
        connection.execute(text("UPDATE documents SET version = 3, lost_version = 2, deleted_at = NOW()"))
        connection.execute(text("UPDATE sink_states SET desired_version = 3, applied_version = 3, state = 'applied'"))
    history.start(mysql, "test")
    with mysql.begin() as connection:
        connection.execute(text("UPDATE documents SET history_id = (SELECT history_id FROM system_identity)"))
    report = history.check(mysql, reader(servers, names))
    assert report.lost_events == 0, "it was found before"
    assert written.rows(mysql, "SELECT object_key, removed_in_version FROM document_files") == [(key, 3)]
    states = written.rows(mysql, "SELECT sink, state FROM sink_states ORDER BY sink")
    assert states == [("milvus", "applied"), ("minio", "absent")]


def test_check_after_the_next_write_finds_the_lost_version(lost: Engine, servers: Servers, names: Names) -> None:
    """Written again, the document has the lost version's number."""
    history.start(lost, "test")
    write(lost, "three", "changed", "missing")
    publish(lost, servers, names)
    assert history.check(lost, reader(servers, names)).documents == {"changed", "missing"}


def test_check_after_two_histories_trusts_no_unchecked_one(lost: Engine, servers: Servers, names: Names) -> None:
    for content in ("three", "four"):
        history.start(lost, "test")
        write(lost, content, "changed")
    assert history.check(lost, reader(servers, names)).documents == {"changed", "missing"}
    assert written.rows(lost, UNCHECKED) == [(0,)]


def test_check_leaves_inherited_versions_alone(mysql: Engine, servers: Servers, names: Names) -> None:
    write(mysql, "one", "a")
    publish(mysql, servers, names)
    for content in ("two", "three"):
        history.start(mysql, "test")
        with mysql.begin() as connection:
            connection.execute(text("UPDATE histories SET checked_at = UTC_TIMESTAMP(6)"))
        write(mysql, content, "a")
    publish(mysql, servers, names)
    report = history.check(mysql, reader(servers, names))
    assert (report.events, report.documents) == (3, frozenset())


def test_check_that_is_stopped_notes_nothing(lost: Engine, servers: Servers, names: Names) -> None:
    history.start(lost, "test")
    report = history.check(lost, reader(servers, names), is_stopped=lambda: True)
    assert not report.is_complete
    assert written.rows(lost, UNCHECKED) == [(1,)]


def test_check_that_a_failover_overtakes_notes_nothing(lost: Engine, servers: Servers, names: Names) -> None:
    history.start(lost, "test")

    def fail_over(_events: int) -> None:
        history.start(lost, "another")

    assert history.check(lost, reader(servers, names), advance=fail_over).is_complete
    assert written.rows(lost, UNCHECKED) == [(2,)]


def test_relay_starts_the_history_of_another_server(lost: Engine, servers: Servers, names: Names) -> None:
    """Without a write: a failback before the first one would otherwise leave no trace."""
    history.start(lost, "test")
    with lost.begin() as connection:
        connection.execute(text("UPDATE system_identity SET server_uuid = 'the old primary'"))
    age(lost)
    assert history.check_if_due(lost, names, kafka.properties(servers), lambda: False) is None
    assert written.rows(lost, "SELECT server_uuid = @@server_uuid FROM system_identity") == [(1,)]
    assert written.rows(lost, UNCHECKED) == [(2,)]
    age(lost)
    assert history.check_if_due(lost, names, kafka.properties(servers), lambda: False) is not None
    assert written.rows(lost, UNCHECKED) == [(0,)]


def test_check_waits_until_sessions_from_before_have_ended(lost: Engine, servers: Servers, names: Names) -> None:
    history.start(lost, "test")
    assert history.check_if_due(lost, names, kafka.properties(servers), lambda: False) is None
    age(lost)
    assert history.check_if_due(lost, names, kafka.properties(servers), lambda: False) is not None


def test_check_since_a_time_reads_only_newer_events(lost: Engine, servers: Servers, names: Names) -> None:
    history.start(lost, "test")
    now = datetime.now(UTC)
    assert history.check(lost, reader(servers, names), since=now + timedelta(hours=1)).events == 0
    assert history.check(lost, reader(servers, names), since=now - timedelta(hours=1)).events == 4
    assert written.rows(lost, UNCHECKED) == [(1,)], "only a whole check counts"


def test_check_skips_events_of_another_system(lost: Engine, servers: Servers, names: Names) -> None:
    other = replace(names, system_id="00000000-0000-0000-0000-000000000000")
    assert history.check(lost, reader(servers, other)).events == 0


def test_check_counts_what_it_cannot_read(lost: Engine, servers: Servers, names: Names) -> None:
    with lost.begin() as connection:
        connection.execute(text("UPDATE documents SET version = 2 WHERE doc_id = 'changed'"))
    write(lost, "two", "missing", "broken")
    with lost.begin() as connection:
        connection.execute(text("UPDATE outbox SET payload = 'broken' WHERE aggregate_id = 'broken'"))
    publish(lost, servers, names)
    report = history.check(lost, reader(servers, names))
    assert (report.events, report.unreadable, report.documents) == (6, 1, frozenset())


def test_check_reads_large_topics_in_batches(mysql: Engine, servers: Servers, names: Names) -> None:
    doc_ids = [f"d{number}" for number in range(2_500)]
    with mysql.begin() as connection:
        history_id = read_identity(connection).history_id
        insert = text(
            "INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, payload)"
            " VALUES (UUID(), :doc_id, 1, 'rag.document.upserted.v1', :content_type, :payload)"
        )
        rows = [{"doc_id": one, "content_type": MSGPACK, "payload": event(one, history_id)} for one in doc_ids]
        connection.execute(insert, rows)
    publish(mysql, servers, names)
    batches: list[int] = []
    with written.statements(mysql) as sent:
        report = history.check(mysql, reader(servers, names), advance=batches.append)
    assert report.documents == set(doc_ids), "none of them has a row"
    assert sum(batches) == len(doc_ids)
    assert max(batches) < 1_100
    assert len(sent) < 40 * len(batches) + 10
    assert written.rows(mysql, "SELECT COUNT(*) FROM documents WHERE status = 'deleting'") == [(2_500,)]


def event(doc_id: str, history_id: str) -> bytes:
    upserted = DocumentUpserted(
        doc_id=doc_id,
        version=1,
        history_id=history_id,
        embedding_model=MODEL,
        dimension=1,
        title="t",
        source_type="text",
        chunk_count=0,
    )
    return encode(upserted, MSGPACK)


def test_check_joins_no_group(lost: Engine, servers: Servers, names: Names) -> None:
    history.check(lost, reader(servers, names))
    listed = AdminClient({"bootstrap.servers": servers.kafka}).list_consumer_groups(request_timeout=30).result()
    assert [one.group_id for one in listed.valid if one.group_id.endswith("-history-check")] == []


def test_check_of_a_missing_topic_is_an_error(mysql: Engine, servers: Servers) -> None:
    with pytest.raises(Retryable, match="Kafka"):
        history.check(mysql, reader(servers, servers.names()))


def test_relay_checks_a_new_history_by_itself(lost: Engine, servers: Servers, names: Names) -> None:
    properties = kafka.properties(servers)
    check = partial(history.check_if_due, lost, names, properties)
    relay = kafka_relay(lost, names, properties, lanes=LANES, check_history=check)
    history.start(lost, "test")
    with kafka.running(relay.run):
        wait_for(lambda: written.rows(lost, UNCHECKED) == [(0,)], "the check to end", timeout_seconds=60)
        write(lost, "one", "relayed")
        kafka.wait_until_empty(lost)
    assert written.rows(lost, SUSPECTS) == [("changed", 2), ("missing", 1)]
    assert history.check_if_due(lost, names, properties, lambda: False) is None
