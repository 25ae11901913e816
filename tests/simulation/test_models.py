"""The models of the simulation keep the contracts of what they stand for."""

from random import Random

import pytest
from sqlalchemy import text

from tests.contracts.object_store import ObjectStoreContract
from tests.contracts.outbox import Append, DeadLetters, FailOver, OutboxContract
from tests.simulation.database import Database, RelayOutbox
from tests.simulation.scheduler import Scheduler
from tests.support.memory_object_store import MemoryObjectStore

pytestmark = pytest.mark.simulation

INSERT = text(
    "INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, payload)"
    " VALUES (:event_id, :doc_id, :version, 'type', 'content/type', :payload)"
)


class TestMemoryObjectStore(ObjectStoreContract):
    @pytest.fixture
    def store(self) -> MemoryObjectStore:
        return MemoryObjectStore()


class TestRelayOutbox(OutboxContract):
    @pytest.fixture
    def database(self) -> Database:
        return Database(Scheduler(Random(0)))

    @pytest.fixture
    def outbox(self, database: Database) -> RelayOutbox:
        return RelayOutbox(database)

    @pytest.fixture
    def append(self, database: Database) -> Append:
        def insert(doc_id: str, version: int, payload: bytes) -> None:
            row = {"doc_id": doc_id, "version": version, "payload": payload, "event_id": f"{doc_id}-{version}"}
            with database.engine.begin() as connection:
                connection.execute(INSERT, row)

        return insert

    @pytest.fixture
    def fail_over(self, database: Database) -> FailOver:
        def replace() -> None:
            with database.engine.begin() as connection:
                connection.execute(text("UPDATE system_identity SET history_id = 'another'"))
                connection.execute(text("DELETE FROM outbox"))
                connection.execute(text("DELETE FROM sqlite_sequence WHERE name = 'outbox'"))

        return replace

    @pytest.fixture
    def dead_letters(self, database: Database) -> DeadLetters:
        return lambda: [
            (row[0], row[1], row[2], row[3])
            for row in database.rows("SELECT aggregate_id, aggregate_version, payload, error FROM outbox_dead_letters")
        ]
