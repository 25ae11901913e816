"""The servers without Docker: start, restart, stop, and the settings that other tests rely on."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from compose.native import debian
from tests.support.prometheus import Prometheus
from tests.support.replica import Replica
from tests.support.servers import Servers, assert_stopped, native, states
from tests.support.waiting import wait_for

# Seconds: the first run on a machine builds MinIO from source.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

UNAVAILABLE = 4


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A folder whose servers are stopped at the end."""
    folder = tmp_path / "servers"
    yield folder
    native("stop", "--data", folder)


def test_servers_start_restart_and_stop_without_a_trace(data: Path) -> None:
    """Tested with MinIO; tests/chaos/test_restarts.py restarts the others."""
    fetched = native("fetch")
    if fetched.returncode == UNAVAILABLE:
        reason = f"{fetched.stderr}\nsee what is missing with: python -m compose.native fetch"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    up = native("up", "--only", "minio", "--data", data)
    assert up.returncode == 0, up.stderr
    assert (data / "servers.env").read_text() == up.stdout
    assert (data / "servers.env").stat().st_mode & 0o077 == 0, "it holds passwords"
    first = states(data)["minio"]
    assert first["state"] == "running"

    again = native("up", "--only", "minio", "--data", data)
    assert (again.returncode, again.stderr.count("already running")) == (0, 1)
    assert states(data)["minio"]["pid"] == first["pid"]

    os.kill(first["pid"], signal.SIGKILL)
    wait_for(lambda: states(data)["minio"]["state"] == "dead", "its end to be noticed")
    repaired = native("up", "--only", "minio", "--data", data)
    assert (repaired.returncode, repaired.stdout) == (0, up.stdout), "it has the same port again"
    running = states(data)["minio"]
    assert running["state"] == "running"

    stopped = native("stop", "--data", data)
    assert stopped.returncode == 0, stopped.stderr
    assert_stopped(data, [running])


def test_prometheus_scrapes_the_exporters_of_its_folder(data: Path) -> None:
    """An exporter of MySQL needs the MySQL of its folder."""
    up = native("up", "--only", "prometheus,node-exporter,mysqld-exporter", "--data", data)
    assert up.returncode == 1
    assert "mysqld-exporter: there is no MySQL in this folder" in up.stderr
    running = states(data)
    assert {name for name, row in running.items() if row["state"] == "running"} == {"prometheus", "node-exporter"}
    server = Prometheus(running["prometheus"]["port"])
    wait_for(lambda: server.query('up{job="node-exporter"} == 1'), "the exporter to be scraped")
    processes = 'count(up{job="rag-outbox"}) == 10'  # on the ports that they take by themselves
    wait_for(lambda: server.query(processes), "the ports of processes to be tried")
    stopped = native("stop", "--data", data)
    assert stopped.returncode == 0, stopped.stderr


def test_mysql_is_durable_and_its_replica_follows(replica: Replica) -> None:
    names = ("gtid_mode", "enforce_gtid_consistency", "binlog_row_metadata", "sync_binlog")
    more = ("innodb_flush_log_at_trx_commit", "character_set_server")
    with replica.transaction() as connection:
        variables = connection.execute(text("SELECT " + ", ".join(f"@@{name}" for name in (*names, *more)))).one()
        assert tuple(variables) == ("ON", "ON", "FULL", 1, 1, "utf8mb4")
        connection.execute(text("CREATE TABLE notes (id INT PRIMARY KEY, content VARCHAR(20))"))
    with replica.transaction() as connection:
        connection.execute(text("INSERT INTO notes VALUES (1, '四 😀')"))
    replica.apply_until(2)
    with replica.engine.connect() as connection:
        assert connection.execute(text("SELECT content FROM notes")).scalar() == "四 😀"
        with pytest.raises(OperationalError, match="super-read-only"):
            connection.execute(text("INSERT INTO notes VALUES (2, '')"))


def test_kafka_creates_no_topics_by_itself(servers: Servers) -> None:
    consumer = Consumer({"bootstrap.servers": servers.kafka, "group.id": "nothing", "log_level": 0})
    consumer.subscribe(["no-such-topic"])
    try:
        answer = wait_for(lambda: consumer.poll(1.0), "an answer")
        error = answer.error() if answer is not None else None
        assert error is not None
        assert error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
    finally:
        consumer.close()


def test_process_with_the_pid_of_a_server_is_not_stopped(data: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as stranger:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        record = {"ports": {"port": 20_000}, "process": {"pid": stranger.pid, "started": 1, "boot": boot}}
        data.mkdir()
        (data / "servers.json").write_text(json.dumps({"password": "none", "servers": {"minio": record}}))
        assert states(data)["minio"]["state"] == "dead"
        assert native("stop", "--data", data).returncode == 0
        assert stranger.poll() is None
        stranger.kill()


def test_error_names_missing_tools_and_docker(data: Path) -> None:
    nothing = {"PATH": "/nonexistent", "JAVA_HOME": "", "RAG_OUTBOX_SERVERS_CACHE": str(data / "cache")}
    result = native("up", "--only", "mysql,kafka,minio", "--data", data, **nothing)
    assert result.returncode == UNAVAILABLE, result.stderr
    for missing in ("mysql: apt-get and dpkg not found", "kafka: java not found", "minio: go not found", "Docker"):
        assert missing in result.stderr


def test_given_port_in_use_is_refused(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = native("up", "--only", "minio", "--port", f"minio={port}", "--data", data)
    assert result.returncode == 1
    assert f"port {port} is in use" in result.stderr


def test_debian_archives_are_read_from_both_apt_formats(tmp_path: Path) -> None:
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
