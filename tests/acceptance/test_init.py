"""`rag-outbox init --system-id`: the id of a new system, which never changes."""

import shutil
import uuid
from pathlib import Path

import pytest

from tests.acceptance.conftest import Here
from tests.support.commands import Folder

pytestmark = pytest.mark.acceptance

GIVEN = "5E57AB1E-0000-4000-8000-00000000000A"


def test_system_id_is_given_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data")
    assert folder.succeed("init", "--system-id", GIVEN)["system_id"] == GIVEN.lower()
    before = folder.dump()
    for arguments in ((), ("--system-id", GIVEN.lower())):
        again = folder.run("init", *arguments)
        assert again.status == 0
        assert f"System id: {GIVEN.lower()}\n" in again.out

    other = str(uuid.uuid4())
    refused = folder.run("init", "--system-id", other)
    assert refused.status == 1
    assert refused.err == (
        f"rag-outbox: the database is that of the system {GIVEN.lower()}, not {other}: a system keeps its id\n"
    )
    assert folder.dump() == before


def test_new_system_gets_an_id_of_its_own(tmp_path: Path) -> None:
    ids = {folder.succeed("init")["system_id"] for folder in (Folder(tmp_path / "a"), Folder(tmp_path / "b"))}
    assert len({uuid.UUID(one) for one in ids}) == 2


@pytest.mark.parametrize("given", ["", "rag", "5e57ab1e"])
def test_system_id_must_be_a_uuid(given: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data")
    refused = folder.run("init", "--system-id", given)
    assert refused.status == 2
    assert f"{given!r} is no UUID" in refused.err
    assert not folder.path.exists()


def test_dimension_that_the_built_in_model_does_not_have_is_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data")
    refused = folder.run("init", vector_dimension="128")
    assert refused.status == 2
    reason = "RAG_OUTBOX_VECTOR_DIMENSION: wordllama-l2_supercat-256 has 256 dimensions, not 128"
    assert refused.err == f"rag-outbox: {reason}\n"
    assert folder.run("init").status == 0, "nothing was stored"


def test_data_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "with space, 100%25 and a ?#")
    folder.succeed("init")
    (tmp_path / "cats.md").write_text("The cat sleeps on a warm mat all day.")
    folder.succeed("ingest", str(tmp_path / "cats.md"))
    folder.succeed("run", "--until-idle")
    [hit] = folder.succeed("search", "cat")["hits"]
    assert hit["content"] == "The cat sleeps on a warm mat all day."
    assert folder.sql("SELECT COUNT(*) FROM documents") == [(1,)]
    assert len(folder.objects()) > 0
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [folder.path.name]


def test_local_stores_may_be_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    stores = {
        "database_url": f"sqlite:///{tmp_path}/here/metadata.db",
        "milvus_uri": f"file://{tmp_path}/here/vectors.db",
        "object_store": f"file://{tmp_path}/here/objects",
    }
    folder = Folder(tmp_path / "data", **stores)
    folder.succeed("init")
    folder.succeed("run", "--until-idle")
    made = {path.name for path in (tmp_path / "here").iterdir()}
    assert {"metadata.db", "vectors.db", "objects"} <= made


def test_data_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = Folder(tmp_path / "data").run("init", "--json", data_dir=f"{tmp_path}/file/data")
    assert refused.status == 2
    assert refused.facts == {"error": f"RAG_OUTBOX_DATA_DIR: cannot make {tmp_path}/file/data: Not a directory"}


@pytest.mark.parametrize(
    "arguments", [["consume", "minio"], ["relay"], ["run"], ["search", "x"], ["init"]], ids=" ".join
)
def test_services_use_no_local_store_that_is_not_written_out(arguments: list[str], folder: Folder, here: Here) -> None:
    """A consumer would fill a folder that nobody reads, and mark its documents as applied."""
    before = sorted(folder.path.rglob("*"))
    database = f"sqlite:///{folder.path}/metadata.db"
    given = {"profile": "services", "database_url": database, "data_dir": str(folder.path.parent / "other")}
    if arguments[0] == "consume":
        given["kafka_bootstrap_servers"] = "127.0.0.1:1"
    missing = {"consume": "OBJECT_STORE", "search": "OBJECT_STORE"}.get(arguments[0], "KAFKA_BOOTSTRAP_SERVERS")
    outcome = here(folder, *arguments, **given)
    assert outcome.status == 2
    assert outcome.err.startswith(f"rag-outbox: RAG_OUTBOX_{missing} is not set, and the profile is services since ")
    assert not (folder.path.parent / "other").exists()
    assert sorted(folder.path.rglob("*")) == before


def test_another_namespace_is_refused_by_every_command(folder: Folder, here: Here) -> None:
    for command in (["init"], ["status"], ["run", "--until-idle"], ["search", "x"]):
        outcome = here(folder, *command, namespace="other")
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err == "rag-outbox: RAG_OUTBOX_NAMESPACE: the namespace of this system is 'rag', not 'other'\n"
    assert here(folder, "status").status == 0


def test_init_on_stores_of_another_system_creates_no_tables(prepared: Folder, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data")
    shutil.copytree(prepared.path / "objects", folder.path / "objects")
    refused = folder.run("init")
    assert refused.status == 1
    assert "belongs to the system" in refused.err
    assert folder.sql("SELECT name FROM sqlite_master") == []
