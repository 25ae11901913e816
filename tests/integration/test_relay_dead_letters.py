"""The relay's limit on dead letters is in the database: neither restarts nor other relays get past it."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource  # type: ignore[attr-defined]  # no __all__
from sqlalchemy import Engine, text

from producer import Writer
from schema.failures import TooManyDeadLetters
from schema.kafka.names import Names
from tests.support import kafka, written
from tests.support.pipeline import MODEL, document
from tests.support.servers import Servers
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration

LETTERS = "SELECT count(*) FROM outbox_dead_letters"
WAITING = "SELECT aggregate_id FROM outbox ORDER BY id"


@pytest.fixture
def relay_until_it_stops(servers: Servers, mysql: Engine, names: Names) -> Callable[[], None]:
    resource = ConfigResource(ConfigResource.Type.TOPIC, names.documents_topic)
    entry: Any = ConfigEntry("max.message.bytes", "100000", incremental_operation=AlterConfigOpType.SET)
    resource.add_incremental_config(entry)
    admin = AdminClient({"bootstrap.servers": servers.kafka})
    admin.incremental_alter_configs([resource])[resource].result(30)

    def run() -> None:
        stopped = r"^100 of the last 1000 events became dead letters; stopped$"
        with pytest.raises(TooManyDeadLetters, match=stopped), kafka.relaying(mysql, servers, names) as relay:
            wait_for(relay._stop.is_set, "the relay to stop")

    return run


def add_too_large(engine: Engine, *doc_ids: str) -> None:
    with engine.begin() as connection:
        for doc_id in doc_ids:
            connection.execute(
                text(
                    "INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, payload)"
                    " VALUES (UUID(), :doc_id, 1, 'rag.document.upserted.v1', 'application/json', :payload)"
                ),
                {"doc_id": doc_id, "payload": random.randbytes(150_000)},
            )


def add_letters(engine: Engine, count: int, minutes_ago: int) -> None:
    """What relays buried before."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO outbox_dead_letters (stage, outbox_id, event_id, aggregate_type, aggregate_id,"
                " aggregate_version, event_type, content_type, payload, error, attempts, dead_at)"
                f" VALUES ('relay', 1, UUID(), 'document', 'd', 1, 't', 'c', '', 'e', 1,"
                f" UTC_TIMESTAMP(6) - INTERVAL {minutes_ago} MINUTE)"
            ),
            [{}] * count,
        )


def test_restarted_relays_do_not_bury_the_outbox(
    servers: Servers, mysql: Engine, names: Names, relay_until_it_stops: Callable[[], None]
) -> None:
    add_letters(mysql, 99, minutes_ago=59)
    add_letters(mysql, 500, minutes_ago=61)  # these do not count
    add_too_large(mysql, "a", "b", "c")
    relay_until_it_stops()
    assert written.rows(mysql, LETTERS) == [(600,)]
    for _ in range(2):
        relay_until_it_stops()
    assert written.rows(mysql, LETTERS) == [(600,)]
    assert written.rows(mysql, WAITING) == [("b",), ("c",)]


def test_published_events_outweigh_the_letters_of_the_last_hour(servers: Servers, mysql: Engine, names: Names) -> None:
    add_letters(mysql, 150, minutes_ago=1)
    with kafka.relaying(mysql, servers, names):
        with mysql.begin() as connection:
            Writer(MODEL).upsert_many(connection, [document(f"d{number}", "one") for number in range(1_000)])
        kafka.wait_until_empty(mysql)
        add_too_large_for_any(mysql)
        kafka.wait_until_empty(mysql)
    assert written.rows(mysql, LETTERS) == [(151,)]


def add_too_large_for_any(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, payload)"
                " VALUES (UUID(), 'large', 1, 'rag.document.upserted.v1', 'application/json', :payload)"
            ),
            {"payload": random.randbytes(2_000_000)},
        )
