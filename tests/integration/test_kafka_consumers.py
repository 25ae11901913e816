"""The consumer loop on real servers: writer, relay and consumers, each in a thread, over MySQL and Kafka."""

import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count

import pytest
from confluent_kafka import Consumer
from sqlalchemy import Engine, text

from consumers import background
from consumers.milvus.sink import MilvusSink
from consumers.sink import Change
from schema.failures import Retryable
from schema.kafka.clients import Membership
from schema.kafka.names import Names
from tests.support import kafka
from tests.support.pipeline import Pipeline, document
from tests.support.servers import Servers
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration


@pytest.fixture
def engine(mysql: Engine) -> Engine:
    """The fixture `pipeline` on MySQL."""
    return mysql


def wait_until_completed(engine: Engine) -> None:
    def behind() -> int:
        with engine.connect() as connection:
            return int(
                connection.execute(text("SELECT COUNT(*) FROM documents WHERE status <> 'completed'")).scalar_one()
            )

    wait_for(lambda: behind() == 0, "every document to be completed")


class Counting:
    """The real sink; counts how often each version of each document was applied."""

    name = "milvus"
    takes_vectors, takes_files = True, False

    def __init__(self, sink: MilvusSink) -> None:
        self._sink = sink
        self.applied: Counter[tuple[str, int]] = Counter()
        self.create, self.ensure, self.close = sink.create, sink.ensure, sink.close

    def apply(self, changes: Sequence[Change]) -> None:
        self.applied.update((change.doc_id, change.version) for change in changes)
        self._sink.apply(changes)


