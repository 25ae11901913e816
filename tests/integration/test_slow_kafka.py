"""A Kafka that takes few bytes per second, as under a quota: batches become smaller until they are committed."""

import pytest
from sqlalchemy import Engine, text

from relays.kafka import kafka_relay
from schema.database.tables import LANES
from schema.kafka.names import Names
from tests.support import kafka
from tests.support.kafka_forwarder import KafkaForwarder
from tests.support.servers import Servers

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

EVENTS = 40
EVENT_BYTES = 250_000
INSERT = text(
    "INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, payload)"
    " VALUES (:event_id, :doc_id, 1, 'rag.document.upserted.v1', 'application/msgpack', :payload)"
)


def test_batch_that_a_slow_kafka_never_takes_is_made_smaller(servers: Servers, names: Names, mysql: Engine) -> None:
    """10 MB at 1.5 MB/s need 7 seconds; a transaction may take 3."""
    with mysql.begin() as connection:
        for number in range(EVENTS):
            payload = connection.execute(text("SELECT random_bytes(1000)")).scalar_one() * (EVENT_BYTES // 1000)
            connection.execute(INSERT, {"event_id": f"e{number}", "doc_id": f"d{number}", "payload": payload})
    with KafkaForwarder.before(servers.kafka) as forwarder:
        forwarder.bytes_per_second = 1.5e6
        properties = {
            "bootstrap.servers": forwarder.servers,
            "session.timeout.ms": kafka.SESSION_MILLISECONDS,
            "transaction.timeout.ms": 3_000,
            "compression.type": "none",
        }
        relay = kafka_relay(mysql, names, properties, lanes=LANES)
        with kafka.running(relay.run):
            kafka.wait_until_empty(mysql, timeout_seconds=120)
    seen = kafka.topic(servers, names.documents_topic)
    assert sorted(one.doc_id for one in seen) == sorted(f"d{number}" for number in range(EVENTS))
