"""Real servers for the tests: those that RAG_OUTBOX_TEST_SERVERS names, or native ones that all workers share.

`RAG_OUTBOX_TEST_SERVERS` is an environment file, as `make servers` writes it. Without it the first test that asks
starts MySQL and Kafka in the test session's folder; the session stops them at its end.
"""

import os
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url, text

from schema import migrate
from schema.database import connect
from schema.names import Names
from tests.pipeline import set_model

ROOT = Path(__file__).parents[1]
FOLDER = "native-servers"
VARIABLE = "RAG_OUTBOX_TEST_SERVERS"


@dataclass(frozen=True)
class Servers:
    mysql_url: str = field(repr=False)  # with the password
    kafka: str  # bootstrap servers

    def database(self) -> Engine:
        """A new database with all tables and an embedding model."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        server = connect(self.mysql_url)
        with server.begin() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        server.dispose()
        engine = connect(make_url(self.mysql_url).set(database=name).render_as_string(hide_password=False))
        migrate.upgrade(engine)
        with engine.begin() as connection:
            set_model(connection)
        return engine

    @staticmethod
    def names() -> Names:
        return Names(f"test-{uuid.uuid4().hex[:12]}")


def ready(shared: Path) -> Servers:
    """The servers, started if they do not run; fails under CI when they cannot, and skips elsewhere."""
    given = os.environ.get(VARIABLE)
    if given is None:
        command = [
            sys.executable,
            "-m",
            "compose.native",
            "up",
            "--only",
            "mysql,kafka",
            "--data",
            str(shared / FOLDER),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = f"no servers: {done.stderr.strip()}\nstart them with: make servers, and set {VARIABLE}"
            pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
        lines = done.stdout.splitlines()
    else:
        lines = Path(given).read_text().splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    return Servers(found["RAG_OUTBOX_DATABASE_URL"], found["RAG_OUTBOX_KAFKA_BOOTSTRAP_SERVERS"])


def stop(shared: Path) -> None:
    """End the native servers, if the session started any."""
    if (shared / FOLDER).exists():
        command = [sys.executable, "-m", "compose.native", "stop", "--data", str(shared / FOLDER)]
        subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
