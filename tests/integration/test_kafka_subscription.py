"""The contracts of the consumer loop's ports, on Kafka."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # no __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)
from sqlalchemy import Engine, text

from consumers import dead_letters as dead_letters_module
from consumers.dead_letters import KafkaDeadLetters
from consumers.kafka import KafkaConsumer
from consumers.kafka_subscription import KafkaSubscription
from consumers.subscription import Headers, Message, OnGap
from schema.events.events import Envelope
from schema.failures import DeadLetter, Retryable
from schema.kafka.names import Names
from schema.sinks import MILVUS, MINIO
from tests.contracts.dead_letters import DeadLettersContract, letter
from tests.contracts.subscription import SubscriptionContract
from tests.support import kafka, written
from tests.support.pipeline import Pipeline, applier, document
from tests.support.servers import Servers
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration


@dataclass
class KafkaGroup:
    servers: Servers
    names: Names
    producer: Producer

    def append(self, doc_id: str, value: bytes = b"", headers: Headers = ()) -> None:
        self.producer.produce(self.names.documents_topic, key=doc_id.encode(), value=value, headers=list(headers))
        assert self.producer.flush(30) == 0

    def subscription(self, on_gap: OnGap = lambda _numbers: None) -> KafkaSubscription:
        return KafkaSubscription(kafka.properties(self.servers), self.names, MILVUS, on_gap=on_gap)

    def remove_all(self) -> None:
        kafka.remove_all(self.servers, self.names.documents_topic)


@pytest.fixture
def group(servers: Servers, names: Names) -> KafkaGroup:
    return KafkaGroup(servers, names, Producer({"bootstrap.servers": servers.kafka}))


@pytest.fixture
def dead_letters(servers: Servers, names: Names, engine: Engine) -> KafkaDeadLetters:
    return KafkaDeadLetters(kafka.properties(servers), names.dead_letters_topic(MILVUS), engine, MILVUS)


@pytest.fixture
def stored(servers: Servers, names: Names) -> Callable[[], list[tuple[bytes, bytes, dict[str, str]]]]:
    def read() -> list[tuple[bytes, bytes, dict[str, str]]]:
        seen = kafka.topic(servers, names.dead_letters_topic(MILVUS))
        return [(one.doc_id.encode(), one.value, one.headers) for one in seen]

    return read


class TestKafkaSubscription(SubscriptionContract):
    """On the fixture `group`."""


class TestKafkaDeadLetters(DeadLettersContract):
    """On the fixtures `dead_letters` and `stored`."""


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "aborted"])
def test_idle_consumer_has_no_lag_after_a_transaction(
    servers: Servers, names: Names, pipeline: Pipeline, committed: bool
) -> None:
    """A transaction ends with a marker, which no consumer receives."""
    producer = Producer({"bootstrap.servers": servers.kafka, "transactional.id": names.documents_topic})
    producer.init_transactions(30)
    for finish in (
        producer.commit_transaction,
        producer.commit_transaction if committed else producer.abort_transaction,
    ):
        producer.begin_transaction()
        for number in range(20):
            producer.produce(names.documents_topic, key=b"d%d" % number, value=b"")
        finish(30)
    with kafka.consuming(pipeline.engine, pipeline.minio_sink, servers, names):
        wait_for(lambda: lag(servers, names) == 0, "a committed offset at the end of every partition")


def test_foreign_events_are_skipped_and_leave_no_lag(servers: Servers, names: Names, pipeline: Pipeline) -> None:
    """Another system's event for a document of ours, before, between and after our own; then a flood of them."""
    pipeline.upsert(document("d", "one"))
    [own] = pipeline.pending()
    foreign = replace_source(own, f"rag-outbox/{uuid4()}")
    producer = Producer({"bootstrap.servers": servers.kafka})
    for headers in (foreign, replace_source(own, names.source), *[foreign] * 2_000):
        producer.produce(names.documents_topic, partition=0, key=b"d", value=own.payload, headers=headers)
    for _ in range(20):  # not even well formed
        producer.produce(names.documents_topic, key=b"d", value=b"x", headers=[("ce_source", b"rag-outbox/x")])
    assert producer.flush(30) == 0
    subscription = KafkaSubscription(kafka.properties(servers), names, MINIO)
    consumer = KafkaConsumer(
        applier(pipeline.engine, pipeline.minio_sink),
        subscription,
        KafkaDeadLetters(kafka.properties(servers), names.dead_letters_topic(MINIO), pipeline.engine, MINIO),
    )
    with kafka.running(consumer.run):
        wait_for(lambda: subscription.foreign.count == 2_021, "the foreign events to be read")
        wait_for(lambda: lag(servers, names) == 0, "a committed offset after the last of them")
    assert pipeline.sql("SELECT state FROM sink_states WHERE sink = 'minio'") == [("applied",)]
    assert pipeline.sql("SELECT * FROM documents WHERE lost_version > 0") == []
    assert kafka.topic(servers, names.dead_letters_topic(MINIO)) == []


