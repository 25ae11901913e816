"""`rag-outbox rebuild` and `sinks remove` in the embedded profile: the real command on Milvus Lite."""

import json
from pathlib import Path

import pytest

from tests.support.commands import Folder
from tests.support.pipeline import DIMENSION, MODEL, vector
from tests.support.waiting import wait_for

pytestmark = pytest.mark.acceptance

SETTINGS = {"embedding_model": MODEL, "vector_dimension": str(DIMENSION)}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "data", **SETTINGS)
    made.succeed("init")
    return made


def write(folder: Folder, *doc_ids: str, text: str = "text") -> None:
    lines = [
        {
            "doc_id": doc_id,
            "title": doc_id,
            "source_type": "text",
            "chunks": [
                {"content": content, "vector": vector(content)} for content in (f"{text} {doc_id}", f"end of {doc_id}")
            ],
        }
        for doc_id in doc_ids
    ]
    folder.succeed("write", "-", stdin="\n".join(map(json.dumps, lines)).encode())


def sinks(folder: Folder) -> dict[str, tuple[bool, str]]:
    return {one["name"]: (one["required"], one["state"]) for one in folder.succeed("sinks", "list")["sinks"]}


def collections(folder: Folder) -> tuple[list[str], str]:
    """All collections, and the one that the alias points to."""
    with folder.milvus() as client:
        return client.list_collections(), client.describe_collection("rag_vectors")["collection_name"]


def assert_healthy(folder: Folder) -> None:
    folder.assert_in_step()
    assert folder.succeed("reconcile", "--full", "--vectors")["differences"] == 0


def test_rebuild_moves_to_a_new_collection_and_loses_nothing(folder: Folder) -> None:
    ids = [f"d{number}" for number in range(20)]
    write(folder, *ids)
    folder.succeed("run", "--until-idle")
    folder.succeed("delete", "d0")
    folder.succeed("run", "--until-idle")
    write(folder, "d1", "new", text="changed")  # their events wait
    outcome = folder.run("rebuild", "milvus", "--index", "FLAT", "--json")
    assert outcome.status == 0, outcome
    assert outcome.facts["serving"] == "milvus-2"
    assert outcome.facts["index"] == {"index_type": "FLAT", "params": {}}
    assert (outcome.facts["old"], outcome.facts["documents"], outcome.facts["being_refilled"]) == (None, 21, 2)
    assert collections(folder) == (["rag_vectors_2"], "rag_vectors_2")
    assert sinks(folder) == {"milvus-2": (True, "active"), "minio": (True, "active")}
    folder.succeed("run", "--until-idle")
    assert_healthy(folder)
    assert folder.succeed("reconcile", "--sink", "milvus")["sinks"] == ["milvus-2"], "the one that searches use"
    write(folder, "d1", text="again")
    folder.succeed("run", "--until-idle")
    assert folder.succeed("rebuild", "milvus")["index"]["index_type"] == "FLAT", "the next one has the same index"
    assert collections(folder) == (["rag_vectors_3"], "rag_vectors_3")
    assert_healthy(folder)


def test_killed_rebuild_does_no_harm_and_continues(folder: Folder) -> None:
    ids = [f"d{number}" for number in range(400)]
    write(folder, *ids)
    folder.succeed("run", "--until-idle")
    applied = "SELECT COUNT(*) FROM sink_states WHERE sink = 'milvus-2' AND state = 'applied'"
    with folder.start("rebuild", "milvus") as running:
        wait_for(lambda: folder.sql(applied)[0][0] > 0, "the first refill")
        running.kill()
    assert sinks(folder)["milvus-2"] == (False, "joining")
    write(folder, "d1", "new", text="changed")
    folder.succeed("run", "--until-idle")  # without the instance that joins: nobody waits for it
    assert folder.succeed("status")["documents"] == {"completed": 401}
    other = folder.run("rebuild", "milvus", "--index", "FLAT")
    assert (other.status, "milvus-2 is being built with another index" in other.err) == (1, True)
    assert folder.succeed("rebuild", "milvus")["serving"] == "milvus-2"
    assert collections(folder) == (["rag_vectors_2"], "rag_vectors_2")
    assert_healthy(folder)
    half_removed = (
        "INSERT INTO sinks (name, required, takes_vectors, takes_files, state) VALUES ('milvus', 0, 1, 0, 'leaving')"
    )
    folder.change(half_removed)
    assert folder.succeed("rebuild", "milvus")["serving"] == "milvus-2", "it finishes the removal of the old one"
    folder.change(half_removed)
    other = folder.run("rebuild", "milvus", "--index", "FLAT")
    assert (other.status, "milvus-2 has another index: run the command again" in other.err) == (1, True)
    assert sinks(folder).keys() == {"milvus-2", "minio"}


