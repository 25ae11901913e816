"""The system gets another embedding model while it works: processes are killed, and the change is undone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.chaos.conftest import System, initialised
from tests.support import embedding_server
from tests.support.commands import Folder
from tests.support.embedding_server import EmbeddingServer
from tests.support.servers import MilvusServer, MinioServer, Servers
from tests.support.services import services
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(500)]

DOCUMENTS = 250
EDITIONS = ("first", "second", "third")
OLD, NEW = "wordllama-l2_supercat-256", "other-model"


@pytest.fixture
def system(
    tmp_path: Path, servers: Servers, milvus_server: MilvusServer, minio_server: MinioServer
) -> Iterator[System]:
    model = {"embedding_model": OLD, "vector_dimension": "256"}
    with initialised(tmp_path, servers, milvus_server, minio_server, **model) as some:
        yield some


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with embedding_server.serve() as made:
        yield made


def line(doc_id: str, *contents: str) -> bytes:
    chunks = [{"content": content} for content in contents]
    return json.dumps({"doc_id": doc_id, "title": doc_id, "source_type": "text", "chunks": chunks}).encode() + b"\n"


def contents(number: int, edition: int = 0) -> tuple[str, str]:
    """Without a number for the edition: the old model does not see the order of words."""
    return f"The {EDITIONS[edition]} edition of document {number}", f"The end of document {number}"


def found(folder: Folder, question: str) -> str:
    """The best hit."""
    return str(folder.succeed("search", question, "--limit", "1")["hits"][0]["content"])


def rebuild(folder: Folder, *arguments: str) -> dict[str, Any]:
    """Its facts; it may say on its way that nothing moves."""
    outcome = folder.run("rebuild", "milvus", *arguments, "--json")
    assert outcome.status == 0, outcome
    return outcome.facts


def wait_until_completed(system: System) -> None:
    wait_for(lambda: system.stores.pending() == 0, "every document to be completed", timeout_seconds=180)


def assert_vectors_of_new_model(system: System, number: int) -> None:
    rows = system.stores.milvus.query(
        f"{system.stores.alias}_{number}",
        filter='chunk_id != ""',
        output_fields=["content", "vector"],
        limit=10_000,
        consistency_level="Strong",
    )
    assert len(rows) == 2 * DOCUMENTS
    for row in rows:
        assert np.allclose(row["vector"], embedding_server.vector(row["content"]), atol=1e-6)


def test_model_changes_under_writes_and_kills_and_back(system: System, server: EmbeddingServer) -> None:
    old, stores = system.folder, system.stores
    new = Folder(old.path, **(old.settings | {"embedding_model": NEW, "vector_dimension": "8"}))
    new.settings |= {"embedder": "openai", "embedder_url": server.url}
    options = [f"url={server.url}", f"model={NEW}", "dimension=8"]
    change = ["--embedder", "openai", *(part for one in options for part in ("--embedder-option", one))]
    with services(old) as some:
        some.relay()
        for sink in ("milvus", "minio"):
            some.consumer(sink)
        old.succeed("write", "-", stdin=b"".join(line(f"doc-{n}", *contents(n)) for n in range(DOCUMENTS)))
        wait_until_completed(system)

        first = some.start("rebuild", "milvus", *change)
        joined = "sink_states WHERE sink = 'milvus-2' AND state = 'applied'"
        wait_for(lambda: stores.count(joined) > 0 or first.status is not None, "the first refill")
        first.kill()
        some.processes[1].kill()  # the consumer of both instances
        old.succeed("write", "-", stdin=line("doc-0", *contents(0, edition=1)))  # writers go on with the old model
        some.consumer("milvus")
        prepared = rebuild(old, "--prepare")
        assert (prepared["serving"], prepared["prepared"]) == ("milvus", "milvus-2")
        wait_until_completed(system)
        assert found(old, contents(7)[0]) == contents(7)[0]
        assert found(old, contents(0, edition=1)[0]) == contents(0, edition=1)[0]

        rebuilt = rebuild(old, *change)
        assert (rebuilt["serving"], rebuilt["old"], rebuilt["model"]) == ("milvus-2", "milvus", NEW)
        for refused in (old.run("write", "-", stdin=line("late", "text")), old.run("search", "text")):
            assert (refused.status, f"is '{NEW}'" in refused.err) == (1, True), refused

        new.succeed("write", "-", stdin=line("doc-1", *contents(1, edition=2)))
        new.succeed("resync", "doc-2")  # the archive has its vectors of the previous model
        wait_until_completed(system)
        assert_vectors_of_new_model(system, 2)
        assert found(new, contents(1, edition=2)[0]) == contents(1, edition=2)[0]
        assert new.succeed("reconcile", "--full", "--vectors")["differences"] == 0
        wait_for(lambda: stores.count("sink_states WHERE state <> 'applied'") == 0, "the previous collection to follow")
        assert new.succeed("reconcile", "--full", "--vectors", "--sink", "milvus")["differences"] == 0

        back = rebuild(new, "--rollback")
        assert (back["serving"], back["model"]) == ("milvus", OLD)
        assert found(old, contents(1, edition=2)[0]) == contents(1, edition=2)[0]
        forward = rebuild(old, "--rollback")
        assert (forward["serving"], forward["model"]) == ("milvus-2", NEW)
        new.succeed("sinks", "remove", "milvus", "--yes")
        assert old.run("status").status == 1, "no collection of the previous model is left"
        assert rebuild(new)["serving"] == "milvus-3"
        assert_vectors_of_new_model(system, 3)
        assert [one.status for one in some.processes if one.name.startswith(("relay", "minio"))] == [None, None]
    assert new.succeed("reconcile", "--full", "--vectors")["differences"] == 0