def replace_source(envelope: Envelope, source: str) -> list[tuple[str, str | bytes | None]]:
    return [
        ("ce_id", envelope.event_id),
        ("ce_source", source),
        ("ce_type", envelope.event_type),
        ("ce_sequence", str(envelope.version)),
        ("content-type", envelope.content_type),
    ]


def lag(servers: Servers, names: Names) -> int | None:
    """The number of offsets that the minio group has not committed; None while a partition has no committed offset."""
    client = Consumer({"bootstrap.servers": servers.kafka, "group.id": names.sink_group(MINIO)})
    try:
        numbers = client.list_topics(names.documents_topic, timeout=30).topics[names.documents_topic].partitions
        partitions = [TopicPartition(names.documents_topic, number) for number in numbers]
        offsets = [one.offset for one in client.committed(partitions, timeout=30)]
        ends = [client.get_watermark_offsets(one, timeout=30)[1] for one in partitions]
        return None if min(offsets) < 0 else sum(ends) - sum(offsets)
    finally:
        client.close()


def limit_message_bytes(servers: Servers, topic: str, limit: int) -> None:
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    resource.add_incremental_config(
        ConfigEntry("max.message.bytes", str(limit), incremental_operation=AlterConfigOpType.SET)
    )
    admin = AdminClient({"bootstrap.servers": servers.kafka})
    admin.incremental_alter_configs([resource])[resource].result(30)


def sized_letter(number: int, size_bytes: int) -> tuple[Message, DeadLetter]:
    message, dead = letter(number, [("ce_id", b"event-%d" % number), ("ce_sequence", b"1")])
    message = replace(message, value=b"x" * size_bytes)
    return message, replace(dead, envelope=message.envelope)


ROWS = (
    "SELECT event_id, aggregate_version, length(payload), kafka_position, error, attempts"
    " FROM outbox_dead_letters WHERE stage = 'milvus' AND aggregate_id = 'd1' AND state = 'open' ORDER BY id"
)


def test_letter_in_the_topic_has_a_row_that_names_its_place(servers: Servers, names: Names, mysql: Engine) -> None:
    topic = names.dead_letters_topic(MILVUS)
    dead_letters = KafkaDeadLetters(kafka.properties(servers), topic, mysql, MILVUS)
    for _ in range(2):  # a batch that is applied again
        dead_letters.send([sized_letter(number, 10) for number in range(2)])
    assert len(kafka.topic(servers, topic)) == 4
    assert written.rows(mysql, ROWS) == [
        ("event-0", 1, None, f"{topic}/0/2", "reason 0", 2),
        ("event-1", 1, None, f"{topic}/0/3", "reason 1", 2),
    ]
    [(headers,), _] = written.rows(mysql, "SELECT headers FROM outbox_dead_letters ORDER BY id")
    assert json.loads(headers) == {"ce_id": "event-0", "ce_sequence": "1", "dead_letter_origin": "topic/3/0"}


def test_letter_too_large_for_kafka_keeps_the_newest_payload_in_its_row(
    servers: Servers, names: Names, mysql: Engine
) -> None:
    topic = names.dead_letters_topic(MILVUS)
    limit_message_bytes(servers, topic, 10_000)
    dead_letters = KafkaDeadLetters(kafka.properties(servers), topic, mysql, MILVUS)
    sizes = [10, 20_000, 20, 2_000_000, 30]  # the fourth is too large for the client, too
    for _ in range(2):  # a batch that is applied again
        dead_letters.send([sized_letter(number, size) for number, size in enumerate(sizes)])
    dead_letters.send([sized_letter(1, 30_000)])  # another event with the same id

    assert [len(one.value) for one in kafka.topic(servers, topic)] == [10, 20, 30] * 2
    assert written.rows(mysql, ROWS) == [
        ("event-0", 1, None, f"{topic}/0/3", "reason 0", 2),
        ("event-1", 1, 30_000, None, "reason 1", 3),
        ("event-2", 1, None, f"{topic}/0/4", "reason 2", 2),
        ("event-3", 1, 2_000_000, None, "reason 3", 2),
        ("event-4", 1, None, f"{topic}/0/5", "reason 4", 2),
    ]


