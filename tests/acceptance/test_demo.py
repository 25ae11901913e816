"""`rag-outbox demo` succeeds, its claims are true, and it changes only its own folder."""

import re
from pathlib import Path

import pytest

from operations.demo.samples import SAMPLES, copy_readable
from producer.processing.extract import formats
from tests.acceptance.conftest import Here
from tests.support.commands import Folder, Outcome

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a demo that was killed."""
    folder = tmp_path_factory.mktemp("demo") / "shown"
    (folder / "documents").mkdir(parents=True)
    (folder / ".rag-outbox-demo").touch()
    (folder / "documents" / "old.md").write_text("# Old")
    (folder / "data").mkdir()
    (folder / "data" / "metadata.db").write_text("cut off")
    return folder


@pytest.fixture(scope="module")
def outcome(folder: Path) -> Outcome:
    """A demo next to the user's own system, whose settings it must ignore."""
    own = folder.parent / "own"
    own.mkdir()
    (folder.parent / ".env").write_text(f"RAG_OUTBOX_DATABASE_URL=sqlite:///{own}/metadata.db\n")
    users = Folder(own, object_store=f"file://{own}", embedding_model="bge-m3", vector_dimension="1024")
    return users.run("demo", "--folder", "shown")


@pytest.mark.timeout(300)
def test_demo_shows_the_pipeline_on_real_documents(outcome: Outcome) -> None:
    assert (outcome.status, outcome.err) == (0, "")
    said = re.search(r"^   (\d+) documents with (\d+) chunks$", outcome.out, re.MULTILINE)
    assert said is not None
    documents, chunks = map(int, said.groups())
    assert documents >= 30
    assert chunks >= 500
    assert f"{documents} events applied to both stores" in outcome.out
    assert re.search(r"one paragraph added: the event carried 1 of \d+ chunks", outcome.out)
    assert "document deleted: the same search no longer finds it" in outcome.out


def test_demo_finds_a_file_of_every_format_by_a_question(outcome: Outcome) -> None:
    suffixes = {Path(sample.name).suffix for sample in SAMPLES}
    assert suffixes == {".pdf", ".docx", ".html", ".csv", ".png"}
    for sample in SAMPLES:
        found = re.search(
            rf"^   {re.escape(repr(sample.question))}\n   0\.\d+  {sample.name}: ", outcome.out, re.MULTILINE
        )
        assert found is not None, sample


def test_demo_leaves_out_formats_whose_extra_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda _: None)
    assert [sample.name for sample in copy_readable(tmp_path)] == ["mountains.csv"]
    assert [path.name for path in tmp_path.iterdir()] == ["mountains.csv"]
    assert {sample.missing_extra for sample in SAMPLES} == {"html", "ocr", "office", "pdf", None}


def test_crash_drill_kills_at_work_and_finds_no_difference(outcome: Outcome) -> None:
    said = re.search(r"killed with (\d+) of (\d+) documents written and (\d+) applied \((\d+) events", outcome.out)
    assert said is not None
    written, count, applied, _ = map(int, said.groups())
    assert 0 < applied <= written <= count
    assert f"started again: {count - written} documents written, {written} already present" in outcome.out
    assert "0 differences" in outcome.out


def test_demo_stores_agree_and_other_stores_stay_untouched(outcome: Outcome, folder: Path) -> None:
    assert outcome.status == 0
    Folder(folder / "data").assert_in_step()
    assert list((folder.parent / "own").iterdir()) == []
    assert not (folder / "documents" / "old.md").exists()


def test_demo_says_what_to_try_next(outcome: Outcome, folder: Path, here: Here) -> None:
    assert f"export RAG_OUTBOX_DATA_DIR={folder / 'data'}" in outcome.out

    hits = here(Folder(folder / "data"), "search", "parse dates and time zones", "--json").facts["hits"]
    assert len(hits) == 5


def test_demo_refuses_a_folder_with_other_content(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.md").write_text("years of work")

    outcome = Folder(tmp_path / "data").run("demo", "--folder", "mine")

    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == f"rag-outbox: {mine} exists and is not a demo; choose another folder with --folder\n"
    assert (mine / "thesis.md").read_text() == "years of work"
