"""The Milvus sink on a real Milvus 2.3: the contracts of every Milvus, a server's own answers, and its failures."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException
from sqlalchemy import Engine

from consumers.milvus import collection as milvus_collection
from consumers.milvus.errors import translate
from consumers.milvus.sink import MilvusSink
from operations.milvus_lite.restarting_sink import RestartingMilvusSink
from operations.settings import Settings
from operations.wiring import System
from schema.events.events import ChunkLabels
from schema.failures import Permanent, Retryable
from schema.sinks import MILVUS
from tests.contracts.milvus_collection import (
    ONES,
    MilvusCollectionContract,
    chunk,
    delete_change,
    rows,
    try_apply,
    try_create,
    upsert_change,
)
from tests.contracts.milvus_rows import MilvusRowsContract
from tests.support.pipeline import SYSTEM_ID
from tests.support.servers import MilvusServer, gone, native, states
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration


@pytest.fixture
def clients(milvus_server: MilvusServer) -> Iterator[Callable[[], MilvusClient]]:
    with milvus_server.database() as database, milvus_server.clients(database) as make:
        yield make


@pytest.fixture(scope="class")
def shared_clients(milvus_server: MilvusServer) -> Iterator[Callable[[], MilvusClient]]:
    with milvus_server.database() as database, milvus_server.clients(database) as make:
        yield make


@pytest.fixture
def client(clients: Callable[[], MilvusClient]) -> MilvusClient:
    return clients()


@pytest.fixture
def sink(client: MilvusClient) -> MilvusSink:
    sink = MilvusSink(client, 8, SYSTEM_ID)
    sink.create()
    return sink


class TestRows(MilvusRowsContract):
    """On the fixture `shared_clients`."""


class TestCollection(MilvusCollectionContract):
    """On the fixtures `clients`, `client` and `sink`."""

    indexes: ClassVar = {
        "vector": {"index_type": "HNSW", "metric_type": "COSINE", "M": "16", "efConstruction": "200"},
        "doc_id": {"index_type": "Trie"},  # it refuses INVERTED
        "modal_type": {"index_type": "Trie"},
        "business_tag": {"index_type": "Trie"},
    }


# Milvus 2.3 has no sparse weights


def test_old_milvus_stores_chunks_without_sparse_weights_and_warns_once(
    client: MilvusClient, caplog: pytest.LogCaptureFixture
) -> None:
    sink = MilvusSink(client, 8, SYSTEM_ID)
    for _ in range(2):
        sink.create()
    warnings = [record.getMessage() for record in caplog.records if record.name == "consumers.milvus.collection"]
    assert warnings == ["this Milvus takes no sparse weights: they are left out of the collection rag_vectors_1"]
    assert client.list_collections() == ["rag_vectors_1"], "the probe is dropped"
    sink.apply(upsert_change(1, [chunk("one", "content", sparse=b"\5\0\0\0\0\0\0\x3f")]))
    sink.apply(upsert_change(2, relabelled=[ChunkLabels(chunk_id="one")], business_tag="new"))
    found = rows(client)["one"]
    assert (found["content"], found["business_tag"], found["vector"], "sparse" in found) == (
        "content",
        "new",
        [1.0] * 8,
        False,
    )


# Answers of the server behind the sink's own checks


def test_too_long_value_refused_by_the_server_is_permanent(client: MilvusClient, sink: MilvusSink) -> None:
    sink.apply(upsert_change(1, [chunk("one")]))
    row = {**rows(client)["one"], "modal_type": "m" * 17}
    with pytest.raises(MilvusException) as refused:
        client.upsert("rag_vectors", [row])
    answer = translate(refused.value)
    assert isinstance(answer, Permanent)
    assert str(answer).startswith("Milvus: the length (17) of 0th string exceeds max length (16)")


def test_alias_moved_to_another_dimension_is_retryable(client: MilvusClient, sink: MilvusSink) -> None:
    """No event is at fault, so none may become a dead letter; the next `ensure` names the fault."""
    sink.apply(upsert_change(1, [chunk("one")]))
    row = {**rows(client)["one"], "vector": np.ones(15, "<f4")}
    with pytest.raises(MilvusException) as refused:
        client.upsert("rag_vectors", [row])
    answer = translate(refused.value)
    assert isinstance(answer, Retryable)
    assert "should divide the dim(8)" in str(answer)


# A server that is down, slow or restarted


def test_alias_of_a_dropped_collection_moves_to_another_one(client: MilvusClient) -> None:
    for name in ("first", "second"):
        milvus_collection.create(client, 2, name, SYSTEM_ID)
    assert milvus_collection.point_alias(client, "both", "first", SYSTEM_ID)
    client.drop_collection("first")  # the server keeps the alias, and does not find it
    assert not client.has_collection("both")
    assert milvus_collection.point_alias(client, "both", "second", SYSTEM_ID)
    assert milvus_collection.target_of(client, "both") == "second"


def test_unreachable_server_at_start_is_retryable(engine: Engine) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # no server listens: connections are refused
        settings = Settings(milvus_uri=f"http://127.0.0.1:{unused.getsockname()[1]}", vector_dimension=8)
        sink = RestartingMilvusSink(System(settings, engine), MILVUS, 8)
        for _ in range(2):
            with pytest.raises(Retryable, match=r"^Milvus: Fail connecting to server"):
                sink.apply(upsert_change(1, [chunk("one")]))
        sink.close()


class OwnServer:
    """A Milvus server that a test may kill."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._pid = 0

    def up(self) -> str:
        """Start it; returns its URI."""
        done = native("up", "--only", "milvus", "--data", self._data)
        assert done.returncode == 0, done.stderr
        self._pid = states(self._data)["milvus"]["pid"]
        return done.stdout.strip().partition("=")[2]

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        with suppress(ProcessLookupError):  # it ends by itself after a stop longer than its session
            os.kill(self._pid, number)
        if number == signal.SIGKILL:
            wait_for(lambda: gone(self._pid), "the server to end")

    def stop(self) -> None:
        native("stop", "--data", self._data)


