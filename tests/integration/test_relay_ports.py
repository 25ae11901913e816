"""The outbox in MySQL and SQLite, and Kafka, keep the contracts that a relay relies on."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from confluent_kafka import Producer, TopicPartition
from sqlalchemy import Engine, text

from relays.lanes import KafkaLanes
from relays.outbox import SqlOutbox
from relays.ports import Lanes, Publisher
from relays.publisher import KafkaPublisher
from schema.database import history
from schema.database.tables import LANES
from schema.kafka.names import Names
from tests.contracts.outbox import Append, DeadLetters, EmbeddedOutboxContract, FailOver, OutboxContract
from tests.contracts.relay_kafka import RelayKafkaContract
from tests.support import kafka as real
from tests.support import written
from tests.support.servers import Servers
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration

INSERT = text(
    "INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, payload)"
    " VALUES (:event_id, :doc_id, :version, 'type', 'content/type', :payload)"
)
DEAD_LETTERS = text("SELECT aggregate_id, aggregate_version, payload, error FROM outbox_dead_letters ORDER BY event_id")


REUSE_IDS = {
    "mysql": "ALTER TABLE outbox AUTO_INCREMENT = 1",
    "sqlite": "DELETE FROM sqlite_sequence WHERE name = 'outbox'",
}


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

    @pytest.fixture
    def fail_over(self, database: Engine) -> FailOver:
        def replace() -> None:
            with database.begin() as connection:
                connection.execute(text("UPDATE system_identity SET history_id = 'another'"))
                connection.execute(text("DELETE FROM outbox"))
                connection.execute(text(REUSE_IDS[database.dialect.name]))

        return replace


class TestMySqlOutbox(SqlOutboxFixtures, OutboxContract):
    @pytest.fixture
    def database(self, mysql: Engine) -> Engine:
        return mysql


def test_settle_waits_for_a_history_that_is_starting(mysql: Engine) -> None:
    """Otherwise its DELETE would wait for the new rows instead, and remove them."""
    outbox = SqlOutbox(mysql)
    row = {"doc_id": "d", "version": 1, "payload": b"", "event_id": "lost"}
    with mysql.begin() as connection:
        connection.execute(INSERT, row)
    [claimed] = outbox.claim_oldest(10, 1_000)
    with mysql.begin() as connection:  # as if a replica without this row were promoted
        connection.execute(text("DELETE FROM outbox"))
        connection.execute(text("ALTER TABLE outbox AUTO_INCREMENT = 1"))

    with ThreadPoolExecutor(1) as pool:
        with mysql.begin() as starting:
            before = history.read_identity(starting).history_id
            assert history.start_history(starting, "another server", instead_of=before)
            starting.execute(INSERT, row | {"event_id": "new"})
            settling = pool.submit(outbox.settle, [claimed])
            wait_for(lambda: waits_for_a_lock(mysql), "the settle to wait")
            assert not settling.done()
        settling.result()
    [new] = outbox.claim_oldest(10, 1_000)
    assert (new.id, new.envelope.event_id) == (claimed.id, "new")


def waits_for_a_lock(mysql: Engine) -> bool:
    waiting = "SELECT 1 FROM performance_schema.data_locks WHERE object_schema = DATABASE() AND lock_status = 'WAITING'"
    return bool(written.rows(mysql, waiting))


class TestSqliteOutbox(SqlOutboxFixtures, EmbeddedOutboxContract):
    @pytest.fixture
    def database(self, engine: Engine) -> Engine:
        return engine


def test_older_copy_starts_a_history_before_anything_is_relayed(engine: Engine) -> None:
    outbox = SqlOutbox(engine)
    outbox.start_history()
    outbox.note_relayed(5)  # by a relay on the newer file
    outbox.start_history()
    outbox.start_history()
    reasons = written.rows(engine, "SELECT reason FROM histories ORDER BY number")
    assert reasons == [("init",), ("an older copy of the file",)]


class RealKafka:
    def __init__(self, servers: Servers, names: Names) -> None:
        self._servers = servers
        self._names = names

    def lanes(self) -> Lanes:
        return KafkaLanes(self._names, real.properties(self._servers))

    def publisher(self) -> Publisher:
        return KafkaPublisher(self._names, real.properties(self._servers), LANES)

    def read_event_ids(self) -> list[str]:
        return [one.event_id for one in real.topic(self._servers, self._names.documents_topic)]

    @contextmanager
    def open_transaction(self, lane: int, member: Lanes) -> Iterator[None]:
        membership = member.membership()
        producer = Producer({"bootstrap.servers": self._servers.kafka, "transactional.id": uuid.uuid4().hex})
        producer.init_transactions()
        producer.begin_transaction()
        producer.produce(self._names.documents_topic, b"open", partition=lane)
        producer.flush()
        producer.send_offsets_to_transaction([TopicPartition(self._names.lanes_topic, lane, 100)], membership)
        yield
        producer.abort_transaction()


class TestKafka(RelayKafkaContract):
    @pytest.fixture
    def kafka(self, servers: Servers, names: Names) -> RealKafka:
        return RealKafka(servers, names)
