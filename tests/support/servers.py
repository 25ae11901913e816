"""Real servers for the tests: those in the file RAG_OUTBOX_TEST_SERVERS, or native ones that all workers share.

`make servers` writes such a file. Without it, the first test that needs MySQL and Kafka, a replica, Milvus or MinIO
starts them in the folder of the test session; the end of the session stops them.
"""

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from minio import Minio
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException
from sqlalchemy import URL, Engine, make_url
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from compose.native import mysql
from compose.native import mysql_client as mysql_programs
from compose.native.cache import Cache
from schema.collection import ALIAS
from schema.database import migrate, revision
from schema.database.connection import connect
from schema.kafka.names import Names
from schema.object_store import s3
from tests.support.pipeline import SYSTEM_ID, set_model

ROOT = Path(__file__).parents[2]
FOLDER = "native-servers"
REPLICATED = "native-servers-replicated"  # separate: a replica would replay the writes of all other tests
VARIABLE = "RAG_OUTBOX_TEST_SERVERS"


@dataclass(frozen=True)
class Servers:
    mysql_url: str = field(repr=False)  # with the password
    kafka: str  # bootstrap servers

    @staticmethod
    def names() -> Names:
        return Names(f"test-{uuid.uuid4().hex[:12]}", SYSTEM_ID)


@contextmanager
def database(mysql_url: str) -> Iterator[Engine]:
    """A new database with all tables and an embedding model. Without TLS, which takes 30 ms per connection."""
    url = make_url(mysql_url).update_query_dict({"ssl_disabled": "true"})
    with empty_database(url) as engine:
        with engine.begin() as connection:
            for statement in _schema(url):
                connection.exec_driver_sql(statement)
            set_model(connection)
        yield engine


@contextmanager
def empty_database(server: URL) -> Iterator[Engine]:
    """A new, empty database, dropped at the end."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    run_statement(server, f"CREATE DATABASE {name}")
    engine = connect(server.set(database=name).render_as_string(hide_password=False))
    try:
        yield engine
    finally:
        engine.dispose()
        run_statement(server, f"DROP DATABASE {name}")


def run_statement(server: URL, statement: str) -> None:
    """Run a statement outside of any database."""
    administrator = connect(server.set(database="").render_as_string(hide_password=False))
    with administrator.begin() as connection:
        connection.exec_driver_sql(statement)
    administrator.dispose()


@cache
def _schema(server: URL) -> list[str]:
    """Statements with the result of the migrations, three times as fast: they create tables with their indexes."""
    statements = ["SET foreign_key_checks = 0"]
    with empty_database(server) as engine:
        migrate.upgrade(engine)
        with engine.begin() as connection:
            for (table,) in connection.exec_driver_sql("SHOW TABLES").all():
                statements.append(connection.exec_driver_sql(f"SHOW CREATE TABLE {table}").one()[1].replace("%", "%%"))
            current = revision.of(connection)
    statements += [f"INSERT INTO {revision.VERSION_TABLE} VALUES ('{current}')", "SET foreign_key_checks = 1"]
    return statements


@dataclass(frozen=True)
class MilvusServer:
    uri: str

    @contextmanager
    def database(self) -> Iterator[str]:
        """The name of a new database, dropped with its content at the end."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        admin = self._connected()
        admin.create_database(name)
        yield name
        with self.client(name) as client:
            client.drop_alias(ALIAS)
            for collection in client.list_collections():
                for alias in client.describe_collection(collection)["aliases"]:
                    client.drop_alias(alias)
                client.drop_collection(collection)
        admin.drop_database(name)
        admin.close()

    @contextmanager
    def clients(self, database: str) -> Iterator[Callable[[], MilvusClient]]:
        """A function that makes clients, each with its own connection; all are closed at the end."""
        with ExitStack() as stack:

            def make() -> MilvusClient:
                client = self._connected(db_name=database, dedicated=True)
                stack.callback(client.close)
                return client

            yield make

    @contextmanager
    def client(self, database: str) -> Iterator[MilvusClient]:
        client = self._connected(db_name=database)
        yield client
        client.close()

    def _connected(self, **options: Any) -> MilvusClient:
        """Connect, at most three times: pymilvus pings an idle server, and Milvus Lite disconnects frequent pings."""
        failed = retry_if_exception_type(MilvusException)
        return Retrying(retry=failed, stop=stop_after_attempt(3), reraise=True)(MilvusClient, self.uri, **options)


