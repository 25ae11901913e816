"""A MySQL primary and its replica, of one test alone, behind one port: the replica can lose commits and be promoted."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, Engine, make_url, text

from schema.database.connection import connect
from tests.support import servers
from tests.support.switch import Switch

_CATCH_UP_SECONDS = 120


@dataclass(frozen=True)
class Pair:
    """`engine` follows the failover, as every client does; `primary` and `replica` do not."""

    engine: Engine
    primary: Engine
    replica: Engine
    _switch: Switch

    @classmethod
    @contextmanager
    def started(cls, folder: Path) -> Iterator["Pair"]:
        """New servers, with a new database that has all tables and an embedding model."""
        done = servers.native("up", "--only", "mysql,mysql-replica", "--data", folder)
        assert done.returncode == 0, done.stderr
        found = servers.parsed(done.stdout)
        primary, replica = (found[f"RAG_OUTBOX_{name}_URL"] for name in ("DATABASE", "TEST_REPLICA"))
        try:
            with servers.database(primary) as first, Switch.opened(first.url.port or 0) as switch:
                second = connect(_render(first.url.set(port=make_url(replica).port)))
                engine = connect(_render(first.url.set(port=switch.port)))
                yield cls(engine, first, second, switch)
                engine.dispose()
                second.dispose()
        finally:
            servers.native("stop", "--data", folder)

    def lose_commits(self) -> None:
        """Once the replica has everything, stop it: it gets no further commits."""
        with self.primary.connect() as connection:
            executed = connection.execute(text("SELECT @@GLOBAL.gtid_executed")).scalar_one()
        waited = text("SELECT WAIT_FOR_EXECUTED_GTID_SET(:gtids, :seconds)")
        with self.replica.connect() as connection:
            late = connection.execute(waited, {"gtids": executed, "seconds": _CATCH_UP_SECONDS}).scalar_one()
            assert not late, f"the replica has not caught up in {_CATCH_UP_SECONDS} seconds"
            connection.exec_driver_sql("STOP REPLICA IO_THREAD")

    def promote(self) -> None:
        """Make the replica a primary. Clients still reach the old one."""
        with self.replica.connect() as connection:
            for statement in (
                "STOP REPLICA",
                "RESET REPLICA ALL",
                "SET GLOBAL super_read_only = OFF",
                "SET GLOBAL read_only = OFF",
            ):
                connection.exec_driver_sql(statement)

    def switch(self) -> None:
        """Lead clients to the promoted replica; their connections to the old primary end."""
        self._switch.to(self.replica.url.port or 0)


def _render(url: URL) -> str:
    return url.render_as_string(hide_password=False)