@pytest.fixture
def own(tmp_path: Path, milvus_server: MilvusServer) -> Iterator[OwnServer]:  # skipped where the shared server is
    server = OwnServer(tmp_path / "own")
    yield server
    server.stop()


@pytest.mark.timeout(300)
def test_killed_server_comes_back_with_everything_that_it_acknowledged(own: OwnServer) -> None:
    uri = own.up()
    with closing(MilvusClient(uri, timeout=1.0)) as client:
        sink = MilvusSink(client, 8, SYSTEM_ID)
        sink.create()
        sink.apply(upsert_change(1, [chunk(f"chunk-{number}") for number in range(500)]))
        relabel = upsert_change(2, relabelled=[ChunkLabels(chunk_id="chunk-7")], business_tag="new")
        own.kill()
        for changes in (upsert_change(2, [chunk("late")]), relabel, delete_change(2, ["chunk-8"])):
            with pytest.raises(Retryable, match=r"^Milvus: [^<]"):
                sink.apply(changes)
        assert not try_create(MilvusSink(client, 8, SYSTEM_ID))
        own.up()
        for changes in (relabel, delete_change(3, ["chunk-8"]), upsert_change(4, [chunk("late")])):
            wait_for(partial(try_apply, sink, changes), "the server to take it")  # loading takes seconds
        found = rows(client, "business_tag")
        assert found.keys() == {f"chunk-{number}" for number in range(500)} - {"chunk-8"} | {"late"}
        assert {key for key, row in found.items() if row["business_tag"] == "new"} == {"chunk-7"}


def _listening(port: int) -> socket.socket | None:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError:  # some of the server's connections are not closed yet
        return None


@pytest.mark.timeout(300)
def test_silent_server_is_reported_after_the_timeout(own: OwnServer) -> None:
    uri = own.up()
    with closing(MilvusClient(uri, timeout=1.0)) as client:
        sink = MilvusSink(client, 8, SYSTEM_ID)
        sink.create()
        sink = MilvusSink(client, 8, SYSTEM_ID, timeout_seconds=0.5)
        own.kill(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(Retryable, match=r"^Milvus: DEADLINE_EXCEEDED"):
            sink.apply(upsert_change(1, [chunk("one")]))
        assert time.monotonic() - began < 5.0
        own.kill(signal.SIGCONT)
        wait_for(lambda: try_apply(sink, upsert_change(1, [chunk("one")])), "the server to go on")
        own.kill()
        port = int(uri.rpartition(":")[2])
        silent = wait_for(lambda: _listening(port), "the port")
        assert silent is not None
        with silent:  # a server that accepts connections and never answers
            began = time.monotonic()
            with pytest.raises(Retryable, match=r"^Milvus: "):
                sink.apply(upsert_change(2, [chunk("two", vector=ONES)]))
            assert time.monotonic() - began < 5.0, "earlier than the client's own ten seconds"
