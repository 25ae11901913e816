"""A store stops while relay and consumers are at work, and comes back: nobody ends, nothing is lost."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import kafka
from tests import servers as real
from tests.chaos.conftest import System, initialised
from tests.corpus import Written, first_version
from tests.servers import MilvusServer, MinioServer, Servers
from tests.services import Services, services
from tests.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(1500)]

DOCUMENTS = 30  # at a time
PATIENCE_SECONDS = 150


@pytest.fixture
def data(shared: Path, tmp_path: Path) -> Iterator[Path]:
    """The folder of servers that no other test uses; they are stopped whatever happens."""
    folder = tmp_path / "servers"
    yield folder
    real.native("stop", "--data", str(folder))


@pytest.fixture
def system(data: Path, tmp_path: Path) -> Iterator[System]:
    up = real.native("up", "--data", str(data))
    assert up.returncode == 0, up.stderr
    found = dict(line.split("=", 1) for line in up.stdout.splitlines())
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
        assert [process.name for process in some.processes if process.status is not None] == [], "ended by itself"
        return system.stores.pending() == 0

    try:
        wait_for(in_step, "every document to be completed", timeout_seconds=75)
    except AssertionError:
        import subprocess, time as t
        from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition, IsolationLevel
        from confluent_kafka.admin import AdminClient, OffsetSpec

        out = open("/tmp/kdiag.txt", "w")
        a = some._admin
        name = some.names.documents_topic
        asked = {TopicPartition(name, p): OffsetSpec.latest() for p in range(12)}
        for iso in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
            print(
                iso,
                {k.partition: f.result().offset for k, f in a.list_offsets(asked, isolation_level=iso).items()},
                file=out,
            )
        for sink in ("milvus", "minio"):
            g = some.names.sink_group(sink)
            r = a.list_consumer_group_offsets([ConsumerGroupTopicPartitions(g)])[g].result()
            print(sink, {q.partition: q.offset for q in r.topic_partitions}, file=out)
            d = a.describe_consumer_groups([g])[g].result()
            print(
                d.state,
                [(m.client_id, [q.partition for q in m.assignment.topic_partitions]) for m in d.members],
                file=out,
            )
        from sqlalchemy import text

        with system.stores.engine.connect() as c:
            print(c.execute(text("select count(*), min(id), max(id) from outbox")).all(), file=out)
            print(c.execute(text("select sink, state, count(*) from sink_states group by 1,2")).all(), file=out)
        for pr in some.processes:
            print(pr.name, pr._process.pid, file=out)
            out.flush()
            subprocess.run(["/tmp/play/v/bin/py-spy", "dump", "-p", str(pr._process.pid)], stdout=out)
            open(f"/tmp/kdiag-{pr.name}.log", "w").write(pr.log)
        t0 = t.time()
        try:
            wait_for(in_step, "every document", timeout_seconds=300)
            print("in step after all", t.time() - t0, file=out)
        finally:
            out.close()
        raise


def test_every_store_may_stop_and_come_back(system: System, data: Path) -> None:
    living: dict[str, Written] = {}
    with services(system.folder) as some:
        some.relay(kafka_transaction_timeout_ms="2000")
        some.consumer("milvus")
        some.consumer("minio")
        living |= write(system, "first")
        wait_until_in_step(system, some)

        for server in ("kafka", "kafka", "kafka", "kafka"):
            began = time.monotonic()
            living |= write(system, f"before-{server}-{began}")  # and its events are on their way
            seen = some.processes[0].log.count("batch_undone") + some.processes[0].log.count("lanes_revoked")
            assert real.native("stop", "--only", server, "--data", str(data)).returncode == 0
            if server != "mysql":
                living |= write(system, f"without-{server}-{began}", 1)
            if server == "kafka":
                relay = some.processes[0]
                n = relay.log.count("batch_undone") + relay.log.count("lanes_revoked")
                wait_for(
                    lambda: relay.log.count("batch_undone") + relay.log.count("lanes_revoked") > seen,
                    "notice",
                    timeout_seconds=60,
                )
            up = real.native("up", "--only", server, "--data", str(data))
            assert up.returncode == 0, up.stderr
            wait_until_in_step(system, some)
            living |= write(system, f"after-{server}-{began}")
            wait_until_in_step(system, some)
            sys.stdout.write(f"{server}: {time.monotonic() - began:.1f} seconds\n")

        some.finish()

    system.stores.assert_in_step(living, dict.fromkeys(living, 1))
    published = kafka.topic(system.servers, some.names.documents_topic)
    kafka.assert_exactly_once_and_in_order(published, dict.fromkeys(living, 1))
