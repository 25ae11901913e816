"""`rag-outbox ingest`: writes only changed files, embeds only new chunks, and reports every file that it skips."""

from pathlib import Path

import pytest

from operations.ingest.sources import doc_id
from producer.processing.extract.formats import BY_SUFFIX
from tests.acceptance.conftest import Here
from tests.support.commands import Folder, Outcome

pytestmark = pytest.mark.acceptance

NOTHING: dict[str, object] = {
    "written": 0,
    "unchanged": 0,
    "queued": 0,
    "deleted": 0,
    "unsupported": 0,
    "unsupported_files": [],
    "chunks": 0,
    "embedded": 0,
    "failed": [],
    "incomplete": [],
    "redirected": [],
    "skipped": [],
    "by_type": {},
}


def wrote(source_type: str, documents: int, chunks: int, *, embedded: int) -> dict[str, object]:
    """The facts of documents of one type, without tables and images."""
    counts = {"documents": documents, "chunks": chunks, "tables": 0, "images": 0}
    return {"written": documents, "chunks": chunks, "embedded": embedded, "by_type": {source_type: counts}}


def section(title: str) -> str:
    """A section that is too large to share a chunk with another one."""
    return f"## {title}\n\n" + f"What is to be known about {title} stands here. " * 14


@pytest.fixture
def handbook(tmp_path: Path) -> Path:
    """A document of three chunks and one of one chunk; a hidden file, a hidden folder, and an unsupported type."""
    handbook = tmp_path / "handbook"
    (handbook / "sub" / ".git").mkdir(parents=True)
    (handbook / "Leave Policy (2024).md").write_text("\n\n".join(map(section, ("holidays", "illness", "parents"))))
    (handbook / "sub" / "notes.txt").write_text("Printers are on the second floor.")
    (handbook / ".draft.md").write_text("hidden")
    (handbook / "sub" / ".git" / "config.md").write_text("hidden")
    (handbook / "logo.svg").write_bytes(b"<svg/>")
    return handbook


def test_only_changes_are_written_and_embedded(folder: Folder, handbook: Path, here: Here) -> None:
    policy = handbook / "Leave Policy (2024).md"

    logo = {"unsupported": 1, "unsupported_files": [str(handbook / "logo.svg")]}

    def ingest(*options: str) -> dict[str, object]:
        return here(folder, "ingest", "handbook", "--json", *options).facts

    assert ingest() == NOTHING | logo | wrote("text", 2, 4, embedded=4)
    assert folder.succeed("run", "--until-idle") == {"events": 2}
    first_ids = folder.sql("SELECT doc_id FROM documents ORDER BY doc_id")
    assert [doc_id[:-12] for (doc_id,) in first_ids] == ["leave-policy-2024-", "notes-"]

    assert ingest() == NOTHING | logo | {"unchanged": 2}

    policy.write_text(policy.read_text().replace("about illness", "about sickness"))
    assert ingest() == NOTHING | logo | wrote("text", 1, 3, embedded=1) | {"unchanged": 1}
    assert folder.succeed("run", "--until-idle") == {"events": 1}

    labelled = NOTHING | logo | wrote("text", 2, 4, embedded=0)
    assert ingest("--business-tag", "hr", "--language", "en", "--domain", "work") == labelled
    assert folder.succeed("run", "--until-idle") == {"events": 2}
    assert folder.sql("SELECT DISTINCT business_tag, language, domain FROM documents") == [("hr", "en", "work")]
    assert folder.sql("SELECT doc_id FROM documents ORDER BY doc_id") == first_ids
    folder.assert_in_step()


def test_delete_missing_deletes_only_documents_of_missing_files(folder: Folder, handbook: Path, here: Here) -> None:
    other = handbook.parent / "handbook-2"  # its name starts with the name of the first folder
    other.mkdir()
    (other / "stays.md").write_text("Another folder.")
    written = {"doc_id": "written", "title": "T", "source_type": "text", "chunks": [{"content": "Not from a file."}]}
    here(folder, "write", "-", stdin=str(written).replace("'", '"').encode())
    assert here(folder, "ingest", "handbook", "handbook-2", "--json").facts["written"] == 3
    (handbook / "sub" / "notes.txt").unlink()
    (other / "stays.md").unlink()

    kept = NOTHING | {"unchanged": 1, "unsupported": 1, "unsupported_files": [str(handbook / "logo.svg")]}
    assert here(folder, "ingest", "handbook", "--json").facts == kept
    assert here(folder, "ingest", "handbook", "--delete-missing", "--json").facts == kept | {"deleted": 1}
    assert here(folder, "ingest", "handbook", "--delete-missing", "--json").facts == kept
    deleted = folder.sql("SELECT title FROM documents WHERE deleted_at IS NOT NULL")
    assert deleted == [("notes",)]

    (handbook / "sub" / "notes.txt").write_text("Printers are on the third floor.")
    assert here(folder, "ingest", "handbook", "--json").facts["written"] == 1
    assert folder.sql("SELECT version FROM documents WHERE title = 'notes' AND deleted_at IS NULL") == [(3,)]


