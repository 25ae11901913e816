"""A MySQL replica that stops after the transaction that a test chooses.

Each transaction of a test gets a GTID that the test chooses, so that concurrent writes of other tests do not matter.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, make_url, text

from schema.database.connection import connect, reading
from tests.support.waiting import wait_for

_CATCH_UP_SECONDS = 120


class Replica:
    """`engine` reads from the replica, `primary` writes to the primary; both in the test's own database."""

    def __init__(self, primary: Engine, engine: Engine) -> None:
        self.primary = primary
        self.engine = engine
        self._source = str(uuid.uuid4())
        self._written = 0

    @classmethod
    @contextmanager
    def stopped(cls, primary: Engine, url: str) -> Iterator["Replica"]:
        """A replica that has caught up with the primary; within the context it applies only what the test lets it."""
        server = connect(url)
        _control(server, "START REPLICA SQL_THREAD")  # a killed test may have left it stopped
        with reading(primary) as connection:
            executed = connection.execute(text("SELECT @@GLOBAL.gtid_executed")).scalar_one()
        with reading(server) as connection:
            waited = text("SELECT WAIT_FOR_EXECUTED_GTID_SET(:gtids, :seconds)")
            late = connection.execute(waited, {"gtids": executed, "seconds": _CATCH_UP_SECONDS}).scalar_one()
            assert not late, f"the replica has not caught up in {_CATCH_UP_SECONDS} seconds"
        database = make_url(url).set(database=primary.url.database)
        engine = connect(database.render_as_string(hide_password=False))
        try:
            _control(server, "STOP REPLICA SQL_THREAD")
            yield cls(primary, engine)
        finally:
            _control(server, "START REPLICA SQL_THREAD")
            engine.dispose()
            server.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """The next transaction of this test on the primary; the first is number 1."""
        self._written += 1
        with self.primary.connect() as connection:
            connection.exec_driver_sql(f"SET gtid_next = '{self._source}:{self._written}'")
            try:
                yield connection
                connection.commit()
            finally:
                connection.rollback()
                connection.exec_driver_sql("SET gtid_next = 'AUTOMATIC'")

    def start_until(self, number: int) -> None:
        """Let the replica apply all transactions up to this one."""
        _control(self.engine, f"START REPLICA SQL_THREAD UNTIL SQL_AFTER_GTIDS = '{self._source}:1-{number}'")

    def apply_until(self, number: int) -> None:
        """Let the replica apply all transactions up to this one, and wait for it."""
        self.start_until(number)
        wait_for(lambda: not self.applies(), f"the replica to stop after transaction {number}")

    def applies(self) -> bool:
        """Whether the replica is applying transactions."""
        with reading(self.engine) as connection:
            status = connection.execute(text("SHOW REPLICA STATUS")).mappings().one()
        assert not status["Last_SQL_Error"], status["Last_SQL_Error"]
        return bool(status["Replica_SQL_Running"] != "No")


def _control(engine: Engine, statement: str) -> None:
    with reading(engine) as connection:
        connection.exec_driver_sql(statement)
