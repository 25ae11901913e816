"""`rag-outbox list`, `show` and `resync`: pages, all facts of a document, and a document that is sent again."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.acceptance.conftest import Here
from tests.support.commands import Folder

pytestmark = pytest.mark.acceptance


def lines(*documents: Mapping[str, object]) -> bytes:
    common = {"source_type": "text", "title": "Title", "chunks": [{"content": "Some words."}]}
    return b"".join(json.dumps({**common, **document}).encode() + b"\n" for document in documents)


@pytest.fixture
def filled(folder: Folder, here: Here) -> Folder:
    """doc-0 to doc-6: odd ones have the tag hr, doc-2 is a pdf; doc-5 is deleted, doc-6 failed."""
    given = [
        {
            "doc_id": f"doc-{number}",
            "business_tag": "hr" if number % 2 else None,
            "source_type": "pdf" if number == 2 else "text",
        }
        for number in range(7)
    ]
    assert here(folder, "write", "-", "--json", stdin=lines(*given)).facts["written"] == 7
    assert here(folder, "delete", "doc-5", "--json").facts["deleted"] == 1
    return folder


def ids(folder: Folder, here: Here, *options: str) -> list[str]:
    return [one["doc_id"] for one in here(folder, "list", "--json", *options).facts["documents"]]


def test_list_filters_by_state_tag_and_type(filled: Folder, here: Here) -> None:
    assert ids(filled, here) == ["doc-0", "doc-1", "doc-2", "doc-3", "doc-4", "doc-6"]
    assert ids(filled, here, "--business-tag", "hr") == ["doc-1", "doc-3"]
    assert ids(filled, here, "--source-type", "pdf") == ["doc-2"]
    assert ids(filled, here, "--state", "pending", "--business-tag", "hr") == ["doc-1", "doc-3"]
    assert ids(filled, here, "--state", "deleting") == ["doc-5"]
    assert ids(filled, here, "--state", "deleted") == ids(filled, here, "--state", "completed") == []
    filled.succeed("run", "--until-idle")
    assert ids(filled, here, "--state", "deleted") == ["doc-5"]
    assert len(ids(filled, here, "--state", "completed")) == 6


def test_list_pages_have_every_document_once(filled: Folder, here: Here) -> None:
    for options in ([], ["--updated-since", "2000-01-01"]):
        found: list[str] = []
        after: list[str] = []
        while True:
            page = here(filled, "list", "--json", "--limit", "2", *options, *after).facts
            found += [one["doc_id"] for one in page["documents"]]
            if page["next"] is None:
                break
            after = ["--after", page["next"]]
        assert found == ["doc-0", "doc-1", "doc-2", "doc-3", "doc-4", "doc-6"]


def test_list_since_a_time_begins_with_oldest_change(filled: Folder, here: Here) -> None:
    [(latest,)] = filled.sql("SELECT max(updated_at) FROM documents")
    here(filled, "write", "-", stdin=lines({"doc_id": "doc-0", "title": "New"}))
    changed = here(filled, "list", "--json", "--updated-since", str(latest).replace(" ", "T") + "Z").facts["documents"]
    assert [one["doc_id"] for one in changed][-1] == "doc-0"
    assert ids(filled, here, "--updated-since", "2999-01-01") == []
    [(written,)] = filled.sql("SELECT updated_at FROM documents WHERE doc_id = 'doc-0'")
    assert changed[-1]["updated_at"] == str(written).replace(" ", "T") + "Z"
    assert changed[-1] | {"updated_at": ""} == {
        "state": "pending",
        "doc_id": "doc-0",
        "title": "New",
        "source_type": "text",
        "business_tag": None,
        "version": 2,
        "chunk_count": 1,
        "updated_at": "",
    }


def test_list_for_a_person_names_next_page(filled: Folder, here: Here) -> None:
    shown = here(filled, "list", "--limit", "1").out.splitlines()
    assert shown[0].split() == ["document", "title", "type", "tag", "state", "version", "chunks", "updated"]
    assert shown[1].split()[:7] == ["doc-0", "Title", "text", "-", "pending", "1", "1"]
    assert shown[2] == "More: --after doc-0"
    assert here(filled, "list", "--state", "failed").out == "No documents.\n"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ["--state", "done"],
            "--state 'done': must be one of pending, processing, completed, failed, deleting, deleted",
        ),
        (["--source-type", "PDF"], "--source-type 'PDF': must be one of pdf, word, image, webpage, table, text"),
        (
            ["--updated-since", "soon"],
            "Invalid value for '--updated-since': 'soon': give a time like 2026-01-31T12:00 or "
            "2026-01-31T12:00Z; see rag-outbox list --help",
        ),
        (
            ["--updated-since", "2026-01-01", "--after", "doc-1"],
            "--after 'doc-1': with --updated-since, give the `next` of the page before",
        ),
    ],
)
def test_wrong_list_option_is_named(options: list[str], reason: str, prepared: Folder, here: Here) -> None:
    outcome = here(prepared, "list", "--json", *options)
    assert (outcome.status, outcome.facts) == (2, {"error": reason})


def test_list_never_cuts_an_id_or_a_time(folder: Folder, here: Here) -> None:
    doc_id = "x" * 60
    here(folder, "write", "-", stdin=lines({"doc_id": doc_id, "title": "A title " * 5}))
    header, row = here(folder, "list").out.splitlines()
    assert row.startswith(f"{doc_id}  A title A title ")
    assert row.rstrip()[-1] == "Z"
    assert header.startswith("document ")


def test_show_describes_a_document_completely(folder: Folder, tmp_path: Path, here: Here) -> None:
    (tmp_path / "note.md").write_text("# Note\n\nPrinters are on the second floor.")
    here(folder, "ingest", "note.md", "--business-tag", "人事")
    [doc_id] = ids(folder, here)

    waiting = here(folder, "show", doc_id, "--json").facts
    assert (waiting["state"], waiting["version"], waiting["business_tag"]) == ("pending", 1, "人事")
    assert {name: sink["state"] for name, sink in waiting["sinks"].items()} == {"milvus": "pending", "minio": "pending"}
    [event] = waiting["events"]
    assert (event["aggregate_version"], event["event_type"]) == (1, "rag.document.upserted.v1")
    assert event["payload_bytes"] > 100
    [chunk] = waiting["chunks"]
    assert (chunk["chunk_index"], chunk["content"][:6], chunk["milvus_synced"]) == (0, "# Note", False)

    folder.succeed("run", "--until-idle")
    here(folder, "delete", doc_id)
    deleting = here(folder, "show", doc_id, "--json").facts
    assert [one["operation_type"] for one in deleting["operations"]] == ["DELETE", "INSERT"]
    assert {name: sink["applied_version"] for name, sink in deleting["sinks"].items()} == {"milvus": 1, "minio": 1}
    assert deleting["state"] == "deleting"
    assert {file["kind"] for file in deleting["files"]} == {"raw", "text"}
    assert all(file["location"].endswith(file["object_key"]) for file in deleting["files"])


def test_show_for_a_person(filled: Folder, here: Here) -> None:
    shown = here(filled, "show", "doc-1").out.splitlines()
    assert shown[0] == "Title  [doc-1]"
    assert shown[1].startswith("pending, version 1 of history ")
    assert "source_type=text  business_tag=hr" in shown
    assert [line.split()[:4] for line in shown if line.startswith("m")] == [
        ["milvus", "pending", "0", "1"],
        ["minio", "pending", "0", "1"],
    ]
    assert any(line.endswith("not in Milvus yet  Some words.") for line in shown)
    assert "Some words." not in here(filled, "show", "doc-1", "--chunks", "0").out


def test_unknown_document_is_not_shown(prepared: Folder, here: Here) -> None:
    outcome = here(prepared, "show", "unknown", "--json")
    assert (outcome.status, outcome.facts) == (1, {"error": "no such document: 'unknown'"})


def test_resync_sends_named_documents_once_and_names_unknown_ones(filled: Folder, here: Here) -> None:
    outcome = here(filled, "resync", "doc-0", "unknown", "doc-0", "doc-5", "--json")
    assert outcome.status == 1
    assert outcome.facts == {
        "resynced": [{"doc_id": "doc-0", "version": 2}],
        "failed": [
            {"doc_id": "unknown", "reason": "no such document"},
            {"doc_id": "doc-5", "reason": "it is deleted"},
        ],
    }
    filled.succeed("run", "--until-idle")
    filled.assert_in_step()


def test_resync_of_a_document_whose_file_failed_says_what_it_needs(folder: Folder, tmp_path: Path, here: Here) -> None:
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.7 nothing")
    folder.succeed("ingest", str(tmp_path / "bad.pdf"), "--queue")
    assert folder.run("run", "--until-idle").status == 1
    [(doc_id, task_id)] = folder.sql("SELECT doc_id, task_id FROM processing_tasks WHERE status = 'failed'")

    outcome = here(folder, "resync", doc_id, "--json")

    [sent] = outcome.facts["resynced"]
    assert (outcome.status, sent["version"], sent["task_id"]) == (0, 2, task_id)
    assert sent["stays_failed"].startswith("it stays failed, because its file could not be processed: bad.pdf: ")
    assert f"{doc_id}: it stays failed" in outcome.err
    assert f" error); run rag-outbox tasks retry {task_id}" in outcome.err
    assert folder.sql("SELECT status FROM documents") == [("failed",)]


def test_resync_takes_vectors_of_absent_sink_from_archive(folder: Folder, here: Here) -> None:
    chunks = [{"content": content} for content in ("one", "same", "two", "same", "x" * 2_000)]
    here(folder, "write", "-", stdin=lines({"doc_id": "d", "chunks": chunks}))
    folder.succeed("run", "--until-idle")
    with folder.milvus() as client:
        client.delete("rag_vectors", filter='doc_id == "d"')
    folder.change("UPDATE sink_states SET state = 'absent', applied_version = 0 WHERE sink = 'milvus'")

    assert folder.succeed("resync", "d") == {"resynced": [{"doc_id": "d", "version": 2}], "failed": []}

    folder.succeed("run", "--until-idle")
    folder.assert_in_step()


def test_resync_without_archive_says_what_is_missing(folder: Folder, here: Here) -> None:
    here(folder, "write", "-", stdin=lines({"doc_id": "d"}))
    folder.succeed("run", "--until-idle")
    for archived in (folder.path / "objects").rglob("embeddings/**/*.*"):
        if archived.is_file():
            archived.unlink()
    folder.change("UPDATE sink_states SET state = 'absent', applied_version = 0 WHERE sink = 'milvus'")

    outcome = here(folder, "resync", "d", "--json")

    reason = "the archive lacks the vectors of 1 chunk: write the document again"
    assert (outcome.status, outcome.facts) == (1, {"resynced": [], "failed": [{"doc_id": "d", "reason": reason}]})
