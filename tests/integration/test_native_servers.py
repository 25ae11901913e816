"""The servers without Docker: brought up, used, brought up again, stopped. Nothing is shared but the cache."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from minio import Minio
from pymilvus import MilvusClient
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from compose.native import debian

# Seconds: the first run on a machine builds MinIO from source.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
SERVERS = ["mysql", "mysql-replica", "kafka", "minio", "milvus"]
UNAVAILABLE = 4


def native(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "compose.native", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def status(data: Path) -> dict[str, dict[str, Any]]:
    rows = json.loads(native("status", "--json", "--data", data).stdout)["servers"]
    return {row["name"]: row for row in rows}


def until(look: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while (seen := look()) is None:
        assert time.monotonic() < deadline, "not seen in time"
        time.sleep(0.05)
    return seen


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A folder whose servers are stopped whatever happens."""
    folder = tmp_path / "servers"
    yield folder
    native("stop", "--data", folder)


def test_servers_come_up_are_used_come_up_again_and_stop_without_a_trace(data: Path) -> None:
    fetched = native("fetch")
    if fetched.returncode == UNAVAILABLE:
        reason = f"{fetched.stderr}\nsee what is missing with: python -m compose.native fetch"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    up = native("up", "--replica", "--data", data)
    assert up.returncode == 0, up.stderr

    variables = dict(line.split("=", 1) for line in up.stdout.splitlines())
    assert (data / "servers.env").read_text() == up.stdout
    assert (data / "servers.env").stat().st_mode & 0o077 == 0, "it holds passwords"
    use_mysql(variables["RAG_OUTBOX_DATABASE_URL"], variables["RAG_OUTBOX_TEST_REPLICA_URL"])
    use_kafka(variables["RAG_OUTBOX_KAFKA_BOOTSTRAP_SERVERS"])
    use_minio(variables)
    use_milvus(variables["RAG_OUTBOX_MILVUS_URI"])

    first = status(data)
    assert {name: row["state"] for name, row in first.items()} == dict.fromkeys(SERVERS, "running")
    for row in first.values():
        pid = row["pid"]
        assert os.getsid(pid) == pid, "it must survive the shell that started it"
        assert Path(f"/proc/{pid}/fd/0").readlink() == Path("/dev/null")

    again = native("up", "--replica", "--data", data)
    assert (again.returncode, again.stderr.count("already running")) == (0, len(SERVERS))
    assert {name: row["pid"] for name, row in status(data).items()} == {name: row["pid"] for name, row in first.items()}

    os.kill(first["minio"]["pid"], signal.SIGKILL)
    until(lambda: status(data)["minio"]["state"] == "dead" or None)
    repaired = native("up", "--replica", "--data", data)
    assert (repaired.returncode, repaired.stderr.count("already running")) == (0, len(SERVERS) - 1)
    assert repaired.stdout == up.stdout, "it comes back where it was"
    last = status(data)
    assert last["minio"]["state"] == "running"

    stopped = native("stop", "--data", data)
    assert stopped.returncode == 0, stopped.stderr
    for row in last.values():
        assert not_running(row["pid"]), row
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", row["port"])) != 0, row
    assert {row["state"] for row in status(data).values()} == {"stopped"}
    assert not (data / "servers.env").exists()


def not_running(pid: int) -> bool:
    """Gone, or a zombie that its new parent has not collected yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def use_mysql(url: str, replica_url: str) -> None:
    primary, replica = create_engine(url), create_engine(replica_url)
    with primary.begin() as connection:
        assert variables(connection) == ("ON", "ON", "FULL", 1, 1, "utf8mb4")
        connection.execute(text("CREATE TABLE notes (id INT PRIMARY KEY, content VARCHAR(20))"))
        connection.execute(text("INSERT INTO notes VALUES (1, '四 😀')"))

    def replicated() -> str | None:
        try:
            with replica.connect() as connection:
                return connection.execute(text("SELECT content FROM notes")).scalar()
        except ProgrammingError:  # no such table yet
            return None

    assert until(replicated) == "四 😀"
    with replica.connect() as connection, pytest.raises(OperationalError, match="super-read-only"):
        connection.execute(text("INSERT INTO notes VALUES (2, '')"))
    primary.dispose()
    replica.dispose()


def variables(connection: Connection) -> tuple[Any, ...]:
    names = ("gtid_mode", "enforce_gtid_consistency", "binlog_row_metadata", "sync_binlog")
    more = ("innodb_flush_log_at_trx_commit", "character_set_server")
    return tuple(connection.execute(text("SELECT " + ", ".join(f"@@{name}" for name in (*names, *more)))).one())


def use_kafka(bootstrap_servers: str) -> None:
    """Of an aborted and a committed transaction, a read_committed reader sees the second."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    admin.create_topics([NewTopic("notes", 1)])["notes"].result(30)
    producer = Producer({"bootstrap.servers": bootstrap_servers, "transactional.id": "notes", "log_level": 0})
    producer.init_transactions(30)
    for value, end in ((b"aborted", producer.abort_transaction), (b"committed", producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce("notes", value, b"key")
        producer.flush(30)
        end(30)
    reader = {"group.id": "notes", "isolation.level": "read_committed", "auto.offset.reset": "earliest"}
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "log_level": 0, **reader})
    consumer.subscribe(["notes"])
    try:
        message = until(lambda: consumer.poll(1.0))
        assert (message.error(), message.key(), message.value()) == (None, b"key", b"committed")
        consumer.commit(message=message, asynchronous=False)
    finally:
        consumer.close()
    with pytest.raises(KafkaException, match="UNKNOWN_TOPIC"):  # auto.create.topics.enable=false
        consumer_of_nothing(bootstrap_servers)


