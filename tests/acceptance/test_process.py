"""`ingest --queue`, `process`, `tasks` and `run` on one data folder."""

import os
from pathlib import Path

import pytest

from tests.support.commands import Folder
from tests.support.waiting import wait_for

pytestmark = pytest.mark.acceptance


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "data")
    folder.succeed("init")
    return folder


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    (uploads / "cats.md").write_text("# Cats\n\nThe cat sleeps on the sofa.")
    (uploads / "bad.pdf").write_bytes(b"%PDF-1.7 nothing follows")
    return uploads


def test_queued_file_is_processed_by_process(folder: Folder, uploads: Path) -> None:
    assert folder.succeed("ingest", str(uploads), "--queue")["queued"] == 2
    assert folder.succeed("ingest", str(uploads), "--queue")["unchanged"] == 2
    assert folder.succeed("status")["tasks"] == {"queued": 2, "running": 0, "failed": 0}
    done = folder.run("process", "--until-idle", "--json")
    assert (done.status, done.facts) == (1, {"tasks": {"completed": 4, "failed": 1}})
    assert "bad.pdf" in done.err
    folder.succeed("run", "--until-idle")
    assert folder.succeed("status")["documents"] == {"completed": 1, "failed": 1}
    [hit] = folder.succeed("search", "where does the cat sleep")["hits"]
    assert "sofa" in hit["content"]
    listed = folder.succeed("tasks", "list")
    assert listed["counts"]["extract"] == {"queued": 0, "running": 0, "completed": 1, "failed": 1, "superseded": 0}
    [failed] = listed["tasks"]
    assert folder.succeed("tasks", "retry", failed["task_id"]) == {"queued": [failed["task_id"]], "not_failed": []}
    again = folder.run("tasks", "retry", "unknown", "--json")
    assert (again.status, again.facts["not_failed"]) == (1, ["unknown"])
    assert folder.succeed("reconcile", "--full")["differences"] == 0


def test_file_that_waits_in_the_queue_keeps_its_place(folder: Folder, uploads: Path) -> None:
    """Another upload of the same file would begin again, and with one per minute never end."""
    path = uploads / "cats.md"
    folder.succeed("ingest", str(path))
    path.write_text("# Cats\n\nThe cat sleeps on the roof.")
    again = "ingest", str(path), "--queue"
    assert [folder.succeed(*again)["queued"] for _ in range(2)] == [1, 0]
    assert folder.succeed(*again, "--business-tag", "pets")["queued"] == 1
    path.write_text("# Cats\n\nThe cat sleeps on the wall.")
    said = [folder.run(*again, "--business-tag", "pets").out for _ in range(2)]
    assert [line.partition(";")[0] for line in said] == ["Queued 1 file", "Queued 0 files"]
    counts = folder.succeed("tasks", "list")["counts"]["extract"]
    assert (counts["queued"], counts["superseded"]) == (1, 2)


def test_options_of_a_file_that_waits_can_be_changed(folder: Folder, uploads: Path) -> None:
    (uploads / "bad.pdf").unlink()
    again = "ingest", str(uploads), "--queue"
    waiting = (
        "SELECT input_json ->> '$.labels.business_tag', input_json ->> '$.strategy', priority FROM processing_tasks "
        "WHERE status = 'queued'"
    )
    said = []
    for options in (
        ("--business-tag", "pets"),
        ("--strategy", "sentence"),
        ("--priority", "10"),
        (),
        ("--priority", "10", "--strategy", "sentence", "--business-tag", "pets"),
        ("--priority", "-1"),
    ):
        queued = folder.succeed(*again, *options)["queued"]
        [row] = folder.sql(waiting)
        said.append((queued, *row))
    assert said == [
        (1, "pets", None, 0),
        (1, "pets", "sentence", 0),
        (1, "pets", "sentence", 10),
        (0, "pets", "sentence", 10),
        (0, "pets", "sentence", 10),
        (1, "pets", "sentence", -1),
    ]
    assert folder.run("process", "--until-idle").status == 0
    assert folder.sql("SELECT business_tag, chunk_strategy FROM documents JOIN chunks USING (doc_id)") == [
        ("pets", "sentence")
    ]