def test_event_with_impossible_headers_gets_a_row(servers: Servers, names: Names, mysql: Engine) -> None:
    """No id, the highest number that a header may have, and a key that no document has."""
    headers: Headers = [("ce_sequence", b"9" * 19), ("ce_type", b"t" * 200), ("content-type", b"\xff" * 100)]
    message = Message((names.documents_topic, 3), 7, b"\xff" * 100, None, headers)
    dead = DeadLetter(MILVUS, message.envelope, "x" * 100_000)
    KafkaDeadLetters(kafka.properties(servers), names.dead_letters_topic(MILVUS), mysql, MILVUS).send([(message, dead)])
    [(event_id, version)] = written.rows(mysql, "SELECT event_id, aggregate_version FROM outbox_dead_letters")
    assert event_id == message.origin[-36:]
    assert version == 2**63 - 1


def test_open_letters_are_counted_for_one_hour(servers: Servers, names: Names, mysql: Engine) -> None:
    topic = names.dead_letters_topic(MILVUS)
    first, second = (KafkaDeadLetters(kafka.properties(servers), topic, mysql, MILVUS) for _ in range(2))
    first.send([sized_letter(number, 10) for number in range(4)])
    assert second.count_stored() == 4
    with mysql.begin() as connection:
        connection.execute(text("UPDATE outbox_dead_letters SET dead_at = dead_at - INTERVAL 61 MINUTE LIMIT 1"))
        discarded = "UPDATE outbox_dead_letters SET state = 'discarded', closed_at = dead_at WHERE event_id = 'event-3'"
        connection.execute(text(discarded))
    assert second.count_stored() == 2


def test_deleted_topic_is_named_once_a_minute_and_heals_after_init(
    servers: Servers,
    names: Names,
    pipeline: Pipeline,
    mysql: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The documents of the partition wait; no offset is committed."""
    monkeypatch.setattr(dead_letters_module, "_FLUSH_SECONDS", 1.0)
    topic = names.dead_letters_topic(MINIO)
    admin = AdminClient({"bootstrap.servers": servers.kafka})
    admin.delete_topics([topic])[topic].result(30)
    wait_for(lambda: topic not in admin.list_topics(timeout=30).topics, "the topic to be gone")
    producer = Producer({"bootstrap.servers": servers.kafka})
    for number in range(3):
        producer.produce(
            names.documents_topic, key=b"d", value=b"x", headers=[("ce_id", b"e%d" % number), ("ce_sequence", b"1")]
        )
    assert producer.flush(30) == 0
    attempts: list[None] = []
    real = KafkaDeadLetters.send

    def send(self: KafkaDeadLetters, letters: Any) -> None:
        attempts.append(None)
        real(self, letters)

    monkeypatch.setattr(KafkaDeadLetters, "send", send)
    with kafka.consuming(mysql, pipeline.minio_sink, servers, names):
        wait_for(lambda: len(attempts) >= 3, "several attempts")
        assert caplog.text.count("dead_letters_wait sink=minio letters=") == 1
        assert f"there is no topic {topic}: run rag-outbox init" in caplog.text
        assert "dead_letter stage=minio" not in caplog.text
        assert written.rows(mysql, "SELECT * FROM outbox_dead_letters") == []
        kafka.create_topics(servers, names)
        wait_for(lambda: lag(servers, names) == 0, "the offsets to be committed")
    assert len(kafka.topic(servers, topic)) >= 3
    assert written.rows(mysql, "SELECT count(*) FROM outbox_dead_letters") == [(3,)]


def test_dead_letter_that_kafka_refuses_is_retryable(
    servers: Servers, names: Names, mysql: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The topic refuses a letter for a reason that is not its size: `flush` succeeds, the delivery failed."""
    topic = names.dead_letters_topic(MILVUS)
    client = {**kafka.properties(servers), "message.timeout.ms": 1_000}
    dead_letters = KafkaDeadLetters(client, "no topic has this name", mysql, MILVUS)
    with pytest.raises(Retryable, match="Kafka does not take the dead letters"):
        dead_letters.send([sized_letter(1, 10)])
    monkeypatch.setattr(dead_letters, "_topic", topic)
    monkeypatch.setattr(dead_letters, "_kafka", kafka.properties(servers))  # a busy broker may take a second
    dead_letters.send([sized_letter(1, 10)])
    assert len(kafka.topic(servers, topic)) == 1


def test_dead_letters_without_a_broker_are_retryable(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters_module, "_FLUSH_SECONDS", 0.2)
    unreachable = KafkaDeadLetters({"bootstrap.servers": "127.0.0.1:1", "log_level": 0}, "topic", engine, MILVUS)
    for _ in range(2):
        with pytest.raises(Retryable, match="Kafka does not take the dead letters"):
            unreachable.send([letter(1)])
