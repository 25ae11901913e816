"""`rag-outbox init --system-id`: the id of a new system, which never changes."""

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


def test_another_namespace_is_refused_by_every_command(folder: Folder, here: Here) -> None:
    for command in (["init"], ["status"], ["run", "--until-idle"], ["search", "x"]):
        outcome = here(folder, *command, namespace="other")
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err == "rag-outbox: RAG_OUTBOX_NAMESPACE: the namespace of this system is 'rag', not 'other'\n"
    assert here(folder, "status").status == 0
