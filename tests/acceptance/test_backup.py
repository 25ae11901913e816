"""`rag-outbox backup` in the embedded profile: SQLite, a folder of objects, Milvus Lite."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from operations.backup import keys
from schema.object_store.directory import DirectoryStore
from tests.acceptance.conftest import Here
from tests.acceptance.test_command import lines
from tests.support.backups import change_manifest
from tests.support.commands import Folder

pytestmark = pytest.mark.acceptance

CAT, DOG = "The cat sleeps on a warm mat all day.", "The dog barks at night."
CATS: dict[str, Any] = {"doc_id": "cats", "title": "Cats", "chunks": [{"content": CAT}]}
DOGS: dict[str, Any] = {"doc_id": "dogs", "title": "Dogs", "chunks": [{"content": DOG}]}
OWLS: dict[str, Any] = {"doc_id": "owls", "title": "Owls", "chunks": [{"content": "An owl sees in the dark."}]}
LOST: list[dict[str, Any]] = [
    {"doc_id": "dogs", "title": "Dogs", "chunks": [{"content": "The dog has learnt to whistle."}]},
    {"doc_id": "fish", "title": "Fish", "chunks": [{"content": "A fish swims in the deep sea."}]},
]


def write(folder: Folder, *documents: dict[str, Any]) -> None:
    folder.succeed("write", "-", stdin=lines(*documents))
    folder.succeed("run", "--until-idle")


def contents(folder: Folder, text: str) -> list[str]:
    return [hit["content"] for hit in folder.succeed("search", text)["hits"]]


def lose_database(folder: Folder) -> None:
    for path in folder.path.glob("metadata.db*"):
        if not path.name.endswith(".relayed"):
            path.unlink()


def test_lost_database_and_lost_folder_are_restored(folder: Folder, tmp_path: Path) -> None:
    place = (tmp_path / "copies").as_uri()
    write(folder, CATS, DOGS)
    folder.change("INSERT INTO embedding_cache (cache_key, model, vector) VALUES ('k', 'm', 'what is cached')")
    made = folder.succeed("backup", "create", "--to", place)
    assert b"what is cached" not in (tmp_path / "copies" / made["dump"]["key"]).read_bytes()
    assert (made["copied"]["copied"], made["copied"]["gone"]) == (made["objects"]["objects"], 0)
    assert made["tables"]["documents"]["rows"] == 2
    for arguments in ((), ("--from", place)):
        [listed] = folder.succeed("backup", "list", *arguments)["backups"]
        assert (listed["timestamp"], listed["complete"]) == (made["timestamp"], True)
        verified = folder.succeed("backup", "verify", *arguments)
        assert (verified["differences"], verified["notes"]) == ([], [])
    write(folder, *LOST)
    noted = folder.succeed("status")["backups"]
    assert {place: one["timestamp"] for place, one in noted.items()} == dict.fromkeys(
        ("bucket", "copy"), made["timestamp"]
    )
    assert f"Newest backup copied with --to: {made['timestamp']}, 0.0 hours old" in folder.run("status").out

    refused = folder.run("backup", "restore")
    assert refused.status == 1
    assert refused.err.startswith("rag-outbox: not empty: there is ")
    [(seen,)] = folder.sql("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'")
    lose_database(folder)
    done = folder.run("backup", "restore", "--json")
    assert done.status == 3, done
    noted = folder.succeed("status")["backups"]
    assert (noted["bucket"]["timestamp"], noted["copy"]["timestamp"]) == (made["timestamp"], None)
    kinds = [(one["store"], one["kind"]) for one in done.facts["reconcile"]["kinds"]]
    assert set(kinds) == {("milvus", "orphaned"), ("minio", "orphaned")}, "of the fish, of which nothing tells"
    assert (done.facts["orphans"], done.facts["next"]) == (["fish"], "rag-outbox reconcile --repair --yes")
    assert set(contents(folder, "fish in the sea")) == {CAT, DOG}
    folder.succeed("write", "-", stdin=lines(OWLS))
    assert folder.sql("SELECT id FROM outbox") == [(seen + 1,)], "no id that the sinks have seen is used again"
    reasons = [one["reason"] for one in folder.succeed("history", "list")["histories"]]
    assert reasons == ["init", f"restored the backup of {made['timestamp']}"]
    folder.succeed(*done.facts["next"].split()[1:])
    folder.succeed("run", "--until-idle")
    folder.assert_in_step()

    shutil.rmtree(folder.path)
    done = folder.run("backup", "restore", "--from", place, "--json")
    assert (done.status, done.facts["everything_because"]) == (
        0,
        "no Kafka is set, so no topic tells what was lost",
    ), done
    assert done.facts["copied"] == made["copied"]["copied"]
    assert folder.sql("SELECT * FROM embedding_cache") == []
    folder.assert_in_step()
    write(folder, *LOST)
    assert contents(folder, "a dog that can whistle")[0] == "The dog has learnt to whistle."
    folder.assert_in_step()


def test_copy_keeps_what_an_older_backup_needs(folder: Folder, tmp_path: Path) -> None:
    """The key of a document's original stays, whatever it contains."""
    place = (tmp_path / "copies").as_uri()
    made = []
    for content in (b"first", b"second"):
        (tmp_path / "notes.txt").write_bytes(content)
        folder.succeed("ingest", str(tmp_path / "notes.txt"))
        folder.succeed("run", "--until-idle")
        made.append(folder.succeed("backup", "create", "--to", place))
    shutil.rmtree(folder.path)
    outcome = folder.run("backup", "restore", made[0]["timestamp"], "--from", place, "--json")
    assert (outcome.status, outcome.facts["lacking"]) == (0, []), outcome
    [file] = [value for key, value in folder.objects().items() if key.startswith("raw-files/")]
    assert file == b"first"
    folder.assert_in_step()