def test_file_over_64_kib_is_staged_and_copied(folder: Folder, tmp_path: Path, here: Here) -> None:
    lines = "".join(f"Line {number} of a long text, which goes on and on.\n" for number in range(1_500))
    (tmp_path / "long.txt").write_text(lines)
    (tmp_path / "limit.md").write_text("x" * 65_536)

    assert here(folder, "ingest", "long.txt", "limit.md", "--json").facts["written"] == 2
    staged = {key: content for key, content in folder.objects().items() if key.startswith("temp/upload_")}
    assert list(staged.values()) == [lines.encode()] * 2  # the original, and the text extracted from it
    folder.succeed("run", "--until-idle")

    objects = folder.objects()
    assert {key for key in objects if key.startswith("temp/")} == staged.keys()  # the sweep removes them a day later
    assert sorted(len(objects[key]) for key in objects if key.startswith("raw-files/")) == [65_536, len(lines)]

    assert here(folder, "ingest", "long.txt", "--json").facts == NOTHING | {"unchanged": 1}
    relabelled = here(folder, "ingest", "long.txt", "--business-tag", "new", "--json").facts
    assert (relabelled["written"], relabelled["embedded"]) == (1, 0)
    left = {key for key in folder.objects() if key.startswith("temp/")}
    assert left == staged.keys()  # no new one: the object store has the file already
    folder.succeed("run", "--until-idle")
    folder.assert_in_step()


def test_failing_file_is_named_and_others_are_written(folder: Folder, handbook: Path, here: Here) -> None:
    (handbook / "broken.md").write_bytes(b"caf\xe9")
    (handbook / "empty.txt").touch()

    outcome = here(folder, "ingest", "handbook", "handbook/logo.svg", "--json")

    failed = [
        f"{handbook}/broken.md: not UTF-8: byte 0xe9 at offset 3 (unexpected end of data); "
        "no other encoding is certain: convert the file to UTF-8",
        f"{handbook}/empty.txt: no text in it: the file is empty or blank",
        f"{handbook}/logo.svg: unsupported file type '.svg'; supported: {' '.join(sorted(BY_SUFFIX))}",
    ]
    assert outcome.status == 1
    written = wrote("text", 2, 4, embedded=4)
    logo = {"unsupported": 1, "unsupported_files": [f"{handbook}/logo.svg"]}
    assert outcome.facts == NOTHING | written | logo | {"failed": failed}
    assert outcome.err.splitlines() == [f"failed: {reason}" for reason in failed]
    assert folder.sql("SELECT count(*) FROM documents") == [(2,)]


def test_missing_path_writes_nothing(folder: Folder, handbook: Path, here: Here) -> None:
    outcome = here(folder, "ingest", "handbook", "gone")

    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == "rag-outbox: no such file or folder: gone\n"
    assert folder.sql("SELECT * FROM documents") == []


def test_text_output_of_real_command(folder: Folder, handbook: Path) -> None:
    """Runs the real command; the other tests of this file call it in their own process."""
    assert folder.run("ingest", str(handbook)) == Outcome(
        0,
        "Wrote 2 documents with 4 chunks (4 embedded); 0 unchanged, 0 deleted, 1 of unsupported types, 0 failed.\n"
        f"Not of a supported type: {handbook}/logo.svg\n"
        "type  documents  chunks  tables  images\n"
        "text          2       4       0       0\n",
        "",
    )


def test_doc_id_depends_on_path_only() -> None:
    """The digits are the start of the path's SHA-256, computed by sha256sum."""
    assert doc_id(Path("/handbook/sub/Leave Policy (2024).md")) == "leave-policy-2024-e067026c9fc7"
    assert doc_id(Path("/handbook/日本.md")) == "file-4bc33b6ea8e2"
