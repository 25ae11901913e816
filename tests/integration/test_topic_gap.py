"""A consumer that was away longer than the topic's retention: the documents of its lanes are refilled."""

import pytest
from sqlalchemy import Engine

from consumers.dead_letters import KafkaDeadLetters
from consumers.kafka import KafkaConsumer
from consumers.kafka_subscription import KafkaSubscription
from consumers.refill import mark_all_absent
from schema.kafka.names import Names
from schema.sinks import MILVUS
from tests.support import kafka
from tests.support.pipeline import Pipeline, applier, document
from tests.support.refill import refill_of
from tests.support.servers import Servers
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration


@pytest.fixture
def engine(mysql: Engine) -> Engine:
    return mysql


def test_documents_whose_events_the_topic_lost_are_refilled(
    servers: Servers, pipeline: Pipeline, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.upsert(*(document(f"d{number}", "one") for number in range(20)))
    with kafka.relaying(pipeline.engine, servers, names):
        with kafka.consuming(pipeline.engine, pipeline.minio_sink, servers, names):
            applied = "SELECT count(*) FROM sink_states WHERE sink = 'minio' AND state = 'applied'"
            wait_for(lambda: pipeline.sql(applied) == [(20,)], "the object store to hold everything")
        kafka.remove_all(servers, names.documents_topic)  # Milvus has read none of it
        pipeline.upsert(document("d3", "three"))
        kafka.wait_until_empty(pipeline.engine)

    properties = kafka.properties(servers)

    def mark_gap(lanes: object) -> None:
        assert isinstance(lanes, list)
        mark_all_absent(pipeline.engine, MILVUS, "the topic lost events", lanes)

    consumer = KafkaConsumer(
        applier(pipeline.engine, pipeline.milvus_sink),
        KafkaSubscription(properties, names, MILVUS, on_gap=mark_gap),
        KafkaDeadLetters(properties, names.dead_letters_topic(MILVUS), pipeline.engine, MILVUS),
        refill=refill_of(pipeline, pipeline.milvus_sink),
    )
    with (
        kafka.running(consumer.run),
        kafka.consuming(pipeline.engine, pipeline.minio_sink, servers, names),
    ):
        left = "SELECT count(*) FROM documents WHERE status <> 'completed'"
        wait_for(lambda: pipeline.sql(left) == [(0,)], "every document to be completed")
    pipeline.assert_in_step()
    assert f"topic_gap topic={names.documents_topic} partition=" in caplog.text
