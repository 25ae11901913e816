"""A store stops and starts again while relay and consumers work: no process ends, nothing is lost."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.conftest import System, initialised
from tests.support import kafka
from tests.support import servers as real
from tests.support.corpus import Written, first_version
from tests.support.servers import MilvusServer, MinioServer, Servers
from tests.support.services import Services, services
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(500)]

DOCUMENTS = 30  # per write
PATIENCE_SECONDS = 150


@pytest.fixture
def data(shared: Path, tmp_path: Path) -> Iterator[Path]:
    """The folder of this test's own servers, which are stopped at its end and leave nothing behind."""
    folder = tmp_path / "servers"
    yield folder
    running = [row for row in real.states(folder).values() if row["pid"]]
    real.native("stop", "--data", folder)
    real.assert_stopped(folder, running)


@pytest.fixture
def system(data: Path, tmp_path: Path) -> Iterator[System]:
    up = real.native("up", "--data", data)
    assert up.returncode == 0, up.stderr
    for row in real.states(data).values():
        assert os.getsid(row["pid"]) == row["pid"], "a server must survive the shell that started it"
        assert Path(f"/proc/{row['pid']}/fd/0").readlink() == Path("/dev/null")
    found = real.parsed(up.stdout)
    servers = Servers(found["RAG_OUTBOX_DATABASE_URL"], found["RAG_OUTBOX_KAFKA_BOOTSTRAP_SERVERS"])
    milvus = MilvusServer(found["RAG_OUTBOX_MILVUS_URI"])
    store = "RAG_OUTBOX_OBJECT_STORE"
    minio = MinioServer(found[store], found[f"{store}_ACCESS_KEY"], found[f"{store}_SECRET_KEY"])
    with initialised(tmp_path / "system", servers, milvus, minio) as some:
        yield some


def write(system: System, name: str, documents: int = DOCUMENTS) -> dict[str, Written]:
    written = [first_version(f"{name}-{number}", 1) for number in range(documents)]
    path = system.folder.path / f"{name}.jsonl"
    path.write_bytes(b"".join(one.line() for one in written))
    assert system.folder.run("write", str(path)).status == 0
    return {one.doc_id: one for one in written}


def wait_until_in_step(system: System, some: Services) -> None:
    def in_step() -> bool:
        assert [process.name for process in some.processes if process.status is not None] == [], (
            "a process ended by itself"
        )
        return system.stores.pending() == 0

    wait_for(in_step, "every document to be completed", timeout_seconds=PATIENCE_SECONDS)


def test_every_store_may_stop_and_start_again(system: System, data: Path) -> None:
    living: dict[str, Written] = {}
    with services(system.folder) as some:
        some.relay()
        some.consumer("milvus")
        some.consumer("minio")
        living |= write(system, "first")
        wait_until_in_step(system, some)

        for server in ("mysql", "kafka", "milvus", "minio"):
            began = time.monotonic()
            living |= write(system, f"before-{server}")  # its events are pending
            assert real.native("stop", "--only", server, "--data", data).returncode == 0
            if server != "mysql":
                living |= write(system, f"without-{server}", 1)
            up = real.native("up", "--only", server, "--data", data)
            assert up.returncode == 0, up.stderr
            wait_until_in_step(system, some)
            living |= write(system, f"after-{server}")
            wait_until_in_step(system, some)
            sys.stdout.write(f"{server}: {time.monotonic() - began:.1f} seconds\n")

        some.finish()

    system.stores.assert_holds(living, dict.fromkeys(living, 1))
    published = kafka.topic(system.servers, some.names.documents_topic)
    kafka.assert_exactly_once_and_in_order(published, dict.fromkeys(living, 1))
