"""The commands of the runbooks, run as they stand there, block by block, with the exit status that the page says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from schema.database.connection import connect
from schema.kafka.names import Names
from tests.acceptance.conftest import Here
from tests.acceptance.test_dead_letters import spoil, with_long_label
from tests.chaos.conftest import System, initialised
from tests.support import documented_commands, kafka
from tests.support.commands import Folder
from tests.support.corpus import first_version
from tests.support.documented_commands import Command
from tests.support.pipeline import DIMENSION, MODEL, vector
from tests.support.servers import ROOT, MilvusServer, MinioServer, Servers

pytestmark = pytest.mark.acceptance

RUNBOOKS = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
ON_SERVERS = {"failover.md"}  # their commands need Kafka
PLACEHOLDERS = {"DOC_ID": "refused", "ID": "7"}
LETTER = 7  # the pages show it
STRAY = "raw-files/pdf/2020/01/02/nobody.pdf"
UNTIL_SIGTERM = {"relay", "consume", "monitor", "run"}  # these, without --until-idle, run in tests/chaos/
NOT_RUN = {  # command of a page → why it cannot run here
    "rag-outbox backup restore --from s3://rag-backups": "it needs a lost database: tests/chaos/test_restore.py",
}
COPY = "s3://rag-backups"  # where the pages copy backups to


def blocks(*, on_servers: bool) -> Iterator[Any]:
    for page in RUNBOOKS:
        if (page.name in ON_SERVERS) == on_servers:
            for number, found in enumerate(documented_commands.blocks(page), start=1):
                yield pytest.param(found, id=f"{page.stem}-{number}")


@pytest.fixture(scope="module")
def prepared_system(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Documents in every store, dead letter 7 of Milvus, and an object that no document has."""
    folder = Folder(
        tmp_path_factory.mktemp("runbooks") / "data", embedding_model=MODEL, vector_dimension=str(DIMENSION)
    )
    folder.succeed("init")
    folder.change(f"INSERT INTO sqlite_sequence (name, seq) VALUES ('outbox_dead_letters', {LETTER - 1})")
    chunks = [{"content": word, "vector": vector(word)} for word in ("one", "two")]
    lines = [
        {"doc_id": doc_id, "title": doc_id, "source_type": "text", "chunks": chunks} for doc_id in ("kept", "refused")
    ]
    folder.succeed("write", "-", stdin="\n".join(map(json.dumps, lines)).encode())
    spoil(folder, "refused", with_long_label)
    assert folder.run("run", "--until-idle").status == 1
    assert folder.sql("SELECT id, stage, state FROM outbox_dead_letters") == [(LETTER, "milvus", "open")]
    stray = folder.path / "objects" / "rag-knowledge-base" / STRAY
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"stray")
    folder.succeed("backup", "create", "--to", _copy_of(folder))
    return folder


def _copy_of(folder: Folder) -> str:
    return (folder.path.parent / "copy").as_uri()


@pytest.fixture
def after_failover(
    tmp_path: Path, servers: Servers, milvus_server: MilvusServer, minio_server: MinioServer, here: Here
) -> Iterator[System]:
    """A system on servers whose topic has an event that the database lost."""
    with initialised(tmp_path, servers, milvus_server, minio_server) as system:
        settings = system.folder.settings
        lines = b"".join(first_version(doc_id, 1).line() for doc_id in ("kept", "lost"))
        assert here(system.folder, "write", "-", stdin=lines).status == 0
        engine = connect(settings["database_url"])
        [(system_id,)] = system.stores.sql("SELECT system_id FROM system_identity")
        names = Names(settings["namespace"], system_id)
        with kafka.relaying(engine, servers, names):
            kafka.wait_until_empty(engine)
        with engine.begin() as connection:
            for table in ("chunks", "sink_states", "documents"):
                connection.execute(text(f"DELETE FROM {table} WHERE doc_id = 'lost'"))
        engine.dispose()
        yield system


def is_endless(command: Command) -> bool:
    return command.arguments[0] in UNTIL_SIGTERM and "--until-idle" not in command.arguments


def run_block(folder: Folder, here: Here, block: list[Command], copy: str = COPY) -> None:
    for command in block:
        if is_endless(command) or str(command) in NOT_RUN:
            continue
        arguments = [(PLACEHOLDERS | {COPY: copy}).get(word, word) for word in command.arguments]
        outcome = here(folder, *arguments)
        assert (outcome.status, str(command)) == (command.status, str(command)), outcome.out + outcome.err
        if command.reads:
            assert command.reads in outcome.facts


@pytest.mark.parametrize("block", list(blocks(on_servers=False)))
def test_commands_of_runbooks_work(block: list[Command], prepared_system: Folder, tmp_path: Path, here: Here) -> None:
    run_block(Folder.copied(prepared_system, tmp_path / "data"), here, block, _copy_of(prepared_system))


def test_commands_after_a_failover_work(after_failover: System, here: Here) -> None:
    shown = 0
    for parameters in blocks(on_servers=True):
        run_block(after_failover.folder, here, parameters.values[0])
        shown += 1
    assert shown >= 3


def test_every_command_that_is_not_run_is_one_of_a_page() -> None:
    shown = {str(one) for page in RUNBOOKS for block in documented_commands.blocks(page) for one in block}
    assert set(NOT_RUN) <= shown
