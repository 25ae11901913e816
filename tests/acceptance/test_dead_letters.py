"""`rag-outbox dead-letters` in the embedded profile: list, show, replay and discard what a store refused."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, text

from schema.database.connection import connect
from schema.events.events import MSGPACK, DocumentUpserted, encode
from tests.acceptance.conftest import Here
from tests.support.commands import Folder
from tests.support.pipeline import DIMENSION, MODEL, vector

pytestmark = pytest.mark.acceptance

LETTER = (
    "INSERT INTO outbox_dead_letters (id, stage, outbox_id, event_id, aggregate_type, aggregate_id, aggregate_version,"
    " event_type, content_type, payload, error, attempts, dead_at) VALUES"
    " (:id, :stage, 0, :id, 'document', :doc_id, 1, 't', 'c', 'x', :error, 1, :dead_at)"
)


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("letters") / "data", embedding_model=MODEL, vector_dimension=str(DIMENSION))
    folder.succeed("init")
    return folder


@pytest.fixture
def small(initialised: Folder, tmp_path: Path) -> Folder:
    """A folder whose vectors are short."""
    return Folder.copied(initialised, tmp_path / "data")


@contextmanager
def database(folder: Folder) -> Iterator[Connection]:
    engine = connect(f"sqlite:///{folder.path / 'metadata.db'}")
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def write(folder: Folder, here: Here, *doc_ids: str, **fields: object) -> None:
    chunks = [{"content": word, "vector": vector(word)} for word in ("one", "two", "one")]
    lines = [
        {"doc_id": doc_id, "title": doc_id, "source_type": "text", "chunks": chunks, **fields} for doc_id in doc_ids
    ]
    assert here(folder, "write", "-", stdin="\n".join(map(json.dumps, lines)).encode()).status == 0


def spoil(folder: Folder, doc_id: str, change: Callable[[DocumentUpserted], DocumentUpserted]) -> bytes:
    """Change the document's waiting event to one that a store refuses; returns its payload."""
    with database(folder) as connection:
        waiting = connection.execute(text("SELECT payload FROM outbox WHERE aggregate_id = :id"), {"id": doc_id})
        event = msgspec.msgpack.decode(waiting.scalar_one(), type=DocumentUpserted)
        payload = encode(change(event), MSGPACK)
        changed = text("UPDATE outbox SET payload = :payload WHERE aggregate_id = :id")
        connection.execute(changed, {"payload": payload, "id": doc_id})
    return payload


def with_long_label(event: DocumentUpserted) -> DocumentUpserted:
    """Milvus refuses it; the archive gets its vectors."""
    chunks = [msgspec.structs.replace(chunk, modal_type="m" * 17) for chunk in event.chunks]
    return msgspec.structs.replace(event, chunks=chunks)


def refuse(folder: Folder, here: Here, *doc_ids: str) -> Mapping[str, Any]:
    """Write documents, and let Milvus refuse them. Returns what `run` says."""
    write(folder, here, *doc_ids)
    for doc_id in doc_ids:
        spoil(folder, doc_id, with_long_label)
    outcome = folder.run("run", "--until-idle", "--json")
    assert outcome.status == 1
    return outcome.facts


def add_letters(folder: Folder, *letters: tuple[str, str, str, str]) -> None:
    """Stage, document, reason and hour of each; their ids are 1, 2, …"""
    with database(folder) as connection:
        for number, (stage, doc_id, error, hour) in enumerate(letters, start=1):
            given = {"id": number, "stage": stage, "doc_id": doc_id, "error": error}
            connection.execute(text(LETTER), {**given, "dead_at": f"2026-05-01 {hour}:00:00.000000"})


