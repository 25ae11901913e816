"""Uploads on real servers, while workers, relay and consumers are killed: every file ends in all stores, once."""

from pathlib import Path

import pytest

from tests.chaos.conftest import initialised
from tests.support.servers import MilvusServer, MinioServer, Servers
from tests.support.services import Process, services
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(400)]

FILES = 24
KILLS = 3
LEASE_SECONDS = "3"


def test_killed_workers_lose_no_upload_and_write_none_twice(
    tmp_path: Path, servers: Servers, milvus_server: MilvusServer, minio_server: MinioServer
) -> None:
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    for number in range(FILES):
        sections = [f"# Part {part}\n\nThe number {number} of part {part}. {'More text. ' * 40}" for part in range(8)]
        (uploads / f"file{number}.md").write_text("\n\n".join(sections))
    (uploads / "damaged.pdf").write_bytes(b"%PDF-1.7 nothing follows")
    model = {"embedding_model": "wordllama-l2_supercat-256", "vector_dimension": "256"}
    with (
        initialised(tmp_path / "data", servers, milvus_server, minio_server, **model) as system,
        services(system.folder) as some,
    ):
        folder = system.folder

        def count(status: str) -> int:
            return int(system.stores.sql(f"SELECT COUNT(*) FROM processing_tasks WHERE {status}")[0][0])

        def worker() -> Process:
            return some.start("process", task_lease_seconds=LEASE_SECONDS)

        assert folder.succeed("ingest", str(uploads), "--queue")["queued"] == FILES + 1
        others = [some.relay(), some.consumer("milvus"), some.consumer("minio")]
        workers = [worker(), worker()]
        for kill in range(KILLS):
            done = (kill + 1) * FILES * 4 // (KILLS + 2)
            wait_for(
                lambda: count("status = 'completed'") >= done and count("status = 'running'"),  # noqa: B023
                "work under way",
                timeout_seconds=120,
            )
            workers.pop(0).kill()
            workers.append(worker())
            if kill == 1:
                others[0].kill()
                others[0] = some.relay()
        wait_for(lambda: not count("status IN ('queued', 'running')"), "the end of all tasks", timeout_seconds=120)
        wait_for(
            lambda: folder.succeed("status")["documents"] == {"completed": FILES, "failed": 1},
            "all documents to be completed",
            timeout_seconds=120,
        )
        assert system.stores.sql("SELECT DISTINCT version FROM documents WHERE status = 'completed'") == [(2,)]
        assert count("status = 'failed'") == 1
        assert count("task_type = 'sync'") == FILES
        assert folder.succeed("reconcile", "--full")["differences"] == 0
        [hit] = folder.succeed("search", "the number 7 of part 3", "--limit", "1")["hits"]
        assert "part" in hit["content"]
        for one in (*workers, *others):
            one.terminate()
