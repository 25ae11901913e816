"""The relay to Kafka on real servers: in order, lossless, exactly once."""

import base64
import random
import threading
import time
from collections.abc import Callable
from typing import Any
from zlib import crc32

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # no __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)
from confluent_kafka.cimpl import NewTopic
from sqlalchemy import Engine, text

from producer import Writer
from relays import claim, publisher
from relays.outbox import SqlOutbox
from relays.ports import OutboxRow
from relays.settle import Settler
from schema.database.connection import connect
from schema.database.tables import LANES
from schema.events.events import Envelope, decode
from schema.kafka import topics
from schema.kafka.names import Names
from tests.support import kafka
from tests.support.pipeline import MODEL, SYSTEM_ID, document
from tests.support.servers import Servers
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration


def write(engine: Engine, doc_id: str, content: str) -> None:
    with engine.begin() as connection:
        Writer(MODEL).upsert(connection, document(doc_id, content))


def test_invariant_3_ordered_and_5_exactly_once_with_two_relays_and_four_writers(
    servers: Servers, mysql: Engine, names: Names
) -> None:
    def write_some(writer: int) -> None:
        for version in range(10):
            for number in range(10):
                write(mysql, f"d{writer}-{number}", f"text {version}")

    writers = [threading.Thread(target=write_some, args=(writer,)) for writer in range(4)]
    with kafka.relaying(mysql, servers, names), kafka.relaying(mysql, servers, names):
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        kafka.wait_until_empty(mysql)

    seen = kafka.topic(servers, names.documents_topic)
    kafka.assert_exactly_once_and_in_order(seen, {f"d{w}-{n}": 10 for w in range(4) for n in range(10)})


def test_message_is_a_cloud_event_keyed_by_document(servers: Servers, mysql: Engine, names: Names) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with mysql.begin() as connection:
        Writer(MODEL).upsert(connection, document("d", "one"), headers={"traceparent": parent})

    with kafka.relaying(mysql, servers, names):
        kafka.wait_until_empty(mysql)

    [one] = kafka.topic(servers, names.documents_topic)
    assert (one.doc_id, one.partition) == ("d", crc32(b"d") % LANES)
    time = one.headers.pop("ce_time")
    assert time.endswith("+00:00")
    assert one.headers == {
        "ce_specversion": "1.0",
        "ce_id": one.event_id,
        "ce_source": f"rag-outbox/{SYSTEM_ID}",
        "ce_type": "rag.document.upserted.v1",
        "ce_subject": "d",
        "ce_sequence": "1",
        "content-type": "application/msgpack",
        "traceparent": parent,
    }
    event = decode(Envelope(one.event_id, "rag.document.upserted.v1", "d", 1, "application/msgpack", one.value))
    assert [chunk.content for chunk in event.chunks] == ["one"]  # type: ignore[union-attr]


def test_invariant_4_lossless_when_a_lower_id_commits_late(servers: Servers, mysql: Engine, names: Names) -> None:
    late, rolled_back = mysql.connect(), mysql.connect()
    late_transaction, lost_transaction = late.begin(), rolled_back.begin()
    Writer(MODEL).upsert(late, document("late", "one"))
    Writer(MODEL).upsert(rolled_back, document("lost", "one"))
    with kafka.relaying(mysql, servers, names):
        write(mysql, "early", "one")  # a higher id, committed first
        kafka.wait_until_empty(mysql)
        late_transaction.commit()
        lost_transaction.rollback()
        kafka.wait_until_empty(mysql)
    late.close()
    rolled_back.close()

    assert sorted(one.doc_id for one in kafka.topic(servers, names.documents_topic)) == ["early", "late"]