def test_refused_document_is_listed_shown_and_replayed(small: Folder, here: Here, tmp_path: Path) -> None:
    write(small, here, "a", "b")
    payload = spoil(small, "a", with_long_label)
    outcome = small.run("run", "--until-idle", "--json")
    assert outcome.status == 1
    refused = "not every sink holds its documents: milvus refused 'a' version 1: chunk "
    assert outcome.facts["error"].startswith(refused)
    assert small.succeed("run", "--until-idle") == {"events": 0}, "only what became a dead letter in this run"
    assert here(small, "status", "--json").facts["dead_letters"] == 1

    [letter] = here(small, "dead-letters", "list", "--json").facts["dead_letters"]
    time = letter.pop("time")
    assert time.endswith("Z")
    assert len(here(small, "dead-letters", "list", "--since", time, "--json").facts["dead_letters"]) == 1
    assert "modal_type has 17 bytes, Milvus takes 16" in letter.pop("reason")
    number = str(letter["id"])
    expected = {"stage": "milvus", "doc_id": "a", "version": 1, "attempts": 1, "state": "open"}
    assert letter == {"id": int(number), **expected}

    copied = tmp_path / "event"
    shown = here(small, "dead-letters", "show", number, "--payload", str(copied), "--json").facts
    assert copied.read_bytes() == payload
    assert (shown["payload_bytes"], shown["event_type"]) == (len(payload), "rag.document.upserted.v1")
    first, *_ = vector("one")
    assert shown["event"]["chunks"][0]["content"] == "one"
    assert shown["event"]["chunks"][0]["vector"].startswith(f"8 float32: {first:.4g}, ")
    assert "doc_id          a" in here(small, "dead-letters", "show", number).out

    done = {"id": int(number), "doc_id": "a", "stage": "milvus"}
    dry = here(small, "dead-letters", "replay", number, "--dry-run", "--json").facts
    assert dry == {"replayed": [{**done, "version": None}], "failed": [], "dry_run": True}
    said = here(small, "dead-letters", "replay", "--all", "--stage", "milvus").out
    assert said == f"Replayed {number}: a version 1 in milvus, sent again as version 2\n"
    assert small.succeed("run", "--until-idle") == {"events": 1}
    assert here(small, "status", "--json").facts["documents"] == {"completed": 2}
    assert here(small, "dead-letters", "list", "--json").facts == {"dead_letters": [], "next": None}
    nothing = here(small, "dead-letters", "replay", number, "--dry-run", "--json")
    assert (nothing.status, nothing.facts["replayed"]) == (1, [])
    [closed] = here(small, "dead-letters", "list", "--all", "--json").facts["dead_letters"]
    assert closed["state"] == "replayed"
    again = here(small, "dead-letters", "replay", number, "--json")
    assert again.status == 1
    assert "was replayed at 20" in again.facts["failed"][0]["error"]
    assert small.sql("SELECT operation_type, target_id FROM operation_logs ORDER BY log_id")[-1] == ("SYNC", "a")
    with database(small) as connection:
        connection.execute(text("DELETE FROM outbox_dead_letters"))
    small.assert_in_step()


def test_replayed_document_that_is_refused_again_is_a_new_letter(small: Folder, here: Here) -> None:
    refuse(small, here, "a")
    assert here(small, "dead-letters", "replay", "--all").status == 0
    spoil(small, "a", with_long_label)
    assert small.run("run", "--until-idle").status == 1
    found = here(small, "dead-letters", "list", "--all", "--json").facts["dead_letters"]
    assert [(one["version"], one["state"]) for one in found] == [(2, "open"), (1, "replayed")]
    newer, older = (one["id"] for one in found)
    both = here(small, "dead-letters", "replay", str(older), str(newer), "--json")
    assert both.status == 1
    assert [one["id"] for one in both.facts["failed"]] == [older]
    assert [(one["id"], one["version"]) for one in both.facts["replayed"]] == [(newer, 3)]


def test_letter_without_vectors_anywhere_fails_and_others_go_on(small: Folder, here: Here) -> None:
    refuse(small, here, "good")
    write(small, here, "lost")
    with database(small) as connection:
        connection.execute(text("UPDATE outbox SET payload = CAST('broken' AS BLOB)"))
    assert small.run("run", "--until-idle").status == 1
    outcome = here(small, "dead-letters", "replay", "--all", "--json")
    assert outcome.status == 1
    assert [one["doc_id"] for one in outcome.facts["replayed"]] == ["good"]
    assert [(one["doc_id"], one["stage"]) for one in outcome.facts["failed"]] == [("lost", "milvus"), ("lost", "minio")]
    for one in outcome.facts["failed"]:
        assert "need their vectors" in one["error"]
        assert one["error"].endswith("write the document again")
    assert small.sql("SELECT version FROM documents ORDER BY doc_id") == [(2,), (1,)]


def test_vectors_and_a_file_come_from_the_letter_itself(small: Folder, here: Here) -> None:
    """The object store refused the event, so that neither its archive nor its file exists."""
    write(small, here, "a", file={"base64": "eA==", "name": "a.txt"})

    def with_wrong_key(event: DocumentUpserted) -> DocumentUpserted:
        other = msgspec.structs.replace(event.files[0], object_key="../x", sha256="0" * 64)
        return msgspec.structs.replace(event, files=[*event.files, other])

    spoil(small, "a", with_wrong_key)
    assert small.run("run", "--until-idle").status == 1
    outcome = here(small, "dead-letters", "replay", "--all", "--json")
    assert outcome.status == 0, outcome
    assert small.succeed("run", "--until-idle") == {"events": 1}
    with database(small) as connection:
        connection.execute(text("DELETE FROM outbox_dead_letters"))
    small.assert_in_step()


def test_letter_of_a_deletion_is_replayed_by_a_refill(small: Folder, here: Here) -> None:
    write(small, here, "a")
    small.succeed("run", "--until-idle")
    assert here(small, "delete", "a").status == 0
    with database(small) as connection:
        connection.execute(text("UPDATE outbox SET payload = CAST('broken' AS BLOB)"))
    assert small.run("run", "--until-idle").status == 1
    assert len(here(small, "dead-letters", "list", "--json").facts["dead_letters"]) == 2
    outcome = here(small, "dead-letters", "replay", "--all")
    assert outcome.status == 0
    assert outcome.out.count("a refill removes the deleted document") == 2
    small.succeed("run", "--until-idle")
    assert here(small, "status", "--json").facts["documents"] == {"deleted": 1}