def test_older_file_that_comes_back_supersedes_the_one_that_waits(folder: Folder, uploads: Path) -> None:
    path = uploads / "cats.md"
    folder.succeed("ingest", str(path))
    first = path.read_text()
    path.write_text("# Cats\n\nThe cat sleeps on the roof.")
    folder.succeed("ingest", str(path), "--queue")
    path.write_text(first)
    assert folder.succeed("ingest", str(path), "--queue")["queued"] == 1
    assert folder.run("process", "--until-idle").status == 0
    assert folder.sql("SELECT content FROM chunks") == [(first,)]


def test_ingest_without_queue_writes_a_file_that_waits(folder: Folder, uploads: Path) -> None:
    path = uploads / "cats.md"
    folder.succeed("ingest", str(path), "--queue")
    assert folder.succeed("ingest", str(path))["written"] == 1
    assert folder.succeed("ingest", str(path))["unchanged"] == 1
    assert folder.run("process", "--until-idle", "--json").facts == {"tasks": {"superseded": 1}}
    assert folder.sql("SELECT content FROM chunks") == [(path.read_text(),)]


def test_process_of_one_step_ends_although_later_steps_wait(folder: Folder, uploads: Path) -> None:
    (uploads / "bad.pdf").unlink()
    (uploads / os.fsdecode(b"caf\xe9.md")).write_text("Coffee.")
    assert folder.succeed("ingest", str(uploads), "--queue")["queued"] == 2
    done = folder.run("process", "--only", "extract", "--until-idle", "--json")
    assert (done.status, done.facts) == (0, {"tasks": {"completed": 2}})
    assert folder.succeed("tasks", "list")["counts"]["chunk"]["queued"] == 2


def test_run_until_idle_fails_with_a_file_that_cannot_be_read(folder: Folder, uploads: Path) -> None:
    folder.succeed("ingest", str(uploads), "--queue")
    outcome = folder.run("run", "--until-idle")
    assert outcome.status == 1
    assert "not every file could be processed: extract of 'bad-" in outcome.err
    assert "sink" not in outcome.err
    assert "failed: bad.pdf: damaged" in outcome.err
    assert folder.succeed("status")["documents"] == {"completed": 1, "failed": 1}
    folder.succeed("run", "--until-idle")  # it failed in an earlier run


def test_run_processes_queued_files(folder: Folder, uploads: Path) -> None:
    (uploads / "bad.pdf").unlink()
    folder.succeed("ingest", str(uploads), "--queue")
    with folder.start("run") as running:
        wait_for(lambda: folder.succeed("status")["documents"] == {"completed": 1}, "the document", timeout_seconds=120)
        running.terminate()
        assert running.ended().status == 0
    [hit] = folder.succeed("search", "where does the cat sleep")["hits"]
    assert "sofa" in hit["content"]


def test_run_that_can_process_no_file_ends_with_the_reason(folder: Folder, uploads: Path) -> None:
    folder.succeed("ingest", str(uploads), "--queue")
    folder.change("UPDATE processing_tasks SET available_at = '2100-01-01'")
    with folder.start("run") as running:
        wait_for((folder.path / "run.json").exists, "run to hold the folder", timeout_seconds=60)
        folder.change("UPDATE system_identity SET embedding_model = 'another'")
        folder.change("UPDATE processing_tasks SET available_at = '2000-01-01'")
        outcome = running.ended()
    assert outcome.status == 1
    assert "another" in outcome.err


def test_files_of_a_higher_priority_are_first(folder: Folder, tmp_path: Path) -> None:
    for number, priority in enumerate((0, 5, -5)):
        path = tmp_path / f"{number}.md"
        path.write_text("A text.")
        folder.succeed("ingest", str(path), "--queue", "--priority", str(priority))
    assert {one["priority"] for one in folder.succeed("tasks", "list", "--status", "queued")["tasks"]} == {0, 5, -5}
    assert folder.run("process", "--only", "extract", "--until-idle", "--workers", "1").status == 0
    started = folder.sql(
        "SELECT title FROM processing_tasks JOIN documents USING (doc_id) WHERE task_type = 'extract' "
        "ORDER BY processing_tasks.started_at"
    )
    assert [title for (title,) in started] == ["1", "0", "2"]
    refused = folder.run("ingest", str(tmp_path), "--priority", "1")
    assert (refused.status, "--priority goes with --queue" in refused.err) == (2, True)


def test_unknown_step_is_refused(folder: Folder) -> None:
    outcome = folder.run("process", "--only", "index")
    assert outcome.status == 2
    assert "--only 'index': choose one of extract, chunk, embed, sync" in outcome.err
