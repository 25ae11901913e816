"""A failover keeps an event's settled outbox row and loses the marks of sinks that consumed it: the check finds it."""

import pytest
from confluent_kafka import Consumer, TopicPartition
from sqlalchemy import Engine, text

from consumers.minio.sink import MinioSink
from consumers.refill import Refill
from operations import history
from operations.topic import TopicReader
from producer import Writer
from schema.kafka.names import Names
from schema.object_store.directory import DirectoryStore
from schema.sinks import MILVUS, MINIO
from tests.support import kafka, written
from tests.support.pipeline import MARKS, MODEL, SYSTEM_ID, document
from tests.support.servers import Servers
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration

STATES = "SELECT doc_id, sink, state FROM sink_states ORDER BY doc_id, sink"


def publish(engine: Engine, servers: Servers, names: Names, *doc_ids: str) -> None:
    """The outbox is empty a moment before a reader sees the end of the last transaction."""
    expected = len(kafka.topic(servers, names.documents_topic)) + len(doc_ids)
    with engine.begin() as connection:
        Writer(MODEL).upsert_many(connection, [document(doc_id, "one") for doc_id in doc_ids])
    with kafka.relaying(engine, servers, names):
        kafka.wait_until_empty(engine)
    wait_for(lambda: len(kafka.topic(servers, names.documents_topic)) == expected, "all events in the topic")


def commit(servers: Servers, names: Names, sink: str) -> None:
    """The sink's group has consumed all that is in the topic now."""
    consumer = Consumer({"bootstrap.servers": servers.kafka, "group.id": names.sink_group(sink)})
    topic = names.documents_topic
    ends = []
    for number in consumer.list_topics(topic, timeout=30).topics[topic].partitions:
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=30)
        ends.append(TopicPartition(topic, number, end))
    consumer.commit(offsets=ends, asynchronous=False)
    consumer.close()


def check(engine: Engine, servers: Servers, names: Names) -> history.Report:
    return history.check(engine, TopicReader(names, kafka.properties(servers)))


def test_consumed_document_without_a_mark_becomes_absent(mysql: Engine, servers: Servers, names: Names) -> None:
    publish(mysql, servers, names, "a", "b")
    commit(servers, names, MILVUS)
    publish(mysql, servers, names, "later")
    report = check(mysql, servers, names)
    assert (report.unmarked, report.documents) == (frozenset({"a", "b"}), frozenset())
    assert written.rows(mysql, STATES) == [
        ("a", MILVUS, "absent"),
        ("a", MINIO, "pending"),
        ("b", MILVUS, "absent"),
        ("b", MINIO, "pending"),
        ("later", MILVUS, "pending"),
        ("later", MINIO, "pending"),
    ]
    reasons = written.rows(mysql, "SELECT DISTINCT last_error FROM sink_states WHERE state = 'absent'")
    assert reasons == [("the mark of version 1 was lost",)]
    assert check(mysql, servers, names).unmarked == frozenset()


def test_applied_and_failed_documents_are_left_alone(mysql: Engine, servers: Servers, names: Names) -> None:
    publish(mysql, servers, names, "applied", "failed")
    with mysql.begin() as connection:
        applied = "UPDATE sink_states SET applied_version = 1, state = 'applied' WHERE doc_id = 'applied'"
        connection.execute(text(applied))
        connection.execute(text("UPDATE sink_states SET state = 'failed' WHERE doc_id = 'failed'"))
    commit(servers, names, MILVUS)
    commit(servers, names, MINIO)
    assert check(mysql, servers, names).unmarked == frozenset()


def test_document_without_states_is_found(mysql: Engine, servers: Servers, names: Names) -> None:
    """A writer in another language may leave them out."""
    publish(mysql, servers, names, "a")
    with mysql.begin() as connection:
        connection.execute(text("DELETE FROM sink_states"))
    commit(servers, names, MINIO)
    assert check(mysql, servers, names).unmarked == {"a"}
    assert written.rows(mysql, STATES) == [("a", MILVUS, "pending"), ("a", MINIO, "absent")]


def test_base_of_a_relabel_that_is_still_to_come_is_found(mysql: Engine, servers: Servers, names: Names) -> None:
    publish(mysql, servers, names, "a")
    commit(servers, names, MILVUS)
    with mysql.begin() as connection:
        Writer(MODEL).relabel(connection, "a", business_tag="red")
    assert check(mysql, servers, names).unmarked == {"a"}


def test_refill_completes_a_document_whose_mark_was_lost(
    mysql: Engine, servers: Servers, names: Names, store: DirectoryStore
) -> None:
    sink = MinioSink(store, SYSTEM_ID)
    sink.create()
    refill = Refill(mysql, sink, MARKS[MINIO], store)
    state = "SELECT state FROM sink_states WHERE sink = 'minio'"
    publish(mysql, servers, names, "a")
    with kafka.consuming(mysql, sink, servers, names):
        wait_for(lambda: written.rows(mysql, state) == [("applied",)], "the mark")
    with mysql.begin() as connection:
        connection.execute(text("UPDATE sink_states SET applied_version = 0, parts_version = 0, state = 'pending'"))
    with kafka.consuming(mysql, sink, servers, names, refill=refill):
        assert check(mysql, servers, names).unmarked == {"a"}
        wait_for(lambda: written.rows(mysql, state) == [("applied",)], "the refill")
    sink.close()
