"""`rag-outbox ingest`: which file is which document, what is left out, and what `--delete-missing` may delete."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from operations.ingest import files as ingesting
from schema.limits import SOURCE_URL_CHARACTERS
from tests.acceptance.conftest import Here
from tests.support.commands import Folder

pytestmark = pytest.mark.acceptance

LIVING = "SELECT doc_id, title FROM documents WHERE deleted_at IS NULL ORDER BY title"


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"Words about {name}.".encode("ascii", "replace"))
    return folder


def titles(folder: Folder) -> list[str]:
    return [title for _, title in folder.sql(LIVING)]


def test_link_to_newest_release_keeps_documents(folder: Folder, tmp_path: Path, here: Here) -> None:
    make(tmp_path / "releases" / "1", "stays.md", "goes.md", "other.md")
    make(tmp_path / "releases" / "2", "stays.md", "other.md")
    current = tmp_path / "current"
    current.symlink_to("releases/1")
    assert here(folder, "ingest", "current", "--json").facts["written"] == 3
    current.unlink()
    current.symlink_to("releases/2")

    facts = here(folder, "ingest", "current", "--delete-missing", "--json").facts

    assert (facts["written"], facts["unchanged"], facts["deleted"]) == (0, 2, 1)
    assert titles(folder) == ["other", "stays"]


def test_named_source_keeps_documents_when_its_folder_moves(folder: Folder, tmp_path: Path, here: Here) -> None:
    make(tmp_path / "here", "sub/a.md", "b.md", "c.md")
    assert here(folder, "ingest", "here", "--source", "handbook", "--json").facts["written"] == 3
    (tmp_path / "here" / "b.md").unlink()
    (tmp_path / "here").rename(tmp_path / "there")

    facts = here(folder, "ingest", "there", "--source", "handbook", "--delete-missing", "--json").facts

    assert (facts["written"], facts["unchanged"], facts["deleted"]) == (0, 2, 1)
    urls = folder.sql("SELECT source_url FROM documents WHERE deleted_at IS NULL ORDER BY source_url")
    assert urls == [("rag-source://handbook/c.md",), ("rag-source://handbook/sub/a.md",)]


def test_two_folders_at_one_path_are_two_sources(folder: Folder, tmp_path: Path, here: Here) -> None:
    make(tmp_path / "mount", "a.md")
    assert here(folder, "ingest", "mount", "--source", "first", "--json").facts["written"] == 1
    (tmp_path / "mount" / "a.md").write_text("Words of another disk.")
    assert here(folder, "ingest", "mount", "--source", "second", "--json").facts["written"] == 1
    assert titles(folder) == ["a", "a"]


def test_delete_missing_tells_sources_apart_by_case_and_wildcard(folder: Folder, tmp_path: Path, here: Here) -> None:
    for source in ("hand_book", "Hand_Book", "handXbook", "hand_book2"):
        make(tmp_path / source, "a.md", "b.md", "c.md")
        here(folder, "ingest", source, "--source", source)
        here(folder, "ingest", source)
    (tmp_path / "hand_book" / "a.md").unlink()
    for options in (["--source", "hand_book"], []):
        assert here(folder, "ingest", "hand_book", "--delete-missing", "--json", *options).facts["deleted"] == 1
    left = folder.sql("SELECT count(*) FROM documents WHERE deleted_at IS NULL")
    assert left == [(4 * 3 * 2 - 2,)]


def test_deep_path_of_any_script_is_ingested_and_deleted(folder: Folder, tmp_path: Path, here: Here) -> None:
    deep = tmp_path / "deep"
    deep.mkdir()
    start = os.open(deep, os.O_RDONLY)
    for _ in range(14):  # step by step: the whole path is near the limit of the system
        os.mkdir("人事部門的規定" * 12, dir_fd=start)
        below = os.open("人事部門的規定" * 12, os.O_RDONLY, dir_fd=start)
        os.close(start)
        start = below
    for name in ("一.md", "二.md", "三.md"):
        with os.fdopen(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=start), "w") as file:
            file.write(f"文件{name}")
    for options in ([], ["--source", "人事"]):
        facts = here(folder, "ingest", "deep", "--json", *options).facts
        assert (facts["written"], facts["failed"]) == (3, [])
    assert folder.sql("SELECT DISTINCT length(source_url) FROM documents") == [(SOURCE_URL_CHARACTERS,)]
    os.unlink("二.md", dir_fd=start)
    os.close(start)
    for options in ([], ["--source", "人事"]):
        facts = here(folder, "ingest", "deep", "--delete-missing", "--json", *options).facts
        assert (facts["unchanged"], facts["deleted"]) == (2, 1)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "x" * 65, "\udce9"])
def test_unusable_source_name_is_refused(name: str, folder: Folder, tmp_path: Path, here: Here) -> None:
    make(tmp_path / "docs", "a.md")
    outcome = here(folder, "ingest", "docs", "--source", name, "--json")
    assert outcome.status == 2
    assert outcome.facts["error"].endswith("give 1 to 64 letters, digits, dots, hyphens and underscores")


def test_named_source_takes_one_folder(folder: Folder, tmp_path: Path, here: Here) -> None:
    make(tmp_path, "a/x.md", "b/x.md")
    for paths in (["a", "b"], ["a/x.md"]):
        outcome = here(folder, "ingest", *paths, "--source", "s", "--json")
        assert (outcome.status, outcome.facts["error"]) == (2, "--source names one folder: give it as the only PATH")


def test_labels_stay_unless_given(folder: Folder, tmp_path: Path, here: Here) -> None:
    docs = make(tmp_path / "docs", "a.md")
    here(folder, "ingest", "docs", "--business-tag", "hr", "--language", "en")
    assert here(folder, "ingest", "docs", "--json").facts["unchanged"] == 1
    (docs / "a.md").write_text("New words.")
    assert here(folder, "ingest", "docs", "--domain", "work", "--json").facts["written"] == 1
    assert folder.sql("SELECT business_tag, domain, language FROM documents") == [("hr", "work", "en")]


def test_links_to_folders_are_followed_once(folder: Folder, tmp_path: Path, here: Here) -> None:
    docs = make(tmp_path / "docs", "real/a.md")
    make(tmp_path / "outside", "b.md")
    (docs / "again").symlink_to("real")
    (docs / "other").symlink_to(tmp_path / "outside")
    (docs / "twice").symlink_to(tmp_path / "outside")
    (tmp_path / "outside" / "up").symlink_to(tmp_path)
    (docs / "self").symlink_to("self")

    facts = here(folder, "ingest", "docs", "--json").facts

    assert (facts["written"], titles(folder)) == (2, ["a", "b"])
    assert facts["skipped"] == [
        f"{docs}/again: a link to a folder that is read by another path",
        f"{docs}/twice: a link to a folder that is read by another path",
        f"{docs}/other/up: a link to a folder above",
    ]
    assert facts["unsupported_files"] == [f"{docs}/self"]


def test_broken_link_and_pipe_are_named(folder: Folder, tmp_path: Path, here: Here) -> None:
    docs = make(tmp_path / "docs", "a.md")
    (docs / "broken.md").symlink_to("gone.md")
    os.mkfifo(docs / "pipe.md")
    outcome = here(folder, "ingest", "docs", "--json")
    assert outcome.facts["failed"] == [f"{docs}/broken.md: no such file", f"{docs}/pipe.md: not a regular file"]
    assert (outcome.status, outcome.facts["written"]) == (1, 1)


def test_unreadable_folder_is_named_and_nothing_deleted(
    folder: Folder, tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = make(tmp_path / "docs", "a.md", "b.md", "c.md", "closed/d.md")
    here(folder, "ingest", "docs")
    scandir = os.scandir

    def refuse(path: str) -> object:  # the tests may run as root, whom no permission stops
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    reason = f"{docs}/closed: cannot be read: Permission denied"
    outcome = here(folder, "ingest", "docs", "--json")
    assert (outcome.status, outcome.facts["failed"]) == (1, [reason])
    (docs / "a.md").unlink()
    outcome = here(folder, "ingest", "docs", "--delete-missing", "--json")
    assert outcome.facts == {"error": f"--delete-missing: nothing is written or deleted, since {reason}"}
    assert len(titles(folder)) == 4


def test_delete_missing_refuses_to_delete_more_than_half(folder: Folder, tmp_path: Path, here: Here) -> None:
    docs = make(tmp_path / "docs", "a.md", "b.md", "c.md", "d.md")
    here(folder, "ingest", "docs")
    for name in ("a.md", "b.md", "c.md"):
        (docs / name).unlink()
    make(docs, "new.md")

    outcome = here(folder, "ingest", "docs", "--delete-missing", "--json")

    assert outcome.facts["error"] == (
        f"--delete-missing: 3 of 4 files ingested from {docs} are gone, so nothing is written or deleted; "
        "if the folder is complete, add --force"
    )
    assert titles(folder) == ["a", "b", "c", "d"]
    assert here(folder, "ingest", "docs", "--delete-missing", "--force", "--json").facts["deleted"] == 3
    assert titles(folder) == ["d", "new"]


def test_missing_folder_deletes_nothing(folder: Folder, tmp_path: Path, here: Here) -> None:
    docs = make(tmp_path / "docs", "a.md")
    here(folder, "ingest", "docs")
    docs.rename(tmp_path / "moved")
    outcome = here(folder, "ingest", "docs", "--delete-missing", "--force", "--json")
    assert outcome.facts == {"error": "no such file or folder: docs"}
    assert titles(folder) == ["a"]


def test_excluded_files_are_neither_written_nor_deleted(folder: Folder, tmp_path: Path, here: Here) -> None:
    make(tmp_path / "docs", "a.md", "drafts/b.md", "sub/c.log", "sub/d.md")
    here(folder, "ingest", "docs")
    make(tmp_path / "docs", "drafts/new.md", "new.md")
    options = ("--exclude", "drafts", "--exclude", "*.log", "--exclude", "sub/d*", "--delete-missing", "--json")

    facts = here(folder, "ingest", "docs", *options).facts

    assert (facts["written"], facts["unchanged"], facts["deleted"]) == (1, 1, 0)
    assert titles(folder) == ["a", "b", "c", "d", "new"]


def test_hidden_file_that_was_named_is_not_missing(folder: Folder, tmp_path: Path, here: Here) -> None:
    make(tmp_path / "docs", "a.md", ".notes/b.md", ".c.md")
    assert here(folder, "ingest", "docs/.notes", "docs/.c.md", "docs", "--json").facts["written"] == 3
    assert here(folder, "ingest", "docs", "--delete-missing", "--json").facts["deleted"] == 0


def test_force_writes_only_what_differs(folder: Folder, tmp_path: Path, here: Here) -> None:
    make(tmp_path / "docs", "a.md", "b.md")
    here(folder, "ingest", "docs")
    facts = here(folder, "ingest", "docs", "--force", "--json").facts
    assert (facts["written"], facts["unchanged"], facts["embedded"]) == (0, 2, 0)


def test_dry_run_tells_all_and_touches_nothing(folder: Folder, tmp_path: Path, here: Here) -> None:
    docs = make(tmp_path / "docs", "a.md", "b.md", "c.md")
    here(folder, "ingest", "docs")
    [gone] = folder.sql("SELECT doc_id FROM documents WHERE title = 'a'")
    (docs / "a.md").unlink()
    (docs / "b.md").write_text("changed")
    (docs / "new.md").write_text("large " * 20_000)  # would be staged
    (docs / "empty.md").touch()
    before = folder.dump(), folder.objects()

    outcome = here(folder, "ingest", "docs", "--delete-missing", "--dry-run", "--json")

    counts = {name: outcome.facts[name] for name in ("written", "unchanged", "deleted", "embedded", "dry_run")}
    assert counts == {"written": 2, "unchanged": 1, "deleted": 1, "embedded": 0, "dry_run": True}
    assert outcome.facts["would_write"] == [f"{docs}/b.md", f"{docs}/new.md"]
    assert outcome.facts["would_delete"] == list(gone)
    assert outcome.facts["failed"] == [f"{docs}/empty.md: no text in it: the file is empty or blank"]
    assert (folder.dump(), folder.objects()) == before
    assert f"would write: {docs}/b.md" in here(folder, "ingest", "docs", "--dry-run").out.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
def test_file_name_of_any_bytes_gives_valid_json(folder: Folder, tmp_path: Path, here: Here) -> None:
    docs = make(tmp_path / "docs", os.fsdecode(b"caf\xe9.md"))
    (docs / os.fsdecode(b"\xff.md")).touch()
    (docs / os.fsdecode(b"\xfe.svg")).touch()

    outcome = here(folder, "ingest", "docs", "--json")

    assert json.loads(outcome.out.encode())["written"] == 1
    assert outcome.facts["failed"] == [f"{docs}/\\udcff.md: no text in it: the file is empty or blank"]
    assert outcome.facts["unsupported_files"] == [f"{docs}/\\udcfe.svg"]
    assert folder.sql("SELECT title, source_url LIKE '%/caf%E9.md' FROM documents") == [("caf\\udce9", 1)]
    assert "udcfe.svg" in here(folder, "ingest", "docs").out


def test_interrupted_ingest_tells_what_it_wrote(
    folder: Folder, tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "docs", *(f"{number:03d}.md" for number in range(60)))  # more than a batch
    write = ingesting._write

    def interrupt_second(*arguments: object) -> None:
        if folder.sql("SELECT 1 FROM documents"):
            signal.raise_signal(signal.SIGINT)
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ingesting, "_write", interrupt_second)
    outcome = here(folder, "ingest", "docs", "--json")
    assert (outcome.status, outcome.facts["error"], outcome.facts["written"]) == (130, "interrupted", 50)
    assert outcome.err.startswith("rag-outbox: interrupted; until then: 50 documents with 50 chunks (50 embedded); ")