def consumer_of_nothing(bootstrap_servers: str) -> None:
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "nothing", "log_level": 0})
    consumer.subscribe(["no-such-topic"])
    try:
        message = until(lambda: consumer.poll(1.0))
        if error := message.error():
            raise KafkaException(error)
    finally:
        consumer.close()


def use_minio(variables: dict[str, str]) -> None:
    access, secret = (variables[f"RAG_OUTBOX_OBJECT_STORE_{key}"] for key in ("ACCESS_KEY", "SECRET_KEY"))
    endpoint = variables["RAG_OUTBOX_OBJECT_STORE"].removeprefix("http://")
    client = Minio(endpoint, access_key=access, secret_key=secret, secure=False)
    client.make_bucket(bucket_name="notes")
    client.put_object(bucket_name="notes", object_name="a/b.txt", data=io.BytesIO(b"content"), length=7)
    response = client.get_object(bucket_name="notes", object_name="a/b.txt")
    try:
        assert response.read() == b"content"
    finally:
        response.close()
        response.release_conn()


def use_milvus(uri: str) -> None:
    client = MilvusClient(uri)
    client.create_collection("notes", dimension=4)
    client.insert("notes", [{"id": 1, "vector": [1.0, 0.0, 0.0, 0.0]}, {"id": 2, "vector": [0.0, 1.0, 0.0, 0.0]}])
    [found] = client.search("notes", [[0.1, 0.9, 0.0, 0.0]], limit=1, consistency_level="Strong")
    assert [hit["id"] for hit in found] == [2]
    client.close()


def test_a_process_that_got_the_pid_of_a_server_is_left_alone(data: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as stranger:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        record = {"ports": {"port": 20_000}, "process": {"pid": stranger.pid, "started": 1, "boot": boot}}
        data.mkdir()
        (data / "servers.json").write_text(json.dumps({"password": "none", "servers": {"minio": record}}))
        assert status(data)["minio"]["state"] == "dead"
        assert native("stop", "--data", data).returncode == 0
        assert stranger.poll() is None
        stranger.kill()


def test_a_machine_without_the_tools_is_told_what_is_missing_and_the_other_way(data: Path) -> None:
    nothing = {"PATH": "/nonexistent", "JAVA_HOME": "", "RAG_OUTBOX_SERVERS_CACHE": str(data / "cache")}
    result = native("up", "--only", "mysql,kafka,minio", "--data", data, **nothing)
    assert result.returncode == UNAVAILABLE, result.stderr
    for missing in ("mysql: apt-get and dpkg not found", "kafka: java not found", "minio: go not found", "Docker"):
        assert missing in result.stderr


def test_a_given_port_that_is_in_use_is_refused(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = native("up", "--only", "minio", "--port", f"minio={port}", "--data", data)
    assert result.returncode == 1
    assert f"port {port} is in use" in result.stderr


def test_debian_archives_are_read_from_both_formats_of_apt(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(
        "# a comment: with a colon\nTypes: deb deb-src\nURIs: mirror://one\nSuites: trixie trixie-updates\n"
        "Components: main contrib\nSigned-By: /keys/one.gpg\n\nTypes: deb\nURIs: mirror://off\nSuites: trixie\n"
        "Components: main\nEnabled: no\n"
    )
    (tmp_path / "sources.list").write_text(
        "deb-src mirror://sources trixie main\n"
        "deb [arch=amd64 signed-by=/keys/two.gpg] mirror://two trixie main # the second\n"
        "deb mirror://three sid main contrib\n"
    )
    assert list(debian.sources(tmp_path)) == [
        ("mirror://one", ["trixie", "trixie-updates"], ["main", "contrib"], "/keys/one.gpg"),
        ("mirror://two", ["trixie"], ["main"], "/keys/two.gpg"),
        ("mirror://three", ["sid"], ["main", "contrib"], debian.KEYRING),
    ]