def test_documents_reach_both_stores_once_while_consumers_join_and_leave(
    servers: Servers, pipeline: Pipeline, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_PATIENCE_SECONDS", 0.0)  # every batch pauses its partitions
    milvus_sink = Counting(pipeline.milvus_sink)
    with ExitStack() as stack:
        stack.enter_context(kafka.relaying(pipeline.engine, servers, names))
        for sink in (milvus_sink, pipeline.minio_sink):
            stack.enter_context(kafka.consuming(pipeline.engine, sink, servers, names))
        pipeline.upsert(*(document(f"d{n}", "one", f"two {n}", file=b"first") for n in range(200)))
        for turn in range(4):
            with (
                kafka.consuming(pipeline.engine, milvus_sink, servers, names),
                kafka.consuming(pipeline.engine, pipeline.minio_sink, servers, names),
            ):
                for n in range(turn, 200, 2):
                    pipeline.upsert(document(f"d{n}", "one", f"three {n} {turn}", file=b"second"))
        wait_until_completed(pipeline.engine)
        pipeline.delete(*(f"d{n}" for n in range(0, 200, 5)))
        pipeline.upsert(document("d0", "back again"), document("d1", "one", business_tag="new"))
        wait_until_completed(pipeline.engine)

    pipeline.assert_in_step()
    assert {one: count for one, count in milvus_sink.applied.items() if count > 1} == {}


def test_replacing_kafka_clients_at_work_loses_nothing(
    servers: Servers, pipeline: Pipeline, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = count(1)
    replaced: list[Consumer] = []

    def must_recreate(_membership: Membership, consumer: Consumer) -> bool:
        """Three times, for a relay or a consumer that is a member."""
        if next(asked) % 40 or len(replaced) == 3 or not consumer.memberid():
            return False
        replaced.append(consumer)
        return True

    monkeypatch.setattr(Membership, "must_recreate", must_recreate)
    versions = dict.fromkeys((f"d{n}" for n in range(20)), 0)
    with (
        kafka.relaying(pipeline.engine, servers, names),
        kafka.consuming(pipeline.engine, pipeline.milvus_sink, servers, names),
        kafka.consuming(pipeline.engine, pipeline.minio_sink, servers, names),
    ):
        while len(replaced) < 3 or min(versions.values()) < 3:
            for doc_id in versions:
                versions[doc_id] += 1
                pipeline.upsert(document(doc_id, "one", f"version {versions[doc_id]}"))
        wait_until_completed(pipeline.engine)

    pipeline.assert_in_step()
    kafka.assert_exactly_once_and_in_order(kafka.topic(servers, names.documents_topic), versions)


class Failing:
    """The real sink; fails while `down` is set."""

    name = "milvus"
    takes_vectors, takes_files = True, False

    def __init__(self, sink: MilvusSink) -> None:
        self._sink = sink
        self.down = threading.Event()
        self.refusals = 0
        self.create, self.ensure, self.close = sink.create, sink.ensure, sink.close

    def apply(self, changes: Sequence[Change]) -> None:
        if self.down.is_set():
            self.refusals += 1
            raise Retryable("the sink is down")
        self._sink.apply(changes)


def test_consumer_keeps_its_partitions_while_its_sink_is_down(
    servers: Servers, pipeline: Pipeline, names: Names
) -> None:
    sink = Failing(pipeline.milvus_sink)
    sink.down.set()
    pipeline.upsert(*(document(f"d{n}", "one") for n in range(20)))
    with (
        kafka.relaying(pipeline.engine, servers, names),
        kafka.consuming(pipeline.engine, sink, servers, names),
        kafka.consuming(pipeline.engine, pipeline.minio_sink, servers, names),
    ):
        wait_for(lambda: sink.refusals >= 3, "three attempts")
        assert pipeline.milvus_rows() == {}
        assert {row.milvus_synced for row in pipeline.sql("SELECT milvus_synced FROM chunks")} == {0}
        sink.down.clear()
        wait_until_completed(pipeline.engine)
    pipeline.assert_in_step()


def test_invariant_8_batch_without_marks_is_not_committed(servers: Servers, pipeline: Pipeline, names: Names) -> None:
    sink = Failing(pipeline.milvus_sink)
    sink.down.set()
    pipeline.upsert(*(document(f"d{n}", "one") for n in range(20)))
    with kafka.relaying(pipeline.engine, servers, names), kafka.consuming(pipeline.engine, sink, servers, names):
        wait_for(lambda: sink.refusals >= 1, "an attempt")
    with (
        kafka.consuming(pipeline.engine, pipeline.milvus_sink, servers, names),
        kafka.consuming(pipeline.engine, pipeline.minio_sink, servers, names),
    ):
        wait_until_completed(pipeline.engine)
    pipeline.assert_in_step()


def test_invariant_11_refused_event_is_stored_unchanged_in_the_dead_letter_topic(
    servers: Servers, pipeline: Pipeline, names: Names
) -> None:
    pipeline.upsert(*(document(f"d{n}", "one") for n in range(10)))
    with pipeline.engine.begin() as connection:
        connection.execute(text("UPDATE outbox SET payload = 'broken' WHERE aggregate_id = 'd3'"))
    with (
        kafka.relaying(pipeline.engine, servers, names),
        kafka.consuming(pipeline.engine, pipeline.milvus_sink, servers, names),
        kafka.consuming(pipeline.engine, pipeline.minio_sink, servers, names),
    ):
        wait_for(
            lambda: len(pipeline.sql("SELECT 1 FROM sink_states WHERE state = 'failed'")) == 2, "both to refuse it"
        )
        pipeline.upsert(document("d3", "two"))
        wait_until_completed(pipeline.engine)

    letters = pipeline.sql("SELECT stage, aggregate_id, payload FROM outbox_dead_letters ORDER BY stage")
    assert letters == [("milvus", "d3", None), ("minio", "d3", None)]
    pipeline.execute("DELETE FROM outbox_dead_letters")
    pipeline.assert_in_step()
    [letter] = kafka.topic(servers, names.dead_letters_topic("milvus"))
    assert (letter.doc_id, letter.version, letter.value) == ("d3", 1, b"broken")
    assert letter.headers["ce_type"] == "rag.document.upserted.v1"
    assert letter.headers["dead_letter_stage"] == "milvus"
    assert letter.headers["dead_letter_reason"] == "rag.document.upserted.v1: Expected `object`, got `int`"  # b is 98
    assert letter.headers["dead_letter_origin"].startswith(names.documents_topic)
