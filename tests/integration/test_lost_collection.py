"""A dropped Milvus collection stops its consumer; `init` creates it, and every row comes back without a write."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from pymilvus import MilvusClient

from tests.support.commands import Folder
from tests.support.in_step import FIELDS, assert_in_step
from tests.support.pipeline import DIMENSION, MODEL, vector
from tests.support.servers import MilvusServer
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration

MISSING = "there is no Milvus collection rag_vectors_1: run rag-outbox init"
Connect = Callable[[], AbstractContextManager[MilvusClient]]


@pytest.fixture(params=["lite", "server"])
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Folder, Connect]]:
    """A system of the embedded profile, and how to connect to its Milvus."""
    settings = {"embedding_model": MODEL, "vector_dimension": str(DIMENSION)}
    if request.param == "lite":
        folder = Folder(tmp_path / "data", **settings)
        folder.succeed("init")
        yield folder, folder.milvus
        return
    server: MilvusServer = request.getfixturevalue("milvus_server")
    with server.database() as database:

        @contextmanager
        def connect() -> Iterator[MilvusClient]:
            with server.client(database) as client:
                yield client

        folder = Folder(tmp_path / "data", profile="embedded", milvus_uri=f"{server.uri}/{database}", **settings)
        assert folder.run("init").status == 0
        yield folder, connect


def write(folder: Folder, *documents: tuple[str, list[str]]) -> None:
    """Write documents, given as (doc_id, contents)."""
    lines = [
        {
            "doc_id": doc_id,
            "title": doc_id,
            "source_type": "text",
            "chunks": [{"content": content, "vector": vector(content)} for content in contents],
        }
        for doc_id, contents in documents
    ]
    folder.succeed("write", "-", stdin="\n".join(map(json.dumps, lines)).encode())


def drop(connect: Connect) -> None:
    with connect() as client:
        described = client.describe_collection("rag_vectors")
        client.drop_alias("rag_vectors")
        client.drop_collection(described["collection_name"])


def states(folder: Folder) -> dict[str, tuple[int, int]]:
    """Per sink: documents that are applied, and absent."""
    found = folder.succeed("sinks", "list")["sinks"]
    return {one["name"]: (one["applied"], one["absent"]) for one in found}


def assert_all_back(folder: Folder, connect: Connect) -> None:
    with connect() as client:
        rows = client.query(
            "rag_vectors", 'chunk_id != ""', [*FIELDS, "content"], limit=16_000, consistency_level="Strong"
        )
    assert_in_step(folder.sql, rows, folder.objects())


def test_dropped_collection_is_refilled_without_a_write(system: tuple[Folder, Connect]) -> None:
    folder, connect = system
    documents = [(f"d{number}", [f"{part} of {number}" for part in range(5)]) for number in range(20)]
    write(folder, *documents)
    folder.succeed("run", "--until-idle")
    assert states(folder) == {"milvus": (20, 0), "minio": (20, 0)}
    drop(connect)

    stopped = folder.run("run", "--until-idle")
    assert (stopped.status, stopped.err) == (1, f"rag-outbox: {MISSING}\n")
    assert states(folder) == {"milvus": (20, 0), "minio": (20, 0)}

    created = folder.run("init", "--json")
    assert created.status == 0
    assert "milvus: the store was missing; 20 documents wait for their refill\n" in created.err
    assert states(folder) == {"milvus": (0, 20), "minio": (20, 0)}
    assert folder.succeed("status")["documents"] == {"pending": 20}

    assert folder.succeed("run", "--until-idle") == {"events": 0}
    assert states(folder) == {"milvus": (20, 0), "minio": (20, 0)}
    assert_all_back(folder, connect)


def test_collection_dropped_under_a_running_consumer_stops_it(tmp_path: Path, milvus_server: MilvusServer) -> None:
    settings = {"embedding_model": MODEL, "vector_dimension": str(DIMENSION)}
    with milvus_server.database() as database, milvus_server.client(database) as client:

        @contextmanager
        def connect() -> Iterator[MilvusClient]:
            yield client

        folder = Folder(tmp_path / "data", profile="embedded", milvus_uri=f"{milvus_server.uri}/{database}", **settings)
        assert folder.run("init").status == 0
        with folder.start("run") as running:
            write(folder, ("a", ["one", "two"]), ("b", ["three"]))
            wait_for(lambda: states(folder) == {"milvus": (2, 0), "minio": (2, 0)}, "the documents to be applied")
            drop(connect)
            write(folder, ("a", ["one", "new"]))
            stopped = running.ended()
        assert (stopped.status, stopped.err) == (1, f"rag-outbox: {MISSING}\n")
        assert not client.has_collection("rag_vectors")
        status = folder.succeed("status")
        assert (status["pending_events"], status["dead_letters"], status["failed"]) == (1, 0, [])

        assert folder.run("init").status == 0
        folder.succeed("run", "--until-idle")
        assert_all_back(folder, connect)