def test_verify_finds_what_is_damaged(folder: Folder, tmp_path: Path, here: Here) -> None:
    copies = DirectoryStore(tmp_path / "copies")
    place = copies.root.as_uri()
    write(folder, CATS)
    made = folder.succeed("backup", "create", "--to", place)
    archive = next(copies.keys("processed-data/embeddings/"))
    copies.remove([archive])
    path = copies.root / keys.dump_key(made["timestamp"], "sqlite3")
    with closing(sqlite3.connect(path)) as dump, dump:
        dump.execute("UPDATE documents SET title = 'Dogs'")
    outcome = here(folder, "backup", "verify", "--from", place, "--json")
    damaged, summary, lacking = outcome.facts["differences"]
    assert outcome.status == 3
    assert "is damaged: its SHA-256 is" in damaged
    assert summary == "1 objects are missing, and 0 have another size"
    assert lacking == f"{archive} is missing"
    digest = copies.sha256(made["dump"]["key"])
    change_manifest(copies, made["timestamp"], dump=made["dump"] | {"sha256": digest})
    first = here(folder, "backup", "verify", "--from", place, "--json").facts["differences"][0]
    assert first.startswith("table documents has other content")

    refused = here(folder, "backup", "restore", "--from", place, data_dir=str(tmp_path / "new"))
    assert (refused.status, "the dump differs from its manifest: table documents" in refused.err) == (1, True)
    assert not (tmp_path / "new" / "metadata.db").exists()


def test_what_does_not_fit_is_refused(folder: Folder, tmp_path: Path, here: Here) -> None:
    missing = here(folder, "backup", "verify")
    assert (missing.status, "there is no complete backup in" in missing.err) == (1, True)
    assert here(folder, "backup", "list").out.startswith("There is no backup in ")
    made = folder.succeed("backup", "create")
    new = str(tmp_path / "new")
    place = (folder.path / "objects" / "rag-knowledge-base").as_uri()
    cases: list[tuple[tuple[str, ...], dict[str, str], int, str]] = [
        (("--from", place), {}, 1, "the backup in that place has no copy of the objects"),
        (("20200101T000000Z", "--from", place), {}, 1, "there is no backup of 20200101T000000Z"),
        (("yesterday",), {}, 2, "'yesterday' is no timestamp of a backup"),
        (("--from", "ftp://x/y"), {}, 2, "--from 'ftp://x/y': must be s3://bucket"),
        (("--from", "s3://me:secret@x"), {}, 2, "--from: must be s3://bucket"),
        (("--from", "s3://x"), {}, 2, "is a folder and has no buckets"),
        (("--system-id", "5e57ab1e-0000-4000-8000-000000000009", "--from", place), {}, 1, "the backup is that of"),
        (("--from", place), {"namespace": "other"}, 1, "the backup has the namespace 'rag'"),
    ]
    for arguments, settings, status, reason in cases:
        refused = here(folder, "backup", "restore", *arguments, **({"data_dir": new} | settings))
        assert (refused.status, reason in refused.err, "secret" in refused.err) == (status, True, False), refused
        assert not Path(new, "metadata.db").exists()
    assert made["copied"] is None
    elsewhere = {"database_url": "mysql+pymysql://a:b@127.0.0.1:9/x", "profile": "embedded"}
    for command in ("verify", "restore"):
        refused = here(folder, "backup", command, **elsewhere)
        assert refused.status == 1
        assert "the backup is a dump of sqlite, and RAG_OUTBOX_DATABASE_URL names mysql" in refused.err
    itself = here(folder, "backup", "create", "--to", place)
    assert (itself.status, "name another one" in itself.err) == (1, True)
    assert [one["complete"] for one in here(folder, "backup", "list", "--json").facts["backups"]] == [True, True]