def test_newer_version_in_every_sink_supersedes_a_letter(small: Folder, here: Here) -> None:
    refuse(small, here, "a")
    write(small, here, "a", title="corrected")
    assert len(here(small, "dead-letters", "list", "--json").facts["dead_letters"]) == 1
    small.succeed("run", "--until-idle")
    assert here(small, "dead-letters", "list").out == "No dead letters.\n"
    [letter] = here(small, "dead-letters", "list", "--all", "--json").facts["dead_letters"]
    assert letter["state"] == "superseded"
    outcome = here(small, "dead-letters", "replay", str(letter["id"]))
    assert outcome.status == 1
    assert "every sink holds a newer version" in outcome.out


def test_discarded_letter_is_closed_and_logged(small: Folder, here: Here) -> None:
    refuse(small, here, "a", "b")
    first, second = sorted(one["id"] for one in here(small, "dead-letters", "list", "--json").facts["dead_letters"])
    for arguments in ((), ("--reason", " ")):
        assert here(small, "dead-letters", "discard", str(first), *arguments).status == 2
    assert here(small, "dead-letters", "discard", str(first), "--reason", "no", "--dry-run").status == 0
    discarded = here(small, "dead-letters", "discard", str(first), "--reason", "not wanted", "--json").facts
    assert discarded["discarded"] == [{"id": first, "doc_id": "a", "stage": "milvus"}]
    left = here(small, "dead-letters", "list", "--json").facts["dead_letters"]
    assert [one["id"] for one in left] == [second]
    assert here(small, "status", "--json").facts["dead_letters"] == 1
    again = here(small, "dead-letters", "discard", str(first), str(second), "--reason", "again", "--json")
    assert again.status == 1
    assert again.facts["failed"][0]["error"].endswith("not wanted")
    assert [one["id"] for one in again.facts["discarded"]] == [second]
    [row, _] = small.sql(
        "SELECT operation_type, target_table, target_id, payload FROM operation_logs WHERE operation_type = 'DELETE'"
    )
    assert row[:3] == ("DELETE", "outbox_dead_letters", "a")
    facts = json.loads(row[3])
    assert len(facts.pop("event_id")) == 36
    assert facts == {"stage": "milvus", "version": 1, "reason": "not wanted"}


def test_list_is_filtered_and_paged(small: Folder, here: Here) -> None:
    add_letters(
        small,
        ("relay", "a", "too large", "08"),
        ("milvus", "a", "Wrong 100% dimension", "09"),
        ("milvus", "b", "Wrong 1000 dimensions", "10"),
        ("minio", "b", "gone\nfor good", "11"),
        ("milvus", "c", "wrong", "12"),
    )

    def found(*options: str) -> list[int]:
        facts = here(small, "dead-letters", "list", *options, "--json").facts
        return [one["id"] for one in facts["dead_letters"]]

    assert found() == [5, 4, 3, 2, 1]
    assert found("--stage", "milvus") == [5, 3, 2]
    assert found("--doc-id", "b") == [4, 3]
    assert found("--since", "2026-05-01T09:00:00", "--until", "2026-05-01T11:00:00") == [3, 2]
    assert found("--reason", "wrong") == [5, 3, 2]
    assert found("--reason", "100%") == [2]
    assert found("--stage", "milvus", "--limit", "2") == [5, 3]
    assert found("--stage", "milvus", "--limit", "2", "--after", "3") == [2]
    assert here(small, "dead-letters", "list", "--limit", "2", "--json").facts["next"] == 4
    lines = here(small, "dead-letters", "list", "--doc-id", "b").out.splitlines()
    assert lines[0].split() == ["id", "stage", "doc_id", "version", "attempts", "time", "state", "reason"]
    assert lines[1].endswith("open   gone for good")
    assert len(lines) == 3


def test_empty_list_says_so(small: Folder, here: Here) -> None:
    assert here(small, "dead-letters", "list").out == "No dead letters.\n"
    for command in (["replay", "--all"], ["discard", "--all", "--reason", "x"]):
        outcome = here(small, "dead-letters", *command)
        assert (outcome.status, outcome.out) == (0, "No dead letters.\n")


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (["show", "99"], 1, "no such dead letter: 99"),
        (["replay", "7", "99"], 1, "no such dead letter: 7, 99"),
        (["discard", "99", "--reason", "x"], 1, "no such dead letter: 99"),
        (["show", "seven"], 2, "unable to parse string as an integer"),
        (["replay"], 2, "give the numbers of dead letters, or --all"),
        (["replay", "7", "--all"], 2, "give the numbers of dead letters or --all, not both"),
        (["replay", "7", "--stage", "milvus"], 2, "filters go with --all, not with numbers"),
        (["discard", "7"], 2, "Missing option '--reason'"),
        (["list", "--since", "yesterday"], 2, "give a time like 2026-01-31T12:00"),
    ],
)
def test_wrong_use_is_named(arguments: list[str], status: int, error: str, small: Folder, here: Here) -> None:
    outcome = here(small, "dead-letters", *arguments)
    assert outcome.status == status
    assert error in " ".join(outcome.err.replace("│", " ").split())
