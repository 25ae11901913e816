"""`rag-outbox retention` in the embedded profile: the command, its preview, and erase."""

import json
from pathlib import Path

import pytest

from tests.acceptance.conftest import Here
from tests.support.commands import Folder
from tests.support.pipeline import DIMENSION, MODEL, vector

pytestmark = pytest.mark.acceptance

POLICIES = ["operation_logs", "deleted_documents", "dead_letters", "processing_tasks", "archives"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder with documents of which `kept` lost a text, and `gone` was deleted; all stores hold them."""
    folder = Folder(
        tmp_path_factory.mktemp("retention") / "data", embedding_model=MODEL, vector_dimension=str(DIMENSION)
    )
    folder.succeed("init")
    write(folder, "secret", ("secret", "public"), "kept", "gone")
    folder.succeed("run", "--until-idle")
    write(folder, "public", ("public",), "kept")
    folder.succeed("delete", "gone")
    folder.succeed("run", "--until-idle")
    return folder


def write(folder: Folder, title: str, texts: tuple[str, ...], *doc_ids: str) -> None:
    chunks = [{"content": one, "vector": vector(one)} for one in texts]
    lines = [{"doc_id": one, "title": title, "source_type": "text", "chunks": chunks} for one in doc_ids]
    folder.succeed("write", "-", stdin="\n".join(map(json.dumps, lines)).encode())


@pytest.fixture
def folder(written: Folder, tmp_path: Path) -> Folder:
    return Folder.copied(written, tmp_path / "data")


def test_preview_names_what_goes_and_the_run_removes_it(folder: Folder, here: Here) -> None:
    folder.change("UPDATE operation_logs SET created_at = '2020-01-01 00:00:00.000000' WHERE log_id <= 2")
    folder.change("UPDATE documents SET deleted_at = '2020-02-01 00:00:00.000000' WHERE doc_id = 'gone'")
    before = folder.dump()
    shown = here(folder, "retention", "--dry-run", "--json").facts
    assert folder.dump() == before
    assert list(shown["policies"]) == POLICIES
    found = {name: (one["days"], one["count"], one["oldest"]) for name, one in shown["policies"].items()}
    assert found["operation_logs"] == (365, 2, "2020-01-01T00:00:00.000000Z")
    assert found["deleted_documents"] == (30, 1, "2020-02-01T00:00:00.000000Z")
    assert found["dead_letters"][:2] == (90, 0)

    done = here(folder, "retention", "--json").facts
    removed = {name: one["removed"] for name, one in done["policies"].items()}
    assert removed == dict.fromkeys(POLICIES, 0) | {"operation_logs": 2, "deleted_documents": 1}
    assert all(one["complete"] for one in done["policies"].values())
    assert folder.sql("SELECT title FROM documents WHERE doc_id = 'gone'") == [("",)]
    assert here(folder, "list", "--state", "deleted", "--json").facts["documents"][0]["title"] == ""
    assert "deleted" in here(folder, "show", "gone").out
    folder.assert_in_step()


def test_tables_are_for_a_person(folder: Folder, here: Here) -> None:
    preview = here(folder, "retention", "--dry-run", retention_archives_days="0")
    assert preview.status == 0
    assert all(name in preview.out for name in POLICIES)
    assert "for ever" in preview.out
    assert "operation_logs" in here(folder, "retention", "--seconds", "60").out


def test_zero_days_keep_everything(folder: Folder, here: Here) -> None:
    folder.change("UPDATE operation_logs SET created_at = '2020-01-01 00:00:00.000000'")
    kept = {f"retention_{name}_days": "0" for name in POLICIES}
    assert here(folder, "retention", "--json", **kept).facts["policies"] == {name: {"days": 0} for name in POLICIES}
    assert folder.sql("SELECT COUNT(*) FROM operation_logs") == [(4,)]


@pytest.mark.parametrize(("doc_id", "stays"), [("kept", {"public"}), ("gone", set())])
def test_erase_shows_and_then_does(folder: Folder, here: Here, doc_id: str, stays: set[str]) -> None:
    before = folder.dump()
    shown = here(folder, "retention", "--erase", doc_id)
    assert "Nothing is erased yet: repeat it with --yes." in shown.out
    assert "free pages of the SQLite file" in shown.out
    assert folder.dump() == before
    done = here(folder, "retention", "--erase", doc_id, "--yes", "--json").facts
    assert (done["doc_id"], done["erased"], done["counts"]["operation_logs"] > 0) == (doc_id, True, True)
    assert {one["place"] for one in done["cannot_reach"]} > {"backups, replicas and exports"}
    archived = b"".join(content for key, content in folder.objects().items() if f"embeddings/{doc_id}/" in key)
    assert (b"secret" in archived, {"public"} if b"public" in archived else set()) == (False, stays)
    assert [line for line in folder.dump() if "secret" in line and f"'{doc_id}'" in line] == []
    folder.assert_in_step()


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (("--erase", "unknown"), 1, "no such document: 'unknown'"),
        (("--erase", "kept", "--dry-run"), 2, "do not go with --erase"),
        (("--erase", "kept", "--seconds", "5"), 2, "do not go with --erase"),
        (("--yes",), 2, "--yes goes with --erase"),
        (("--seconds", "0"), 2, "--seconds"),
    ],
)
def test_wrong_use_is_named(folder: Folder, here: Here, arguments: tuple[str, ...], status: int, reason: str) -> None:
    outcome = here(folder, "retention", *arguments)
    assert (outcome.status, reason in outcome.err) == (status, True), outcome


def test_erase_of_an_unconfirmed_document_says_what_helps(folder: Folder, here: Here) -> None:
    here(folder, "delete", "kept")
    outcome = here(folder, "retention", "--erase", "kept", "--yes")
    assert outcome.status == 1
    assert "milvus has not confirmed version 3 (pending)" in outcome.err
    assert "rag-outbox run" in outcome.err
