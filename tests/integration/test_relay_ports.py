"""The outbox in MySQL and SQLite, and Kafka, keep the contracts that a relay relies on."""

import pytest
from sqlalchemy import Engine, text

from relays.lanes import KafkaLanes
from relays.outbox import SqlOutbox
from relays.ports import Lanes, Publisher
from relays.publisher import KafkaPublisher
from schema.kafka.names import Names
from tests.contracts.outbox import Append, DeadLetters, EmbeddedOutboxContract, OutboxContract
from tests.contracts.relay_kafka import RelayKafkaContract
from tests.support import kafka as real
from tests.support.servers import Servers

pytestmark = pytest.mark.integration

INSERT = text(
    "INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, payload)"
    " VALUES (:event_id, :doc_id, :version, 'type', 'content/type', :payload)"
)
DEAD_LETTERS = text("SELECT aggregate_id, aggregate_version, payload, error FROM outbox_dead_letters ORDER BY event_id")


class SqlOutboxFixtures:
    @pytest.fixture
    def outbox(self, database: Engine) -> SqlOutbox:
        return SqlOutbox(database)

    @pytest.fixture
    def append(self, database: Engine) -> Append:
        def insert(doc_id: str, version: int, payload: bytes) -> None:
            with database.begin() as connection:
                row = {"doc_id": doc_id, "version": version, "payload": payload, "event_id": f"{doc_id}-{version}"}
                connection.execute(INSERT, row)

        return insert

    @pytest.fixture
    def dead_letters(self, database: Engine) -> DeadLetters:
        def read() -> list[tuple[str, int, bytes, str]]:
            with database.connect() as connection:
                return [(row[0], row[1], row[2], row[3]) for row in connection.execute(DEAD_LETTERS)]

        return read


class TestMySqlOutbox(SqlOutboxFixtures, OutboxContract):
    @pytest.fixture
    def database(self, mysql: Engine) -> Engine:
        return mysql


class TestSqliteOutbox(SqlOutboxFixtures, EmbeddedOutboxContract):
    @pytest.fixture
    def database(self, engine: Engine) -> Engine:
        return engine


class RealKafka:
    def __init__(self, servers: Servers, names: Names) -> None:
        self._servers = servers
        self._names = names

    def lanes(self) -> Lanes:
        return KafkaLanes(self._names, real.properties(self._servers))

    def publisher(self) -> Publisher:
        return KafkaPublisher(self._names, real.properties(self._servers))

    def read_event_ids(self) -> list[str]:
        return [one.event_id for one in real.topic(self._servers, self._names.documents_topic)]


class TestKafka(RelayKafkaContract):
    @pytest.fixture
    def kafka(self, servers: Servers, names: Names) -> RealKafka:
        return RealKafka(servers, names)
