"""A new system on the native servers for one benchmark; its processes are the real console scripts."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource  # type: ignore[attr-defined]
from pymilvus import MilvusClient
from sqlalchemy import Engine, make_url, text

from schema.collection import alias_of
from schema.database.connection import connect
from schema.kafka.names import Names
from schema.object_store import layout, s3

ROOT = Path(__file__).parents[1]
COMMAND = Path(sys.executable).with_name("rag-outbox")
MODEL = "benchmark-model"
PREFIX = "RAG_OUTBOX_"


def servers(data: Path) -> dict[str, str]:
    """Start the servers in `data` unless they run. Returns their variables."""
    command = [sys.executable, "-m", "compose.native", "up", "--data", str(data)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


@dataclass(frozen=True)
class System:
    environment: dict[str, str]
    engine: Engine
    names: Names
    dimension: int

    @property
    def alias(self) -> str:
        """Of the collection."""
        return alias_of(self.names.namespace)

    @property
    def kafka(self) -> str:
        return self.environment[f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS"]

    @contextmanager
    def running(self, *arguments: str, **variables: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a `rag-outbox` process with more variables; SIGTERM ends it. Raises SystemExit if it fails."""
        others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        process = subprocess.Popen(
            [str(COMMAND), *arguments], env=others | self.environment | variables, cwd=ROOT, stdout=subprocess.DEVNULL
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        if process.returncode:
            raise SystemExit(f"rag-outbox {' '.join(arguments)} ended with {process.returncode}")


@contextmanager
def system(found: dict[str, str], dimension: int = 8, model: str = MODEL) -> Iterator[System]:
    """Its own database, topics and Milvus database, made by `rag-outbox init` and removed at the end.

    Messages get the time of the broker.
    """
    name = f"bench_{uuid.uuid4().hex[:12]}"
    server = connect(found[f"{PREFIX}DATABASE_URL"])
    with server.begin() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    url = make_url(found[f"{PREFIX}DATABASE_URL"]).set(database=name).render_as_string(hide_password=False)
    administrator = MilvusClient(found[f"{PREFIX}MILVUS_URI"])
    administrator.create_database(name)
    environment = found | {
        f"{PREFIX}DATABASE_URL": url,
        f"{PREFIX}NAMESPACE": name,
        f"{PREFIX}MILVUS_URI": f"{found[f'{PREFIX}MILVUS_URI']}/{name}",
        f"{PREFIX}EMBEDDING_MODEL": model,
        f"{PREFIX}VECTOR_DIMENSION": str(dimension),
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    done = subprocess.run(
        [str(COMMAND), "init", "--json"], env=others | environment, cwd=ROOT, capture_output=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    engine = connect(url)
    names = Names(name, json.loads(done.stdout)["system_id"])
    kafka: dict[str, str | int | float | bool] = {"bootstrap.servers": found[f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS"]}
    _stamp(AdminClient(kafka), names.documents_topic)
    try:
        yield System(environment, engine, names, dimension)
    finally:
        with server.begin() as connection:
            connection.execute(text(f"DROP DATABASE {name}"))
        engine.dispose()
        server.dispose()
        AdminClient(kafka).delete_topics([names.documents_topic, names.lanes_topic])
        _drop(MilvusClient(environment[f"{PREFIX}MILVUS_URI"]))
        administrator.drop_database(name)
        _remove_bucket(environment, layout.bucket_of(name))


def wait_until(done: Callable[[], bool], what: str, *, timeout_seconds: float = 600.0) -> None:
    """Check 20 times per second. Raises SystemExit on timeout."""
    deadline = time.monotonic() + timeout_seconds
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {timeout_seconds:g} seconds for {what}")
        time.sleep(0.05)


def _stamp(admin: AdminClient, topic: str) -> None:
    """Give messages the time at which the broker appends them: the same clock for every publisher."""
    entry = ConfigEntry("message.timestamp.type", "LogAppendTime", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()


def _remove_bucket(environment: dict[str, str], name: str) -> None:
    store = f"{PREFIX}OBJECT_STORE"
    client = s3.connect(environment[store], environment[f"{store}_ACCESS_KEY"], environment[f"{store}_SECRET_KEY"])
    bucket = s3.S3Store(client, name)
    bucket.remove(list(bucket.keys("")))
    client.remove_bucket(name)


def _drop(client: MilvusClient) -> None:
    for collection in client.list_collections():
        for alias in client.describe_collection(collection)["aliases"]:  # Milvus 2.3 lists those of only one database
            client.drop_alias(alias)
        client.drop_collection(collection)
    client.close()