@dataclass(frozen=True)
class MinioServer:
    url: str
    access_key: str
    secret_key: str = field(repr=False)

    def client(self) -> Minio:
        return s3.connect(self.url, self.access_key, self.secret_key)

    @contextmanager
    def bucket(self, name: str | None = None) -> Iterator[str]:
        """A name for a bucket that does not exist yet; the bucket and its content are removed at the end."""
        name = name or f"test-{uuid.uuid4().hex[:12]}"
        yield name
        client = self.client()
        if client.bucket_exists(name):
            s3.S3Store(client, name).remove(
                item.object_name or "" for item in client.list_objects(name, recursive=True)
            )
            client.remove_bucket(name)


def ready(shared: Path) -> Servers:
    """MySQL and Kafka."""
    found = _variables(shared, "mysql,kafka", "RAG_OUTBOX_DATABASE_URL", "RAG_OUTBOX_KAFKA_BOOTSTRAP_SERVERS")
    return Servers(*found)


def replicated(shared: Path) -> tuple[str, str]:
    """The URLs of a MySQL and of its replica."""
    names = ("RAG_OUTBOX_DATABASE_URL", "RAG_OUTBOX_TEST_REPLICA_URL")
    primary, replica = _variables(shared, "mysql,mysql-replica", *names, folder=REPLICATED)
    return primary, replica


def mysql_client(folder: Path) -> Path:
    """The folder of MySQL's own mysqldump and mysql: that of the servers, or scripts written to `folder`."""
    given = os.environ.get(VARIABLE)
    found = parsed(Path(given).read_text()) if given is not None else {}
    if "RAG_OUTBOX_MYSQL_CLIENT_DIR" in found:
        return Path(found["RAG_OUTBOX_MYSQL_CLIENT_DIR"])
    cache = Cache.of_this_user()
    if not cache.folder(mysql.KEY).exists():  # the servers were started elsewhere
        native("fetch", "--only", "mysql")
    return mysql_programs.write_scripts(cache.folder(mysql.KEY) / "root", folder)


def milvus(shared: Path) -> MilvusServer:
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs every error that it also raises
    return MilvusServer(*_variables(shared, "milvus", "RAG_OUTBOX_MILVUS_URI"))


def minio(shared: Path) -> MinioServer:
    store = "RAG_OUTBOX_OBJECT_STORE"
    return MinioServer(*_variables(shared, "minio", store, f"{store}_ACCESS_KEY", f"{store}_SECRET_KEY"))


def _variables(shared: Path, only: str, *names: str, folder: str = FOLDER) -> list[str]:
    """The variables of servers, started if necessary. If that is impossible, fails the test under CI, else skips it."""
    given = os.environ.get(VARIABLE)
    found = parsed(Path(given).read_text()) if given is not None else {}
    if not all(name in found for name in names):
        done = native("up", "--only", only, "--data", shared / folder)
        if done.returncode != 0:
            reason = f"no servers: {done.stderr.strip()}\nstart them with: make servers, and set {VARIABLE}"
            pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
        found = parsed(done.stdout)
    return [found[name] for name in names]


def parsed(environment: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in environment.splitlines() if "=" in line)


def native(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `python -m compose.native`, with `environment` in addition to the variables of this process."""
    command = [sys.executable, "-m", "compose.native", *map(str, arguments)]
    faster = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}  # a broker starts in half the time
    variables = faster | os.environ | environment
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


def states(data: Path) -> dict[str, dict[str, Any]]:
    """The output of `status` for the native servers of a folder, by name."""
    rows = json.loads(native("status", "--json", "--data", data).stdout)["servers"]
    return {row["name"]: row for row in rows}


def assert_stopped(data: Path, running: Iterable[Mapping[str, Any]]) -> None:
    """Assert that the servers of this folder have ended, and that only data and logs are left."""
    for row in running:
        assert gone(row["pid"]), row
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", row["port"])) != 0, row
    assert {row["state"] for row in states(data).values()} == {"stopped"}
    assert not (data / "servers.env").exists()


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def stop(shared: Path) -> None:
    """Stop the native servers that the session started, and remove their data; their logs stay."""
    for folder in (shared / FOLDER, shared / REPLICATED):
        if folder.exists():
            native("stop", "--data", folder)
            for data in folder.glob("*/data"):
                shutil.rmtree(data)