def test_invariant_5_crash_between_commit_and_settle_publishes_nothing_twice(
    servers: Servers, mysql: Engine, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(100):
        write(mysql, f"d{number}", "one")
    published = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(Settler, "start", lambda *_: published.set())
        patch.setattr(SqlOutbox, "claim_lanes", claim_once(SqlOutbox.claim_lanes))
        with kafka.relaying(mysql, servers, names):
            assert published.wait(60)
    assert kafka.pending(mysql) == 100

    with kafka.relaying(mysql, servers, names):
        kafka.wait_until_empty(mysql)

    kafka.assert_exactly_once_and_in_order(
        kafka.topic(servers, names.documents_topic), {f"d{number}": 1 for number in range(100)}
    )


Claim = Callable[..., list[OutboxRow]]


def claim_once(real: Claim) -> Claim:
    """Only the first claim that finds rows returns any: the process would be dead after it."""
    found: list[OutboxRow] = []

    def wrapper(*arguments: Any) -> list[OutboxRow]:
        rows = [] if found else real(*arguments)
        found.extend(rows)
        return rows

    return wrapper


def test_kafka_accepts_the_largest_offset_metadata(
    servers: Servers, mysql: Engine, names: Names, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(claim, "_ROWS_PER_LANE", 1_000)
    columns = "event_id, aggregate_id, aggregate_version, event_type, content_type, payload"
    rows = [(f"event-{version}", "d", version, "type", "content/type", b"") for version in range(1, 1_001)]
    with mysql.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO outbox ({columns}) VALUES (%s, %s, %s, %s, %s, %s)", rows)

    with kafka.relaying(mysql, servers, names):
        kafka.wait_until_empty(mysql)

    assert [one.version for one in kafka.topic(servers, names.documents_topic)] == list(range(1, 1_001))
    assert "batch_undone" not in caplog.text


def test_invariant_11_refused_event_becomes_a_dead_letter(servers: Servers, mysql: Engine, names: Names) -> None:
    for number in range(20):
        write(mysql, f"d{number}", "one")
    with mysql.begin() as connection:
        connection.execute(text("UPDATE outbox SET payload = REPEAT('x', 3000000) WHERE aggregate_id = 'd7'"))

    with kafka.relaying(mysql, servers, names):
        kafka.wait_until_empty(mysql)
        write(mysql, "d7", "two")
        kafka.wait_until_empty(mysql)

    seen = kafka.topic(servers, names.documents_topic)
    assert {one.doc_id: one.version for one in seen} == {f"d{n}": 1 for n in range(20)} | {"d7": 2}
    with mysql.connect() as connection:
        letter = connection.execute(text("SELECT * FROM outbox_dead_letters")).one()
    assert (letter.stage, letter.aggregate_id, letter.aggregate_version) == ("relay", "d7", 1)
    assert "size" in letter.error.lower()


def test_lanes_are_shared_and_taken_over(servers: Servers, mysql: Engine, names: Names) -> None:
    with kafka.relaying(mysql, servers, names) as first:
        wait_for(lambda: len(first._lanes.owned) == LANES, "all lanes")
        with kafka.relaying(mysql, servers, names) as second:
            wait_for(lambda: len(first._lanes.owned) == len(second._lanes.owned) == LANES // 2, "half of the lanes")
            assert first._lanes.owned.isdisjoint(second._lanes.owned)
        wait_for(lambda: len(first._lanes.owned) == LANES, "all lanes again")
        for number in range(50):
            write(mysql, f"d{number}", "one")
        kafka.wait_until_empty(mysql)
    assert len(kafka.topic(servers, names.documents_topic)) == 50


def test_init_names_the_topic_that_differs(servers: Servers, names: Names) -> None:
    properties = {"bootstrap.servers": servers.kafka}
    assert topics.ensure(properties, names, LANES) == []

    other = Names(f"{names.namespace}-x", names.system_id)
    admin = AdminClient({"bootstrap.servers": servers.kafka})
    new = [
        NewTopic(other.documents_topic, num_partitions=16, replication_factor=1, config={"retention.ms": "1000"}),
        NewTopic(other.lanes_topic, num_partitions=3, replication_factor=1),
    ]
    for future in admin.create_topics(new).values():
        future.result()

    with pytest.raises(topics.TopicDiffers, match=rf"topic {other.lanes_topic} has 3 partitions, and must have 16"):
        topics.ensure(properties, other, LANES)
    with pytest.raises(topics.TopicDiffers, match=rf"topic {other.documents_topic} has 16 partitions, and must have 8"):
        topics.ensure(properties, other, 8)


def test_init_refuses_a_topic_that_takes_no_message(servers: Servers) -> None:
    names = servers.names()
    admin = AdminClient({"bootstrap.servers": servers.kafka})
    new = NewTopic(names.lanes_topic, 16, replication_factor=1, config={"min.insync.replicas": "2"})
    admin.create_topics([new])[names.lanes_topic].result()
    with pytest.raises(topics.TopicDiffers, match=r"min\.insync\.replicas=2 and only 1 replicas: it takes no message"):
        topics.ensure({"bootstrap.servers": servers.kafka}, names, LANES)


def test_topic_with_min_insync_replicas_1_is_noted() -> None:
    [line] = topics.judge_replicas("t", replicas=3, in_sync=1)
    assert line == "topic t has min.insync.replicas=1: the loss of one broker may lose events; set it to 2"
    assert topics.judge_replicas("t", replicas=3, in_sync=2) == topics.judge_replicas("t", 1, 1) == []


def test_required_topics_are_named_when_missing_or_different(
    servers: Servers, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    properties = {"bootstrap.servers": servers.kafka}
    required = topics.RequiredTopics(properties, [names.documents_topic, names.lanes_topic], LANES)
    required.require()
    required.check()
    with pytest.raises(topics.TopicDiffers, match=f"{names.documents_topic} has 16 partitions, and must have 8"):
        topics.RequiredTopics(properties, [names.documents_topic], 8).require()

    admin = AdminClient({"bootstrap.servers": servers.kafka})
    admin.delete_topics([names.lanes_topic])[names.lanes_topic].result()
    gone = f"there is no topic {names.lanes_topic}: run rag-outbox init"
    with pytest.raises(topics.TopicDiffers, match=gone):
        wait_for(required.check, "the broker to forget the topic")
    with pytest.raises(topics.TopicDiffers, match=gone):
        required.check()
    assert [record.getMessage() for record in caplog.records if gone in record.getMessage()] == [
        f"topic_unusable reason={gone}"
    ]
    assert names.lanes_topic not in admin.list_topics(timeout=30).topics, "the check created it"


def test_process_starts_while_no_broker_answers() -> None:
    topics.RequiredTopics({"bootstrap.servers": "127.0.0.1:1"}, ["t"], LANES).require()


def test_init_creates_a_topic_of_dead_letters_for_each_sink(servers: Servers) -> None:
    names = servers.names()
    assert topics.ensure({"bootstrap.servers": servers.kafka}, names, LANES, ["fulltext", "milvus"]) == []
    found = AdminClient({"bootstrap.servers": servers.kafka}).list_topics(timeout=30).topics
    made = {name for name in found if name.startswith(names.dead_letters_topic(""))}
    assert made == {names.dead_letters_topic("fulltext"), names.dead_letters_topic("milvus")}


def test_init_refuses_a_limit_below_the_largest_event(servers: Servers) -> None:
    names = servers.names()
    admin = AdminClient({"bootstrap.servers": servers.kafka})
    config = {"max.message.bytes": "589823"}  # 512 KiB for the event, 64 KiB for its headers
    topic = NewTopic(names.documents_topic, num_partitions=16, replication_factor=1, config=config)
    admin.create_topics([topic])[names.documents_topic].result()
    with pytest.raises(topics.TopicDiffers, match=r"max\.message\.bytes=589823, and must have at least 589824"):
        topics.ensure({"bootstrap.servers": servers.kafka}, names, LANES)


def test_relay_reconnects_to_the_database(servers: Servers, mysql: Engine, names: Names) -> None:
    administrator = connect(servers.mysql_url)
    with kafka.relaying(mysql, servers, names):
        write(mysql, "a", "one")
        kafka.wait_until_empty(mysql)
        with administrator.begin() as connection:
            others = connection.execute(
                text("SELECT id FROM information_schema.processlist WHERE db = :db"), {"db": mysql.url.database}
            ).scalars()
            for process in others:
                connection.execute(text(f"KILL {process}"))
        write(mysql, "b", "one")
        kafka.wait_until_empty(mysql)
    administrator.dispose()
    assert {one.doc_id for one in kafka.topic(servers, names.documents_topic)} == {"a", "b"}


def test_event_above_a_lowered_limit_holds_up_no_other(servers: Servers, mysql: Engine, names: Names) -> None:
    configure(servers, names.documents_topic, "max.message.bytes", 520_000)
    with mysql.begin() as connection:  # in the middle, one document of two parts, of which the first is too large
        for number in range(20):
            if number == 10:
                words = (base64.b64encode(random.randbytes(48_750)).decode() for _ in range(10))  # lz4 gains nothing
                Writer(MODEL).upsert(connection, document("large", *words))
            Writer(MODEL).upsert(connection, document(f"d{number}", "one"))
        sizes = text("SELECT payload_bytes > 520000 FROM outbox WHERE aggregate_id = 'large' ORDER BY id")
        assert connection.execute(sizes).scalars().all() == [1, 0]

    with kafka.relaying(mysql, servers, names):
        kafka.wait_until_empty(mysql, timeout_seconds=20)  # on a slow machine

    published = {(one.doc_id, one.version) for one in kafka.topic(servers, names.documents_topic)}
    assert published >= {(f"d{number}", 1) for number in range(20)}
    with mysql.connect() as connection:
        letters = connection.execute(text("SELECT aggregate_id FROM outbox_dead_letters")).scalars().all()
    assert letters == ["large"]


def test_batch_stays_below_the_limit_of_the_topic(servers: Servers, mysql: Engine, names: Names) -> None:
    """Otherwise it would be refused and halved, again and again."""
    configure(servers, names.documents_topic, "max.message.bytes", 600_000)
    with mysql.begin() as connection:
        for number in range(100):
            content = base64.b64encode(random.randbytes(22_500)).decode()
            Writer(MODEL).upsert(connection, document(f"d{number % 4}", content))
    batches: list[int] = []
    with kafka.relaying(mysql, servers, names, report=lambda rows: batches.append(len(rows))):
        kafka.wait_until_empty(mysql)
    assert batches == [100]


def test_wrong_clock_makes_no_dead_letters(
    servers: Servers, mysql: Engine, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    before = "message.timestamp.before.max.ms"  # the broker refuses older timestamps, as if the relay's clock were slow
    configure(servers, names.documents_topic, before, 0)
    for number in range(5):
        write(mysql, f"d{number}", "one")
    with kafka.relaying(mysql, servers, names):
        wait_for(lambda: "batch_undone" in caplog.text, "the batch to be refused")
        configure(servers, names.documents_topic, before, 24 * 3_600_000)
        kafka.wait_until_empty(mysql)
    assert len(kafka.topic(servers, names.documents_topic)) == 5


def test_clock_that_is_ahead_makes_no_dead_letters(
    servers: Servers, mysql: Engine, names: Names, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker takes timestamps of up to one hour ahead; the relay's clock is two hours ahead."""
    configure(servers, names.documents_topic, "message.timestamp.after.max.ms", 3_600_000)
    ahead = threading.Event()

    class AheadProducer(Producer):
        def produce(self, topic: str, **given: Any) -> None:  # type: ignore[override]
            given["timestamp"] = int(1000 * (time.time() + 7_200)) if ahead.is_set() else 0  # 0: now
            super().produce(topic, **given)

    monkeypatch.setattr(publisher, "Producer", AheadProducer)
    ahead.set()
    for number in range(5):
        write(mysql, f"d{number}", "one")
    with kafka.relaying(mysql, servers, names):
        wait_for(lambda: caplog.text.count("batch_undone") >= 3, "the batch to be refused again and again")
        assert "imestamp" in caplog.text
        ahead.clear()
        kafka.wait_until_empty(mysql)
    assert len(kafka.topic(servers, names.documents_topic)) == 5
    with mysql.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM outbox_dead_letters")).scalar_one() == 0


def configure(servers: Servers, topic: str, name: str, value: int) -> None:
    entry = ConfigEntry(name, str(value), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": servers.kafka})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()