def test_rebuild_uses_nothing_of_a_collection_that_is_there(folder: Folder) -> None:
    write(folder, "kept")
    folder.succeed("run", "--until-idle")
    folder.succeed("backup", "create")
    write(folder, "lost")
    folder.succeed("run", "--until-idle")
    folder.succeed("rebuild", "milvus")
    for path in folder.path.glob("metadata.db*"):
        path.unlink()
    assert folder.run("backup", "restore", "--no-wait").status == 0
    folder.succeed("run", "--until-idle")
    assert collections(folder) == (["rag_vectors_1", "rag_vectors_2"], "rag_vectors_1")
    assert folder.succeed("rebuild", "milvus")["serving"] == "milvus-2"
    assert collections(folder) == (["rag_vectors_2"], "rag_vectors_2")
    assert folder.succeed("reconcile", "--full", "--sink", "milvus")["differences"] == 0


def test_rebuild_needs_run_to_be_stopped(folder: Folder) -> None:
    with folder.start("run"):
        wait_for((folder.path / "run.json").exists, "run to hold the folder")
        refused = folder.run("rebuild", "milvus")
    assert refused.status == 1
    assert "stop it first: writers may go on" in refused.err
    assert sinks(folder) == {"milvus": (True, "active"), "minio": (True, "active")}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["rebuild", "minio"], 1, "minio cannot be rebuilt"),
        (["rebuild", "milvus-2"], 2, "milvus-2 is an instance of milvus"),
        (["rebuild", "other"], 1, "there is no sink 'other'"),
        (["rebuild", "other", "--rollback"], 2, "go with milvus"),
        (["rebuild", "milvus", "--rollback"], 1, "there is no other instance"),
        (["rebuild", "milvus", "--index", "DISKANN"], 2, "--index 'DISKANN': must be one of HNSW"),
        (["rebuild", "milvus", "--index", "HNSW", "--index-parameters", "nlist=3"], 2, "HNSW has no 'nlist'"),
        (["rebuild", "milvus", "--index", "HNSW", "--index-parameters", "M=x"], 2, "'M=x' must be NAME=NUMBER"),
        (["rebuild", "milvus", "--index", "IVF_PQ"], 2, "IVF_PQ needs m=NUMBER"),
        (["rebuild", "milvus", "--index", "IVF_PQ", "--index-parameters", "m=3"], 2, "m=3 must divide the dimension"),
        (["rebuild", "milvus", "--index-parameters", "M=3"], 2, "go with --index"),
        (["sinks", "remove", "milvus"], 1, "milvus cannot be removed, searches use it"),
        (["sinks", "remove", "minio"], 1, "minio cannot be removed"),
        (["sinks", "remove", "other"], 1, "there is no sink 'other'"),
        (["sinks", "add", "milvus-2"], 2, "must be a sink of another package"),
        (["sinks", "add", "other"], 1, "no installed package has an entry point 'other'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_changes_nothing(prepared: Folder, arguments: list[str], status: int, message: str) -> None:
    before = prepared.dump()
    refused = prepared.run(*arguments)
    assert refused.status == status, refused
    assert message in refused.err
    assert prepared.dump() == before


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    made = Folder(tmp_path_factory.mktemp("rebuild") / "data", **SETTINGS)
    made.succeed("init")
    return made
