"""Debezium with its outbox router in Kafka Connect: the peer that publishes the same rows to the same topic.

It reads the binlog, deletes no row, and publishes at least once: this is less work than the relay does.
"""

import json
import random
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

from confluent_kafka.admin import AdminClient
from sqlalchemy import Connection, text

from benchmarks import topic
from benchmarks.system import System, wait_until
from compose.native import kafka, maven, ports, tools
from compose.native.cache import Cache
from compose.native.errors import ServerError

NAME = "debezium"
VERSION = "3.3.1.Final"
KEY = f"{NAME}-{VERSION}"

AS_IT_COMES: Mapping[str, str] = {}
TUNED = {
    "max.batch.size": "20480",
    "max.queue.size": "81920",
    "producer.override.linger.ms": "5",
    "producer.override.batch.size": "1000000",
    "producer.override.compression.type": "lz4",
}
PROMPT = {"poll.interval.ms": "5"}  # instead of 500, for low latency

LOG = "connect.log"
LOOPBACK = build_opener(ProxyHandler({}))  # ignores http_proxy
WARM_UP_ROWS = 10_000  # the first seconds of a JVM are slow
JVM = ("-Xms256M", "-Xmx2G", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20")  # as in the start script of Kafka


@dataclass
class Connector:
    """One connector in a running worker of Kafka Connect."""

    worker: "subprocess.Popen[bytes]"
    log: Path
    rest: str
    admin: AdminClient
    topic: str
    held: int = 0

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the connector during this context; then it continues from its offset. The worker stays warm."""
        self._put("stop")
        wait_until(lambda: self._states() == ["STOPPED"], "Debezium to stop")
        yield
        self.held = topic.held(self.admin, self.topic)
        self._put("resume")

    def wait_for(self, messages: int) -> None:
        """Wait until the topic has that number of messages. Raises SystemExit if the connector has failed."""

        def all_there() -> bool:
            before, self.held = self.held, topic.held(self.admin, self.topic)
            if self.held == before:
                self.runs()
            return self.held >= messages

        wait_until(all_there, f"{messages} messages from Debezium")

    def runs(self) -> bool:
        return self._states() == ["RUNNING", "RUNNING"]

    def _states(self) -> list[str]:
        """The states of the connector and its task. Raises SystemExit if one has failed."""
        if self.worker.poll() is not None:
            raise SystemExit(f"Kafka Connect ended with {self.worker.returncode}\n{tools.tail(self.log)}")
        try:
            with LOOPBACK.open(f"{self.rest}/status", timeout=10) as answer:
                status = json.load(answer)
        except OSError:  # the worker is still starting
            return []
        for one in (status["connector"], *status["tasks"]):
            if one["state"] == "FAILED":
                raise SystemExit(f"Debezium failed: {one['trace']}")
        return [one["state"] for one in (status["connector"], *status["tasks"])]

    def _put(self, action: str) -> None:
        LOOPBACK.open(Request(f"{self.rest}/{action}", method="PUT"), timeout=30).close()


@contextmanager
def connector(some: System, settings: Mapping[str, str]) -> Iterator[Connector]:
    """A running connector that has published warm-up rows. The topic must be empty; it is empty again afterwards."""
    try:
        maven.fetch(Cache.of_this_user(), NAME, KEY, VERSION, ["io.debezium:debezium-connector-mysql"])
    except ServerError as error:
        raise SystemExit(str(error)) from None
    port = ports.choose(NAME, None, None, set())
    admin, rest = AdminClient({"bootstrap.servers": some.kafka}), f"http://{ports.HOST}:{port}/connectors/{NAME}"
    with tempfile.TemporaryDirectory() as folder, some.engine.connect() as connection:
        _write(Path(folder) / "worker.properties", _worker(some, port))
        _write(Path(folder) / "debezium.properties", {**_source(some), **_router(some), **settings})
        before = connection.execute(text("SELECT CONNECTION_ID()")).scalar_one()
        with _connect(Path(folder)) as worker:
            made = Connector(worker, Path(folder) / LOG, rest, admin, some.names.documents_topic)
            wait_until(lambda: made.runs() and _reads_binlog(connection, before), "Debezium to read the binlog")
            topic.append(some.engine, WARM_UP_ROWS, 1_024, WARM_UP_ROWS)
            made.wait_for(WARM_UP_ROWS)
            topic.clear(admin, made.topic)
            yield made


@contextmanager
def _connect(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker of Kafka Connect with its files in `folder`."""
    jars = Cache.of_this_user().folder(kafka.KEY) / "jars"
    main = ("org.apache.kafka.connect.cli.ConnectStandalone", "worker.properties", "debezium.properties")
    command = [kafka.program(), *JVM, "-classpath", f"{jars}/*", *main]
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _reads_binlog(connection: Connection, since: int) -> bool:
    """Whether a connection newer than `since` reads the binlog: rows from now on reach it."""
    dump = "SELECT 1 FROM performance_schema.processlist WHERE command LIKE 'Binlog Dump%' AND id > :since"
    found = connection.execute(text(dump), {"since": since}).first()
    connection.rollback()
    return found is not None


def _worker(some: System, port: int) -> dict[str, str]:
    """The producer has the defaults of Connect: acks=all, one request in flight, not idempotent."""
    return {
        "bootstrap.servers": some.kafka,
        "listeners": f"http://{ports.HOST}:{port}",
        "plugin.path": str(Cache.of_this_user().folder(KEY)),
        "plugin.discovery": "service_load",
        "offset.storage.file.filename": "offsets",
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "io.debezium.converters.BinaryDataConverter",
        "header.converter": "org.apache.kafka.connect.storage.StringConverter",
    }


def _source(some: System) -> dict[str, str]:
    url = some.engine.url
    return {
        "name": NAME,
        "connector.class": "io.debezium.connector.mysql.MySqlConnector",
        "tasks.max": "1",
        "topic.prefix": some.names.namespace,
        "database.hostname": str(url.host),
        "database.port": str(url.port),
        "database.user": str(url.username),
        "database.password": str(url.password),
        "database.server.id": str(random.randint(10_000, 2_000_000_000)),
        "database.include.list": str(url.database),
        "table.include.list": f"{url.database}.outbox",
        "snapshot.mode": "no_data",
        "include.schema.changes": "false",
        "tombstones.on.delete": "false",
        "schema.history.internal": "io.debezium.storage.file.history.FileSchemaHistory",
        "schema.history.internal.file.filename": "schema-history",
    }


def _router(some: System) -> dict[str, str]:
    router = {
        "type": "io.debezium.transforms.outbox.EventRouter",
        "table.field.event.id": "event_id",
        "table.field.event.key": "aggregate_id",
        "table.field.event.payload": "payload",
        "table.fields.additional.placement": "event_id:header:ce_id,aggregate_version:header:ce_sequence",
        "route.by.field": "aggregate_type",
        "route.topic.replacement": some.names.documents_topic,
    }
    return {"transforms": "outbox"} | {f"transforms.outbox.{name}": value for name, value in router.items()}


def _write(path: Path, properties: Mapping[str, str]) -> None:
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
