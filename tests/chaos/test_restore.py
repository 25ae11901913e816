"""The stores are lost after a backup, and restored: everything of the dump is back, and nothing of what came after."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from operations.backup.database.scratch import scratch_database
from retrieval.search import search
from schema.object_store.s3 import S3Store
from tests.chaos.conftest import System
from tests.support.commands import Folder, Outcome
from tests.support.corpus import edited, vector
from tests.support.disaster import DOCUMENTS, Disaster, kill_all, start_all
from tests.support.dying_restore import AFTER_MOVE, POINTS, die_while_restoring
from tests.support.servers import MinioServer
from tests.support.services import Process, services
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

SESSION_MILLISECONDS = "6000"  # until the partitions of a killed consumer are taken over


@pytest.fixture
def disaster(system: System, mysql_client: Path) -> Iterator[Disaster]:
    system.folder.settings |= {"mysql_client_dir": str(mysql_client), "kafka_session_timeout_ms": SESSION_MILLISECONDS}
    yield Disaster(system)
    with scratch_database(make_url(system.folder.settings["database_url"]), "restore"):
        pass  # it drops what killed restores left


@pytest.fixture
def bucket(minio_server: MinioServer) -> Iterator[str]:
    with minio_server.bucket(f"backup-{uuid4().hex[:12]}") as name:
        yield name


def found(system: System, content: str) -> list[str]:
    """The contents of the chunks that a search for the vector of `content` shows."""
    stores = system.stores
    hits = search(
        stores.engine,
        S3Store(stores.minio, stores.bucket),
        lambda work: work(stores.milvus),
        vector(content),
        limit=3,
        alias=stores.alias,
    )
    return [hit.content for hit in hits]


def restore(
    folder: Folder, *arguments: str, then: Callable[[], object], supervise: Callable[[], None] = lambda: None
) -> Outcome:
    """Run `backup restore`; call `then` when it waits for refills, and `supervise` again and again until it ends."""
    with folder.start("backup", "restore", *arguments, "--json") as running:
        wait_for(lambda: "its new history is" in running.err or not is_alive(running.pid), "the restore to wait")
        then()

        def has_ended() -> bool:
            supervise()
            return not is_alive(running.pid)

        wait_for(has_ended, "the restore to end", timeout_seconds=180)
        return running.ended()


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def assert_nothing_lost_is_found(disaster: Disaster) -> None:
    kept = disaster.living["doc-1"].contents[2]
    assert found(disaster.system, kept)[0] == kept
    lost = edited(disaster.living["doc-10"]).contents[0]
    for content in (lost, "The lost words of a deleted document.", "Chunk 0 of the document lost-0, as it was first."):
        assert content not in found(disaster.system, content)


def test_restore_that_is_killed_at_every_step_is_repeated(disaster: Disaster, bucket: str) -> None:
    """All stores are lost. Once the tables are in their place, `init` does the rest."""
    system, folder = disaster.system, disaster.system.folder
    place = ("--from", f"s3://{bucket}")
    with services(folder) as some:
        start_all(some)
        disaster.fill()
        some.processes[0].terminate()
        disaster.write_what_waits()
        made = folder.succeed("backup", "create", "--to", f"s3://{bucket}")
        assert made["tables"]["outbox"]["rows"] == 3
        assert made["copied"]["copied"] == made["objects"]["objects"] > DOCUMENTS
        again = folder.succeed("backup", "create", "--to", f"s3://{bucket}")
        assert (again["copied"]["copied"], again["copied"]["skipped"]) == (0, made["copied"]["copied"])
        some.relay()
        disaster.await_completed()
        disaster.write_what_is_lost()
        kill_all(some)
        disaster.lose_mysql()
        disaster.lose_milvus()
        disaster.empty_bucket()
        for point in POINTS:
            die_while_restoring(folder, point, *place)
            refused = folder.run("write", "-", stdin=disaster.living["doc-1"].line())
            assert "the database has no rag-outbox tables yet" in refused.err, point
        die_while_restoring(folder, AFTER_MOVE, *place)
        refused = folder.run("backup", "restore", *place)
        assert (refused.status, "go on with rag-outbox init" in refused.err) == (1, True)
        created = folder.run("init")
        assert created.status == 0, created
        assert "milvus: the store was missing; " in created.err
        start_all(some)
        disaster.await_completed()
        report = folder.run("reconcile", "--full", "--json")
        assert report.status == 0, report
        disaster.assert_restored()
        assert_nothing_lost_is_found(disaster)

        written = edited(disaster.living["doc-1"])  # the versions are used again, in the new history
        disaster.write(written)
        disaster.await_completed()
    [(version,)] = system.stores.sql("SELECT version FROM documents WHERE doc_id = 'doc-1'")
    disaster.living["doc-1"], disaster.versions["doc-1"] = written, version
    disaster.assert_restored()
    histories = folder.succeed("history", "list")["histories"]
    assert [one["reason"] for one in histories] == ["init", f"restored the backup of {again['timestamp']}"]
    assert all(one["checked"] for one in histories)


def test_only_mysql_is_lost_while_consumers_run(disaster: Disaster, tmp_path: Path) -> None:
    folder, copies = disaster.system.folder, (tmp_path / "copies").as_uri()
    with services(folder) as some:
        start_all(some)
        disaster.fill()
        some.processes[1].terminate()
        disaster.write_what_waits()
        wait_for(lambda: disaster.system.stores.count("outbox") == 0, "the relay to publish")
        folder.succeed("backup", "create", "--to", copies)  # the marks of Milvus that follow are lost
        some.consumer("milvus")
        disaster.await_completed()
        disaster.write_what_is_lost()
        disaster.lose_mysql()

        seen: list[Process] = []

        def restart() -> None:
            """As their supervisor would: some end only after the restore has begun to wait."""
            for process in list(some.processes):
                if process.status not in (None, 0) and process not in seen:
                    seen.append(process)
                    some.start(*process.arguments)

        done = restore(folder, "--from", copies, then=restart, supervise=restart)
        assert done.status == 0, done
        facts = done.facts
        assert (facts["incomplete"], facts["lacking"], facts["everything_because"]) == ([], [], "")
        assert facts["reconcile"]["healthy"]
        assert facts["copied"] > 0, "files that were changed or removed since"
        assert {"lost-0", "doc-1", "doc-3", "doc-6"} <= set(facts["documents"])
    disaster.assert_restored()
    assert_nothing_lost_is_found(disaster)
    [listed] = folder.succeed("backup", "list", "--from", copies)["backups"]
    assert (listed["complete"], listed["timestamp"]) == (True, facts["timestamp"])
