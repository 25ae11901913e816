"""The Milvus sink on Milvus Lite: the contracts of every Milvus, and sparse weights, which the test server lacks."""

import os
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import grpc
import pytest
from pymilvus import MilvusClient

from consumers.milvus.sink import MilvusSink
from operations.errors import describe
from operations.init import init
from operations.milvus_lite import process as milvus_lite
from operations.settings import Settings
from operations.wiring import open_system
from retrieval import search as search_module
from schema.events.events import ChunkLabels
from tests.contracts.milvus_collection import MIB, MilvusCollectionContract, chunk, record_requests, rows, upsert_change
from tests.contracts.milvus_rows import MilvusRowsContract
from tests.support.commands import children
from tests.support.pipeline import SYSTEM_ID
from tests.support.servers import MilvusServer

pytestmark = pytest.mark.integration


@pytest.fixture
def clients(milvus_uri: str) -> Iterator[Callable[[], MilvusClient]]:
    server = MilvusServer(milvus_uri)
    with server.database() as database, server.clients(database) as make:
        yield make


class TestRows(MilvusRowsContract):
    """On the fixture `shared_clients`."""


class TestCollection(MilvusCollectionContract):
    """On the fixtures `clients`, `client` and `sink`."""

    indexes: ClassVar = {
        "vector": {"index_type": "FLAT", "metric_type": "COSINE"},
        "sparse": {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "IP"},
        "doc_id": {"index_type": "INVERTED"},
        "modal_type": {"index_type": "INVERTED"},
        "business_tag": {"index_type": "INVERTED"},
    }


@pytest.fixture(scope="class")
def shared_clients(milvus_uri: str) -> Iterator[Callable[[], MilvusClient]]:
    server = MilvusServer(milvus_uri)
    with server.database() as database, server.clients(database) as make:
        yield make


@pytest.fixture
def client(clients: Callable[[], MilvusClient]) -> MilvusClient:
    return clients()


@pytest.fixture
def sink(client: MilvusClient) -> MilvusSink:
    sink = MilvusSink(client, 8, SYSTEM_ID)
    sink.create()
    return sink


def test_search_that_meets_its_deadline_fails_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pymilvus raises gRPC's own error then."""
    monkeypatch.setattr(search_module, "_TIMEOUT_SECONDS", 0.5)
    settings = Settings(data_dir=tmp_path)
    init(settings)
    others = set(children(os.getpid()))
    with open_system(settings) as system, milvus_lite.own(settings.data_dir / "vectors.db"):
        [server] = set(children(os.getpid())) - others

        def stopped(work: Callable[[MilvusClient], Any]) -> Any:
            def stop_first(client: MilvusClient) -> Any:
                os.kill(server, signal.SIGSTOP)
                return work(client)

            return system.with_milvus(stop_first)

        try:
            with pytest.raises(grpc.RpcError) as error:
                search_module.search(system.engine, system.store, stopped, [1.0] * 256, limit=1)
        finally:
            os.kill(server, signal.SIGCONT)
    assert describe(error.value) == "Milvus: DEADLINE_EXCEEDED: Deadline Exceeded"


def weights(*entries: tuple[int, float]) -> bytes:
    return b"".join(struct.pack("<If", *entry) for entry in entries)


def search(client: MilvusClient, query: dict[int, float]) -> list[tuple[str, float]]:
    """(chunk_id, score) pairs, the best first."""
    [hits] = client.search("rag_vectors", [query], anns_field="sparse", limit=10, consistency_level="Strong")
    return [(hit["chunk_id"], hit["distance"]) for hit in hits]


def test_sparse_search_finds_chunks_that_share_tokens(client: MilvusClient, sink: MilvusSink) -> None:
    one = chunk("one", sparse=weights((5, 0.5), (70, 2.0)))
    two = chunk("two", sparse=weights((0, 0.25), (70, 1.0), (2**32 - 2, 4.0)))
    sink.apply(upsert_change(1, [one, two, chunk("none")]))
    assert search(client, {70: 1.5}) == [("one", 3.0), ("two", 1.5)]
    assert search(client, {5: 1.0}) == [("one", 0.5)]
    assert search(client, {2**32 - 2: 2.0}) == [("two", 8.0)]
    assert search(client, {6: 1.0}) == []
    assert search(client, {0: 1.0})[0] == ("two", 0.25)
    [hits] = client.search("rag_vectors", [[1.0] * 8], anns_field="vector", limit=10, consistency_level="Strong")
    assert {hit["chunk_id"] for hit in hits} == {"one", "two", "none"}


def test_sparse_weights_change_with_the_chunk_and_survive_relabelling(client: MilvusClient, sink: MilvusSink) -> None:
    sink.apply(upsert_change(1, [chunk("one", sparse=weights((5, 0.5))), chunk("none")]))
    for version in (2, 3):
        labels = [ChunkLabels(chunk_id="one"), ChunkLabels(chunk_id="none")]
        sink.apply(upsert_change(version, relabelled=labels, business_tag="new"))
        assert {row["business_tag"] for row in rows(client, "business_tag").values()} == {"new"}
        assert search(client, {5: 1.0}) == [("one", 0.5)]
    sink.apply(upsert_change(4, [chunk("one", sparse=weights((6, 0.5)))]))
    assert (search(client, {5: 1.0}), search(client, {6: 1.0})) == ([], [("one", 0.5)])
    sink.apply(upsert_change(5, [chunk("one")]))
    assert search(client, {6: 1.0}) == []


def test_sparse_weights_count_towards_the_bytes_of_a_request(client: MilvusClient, sink: MilvusSink) -> None:
    most = weights(*((number * 1_000_000, 0.5) for number in range(4_096)))
    with patch("consumers.milvus.sink._REQUEST_BYTES", MIB), record_requests() as seen:
        sink.apply(
            upsert_change(1, [chunk(f"chunk-{number}", sparse=most) for number in range(40)])
        )  # 32 KiB of weights each
    assert sum(count for count, _ in seen) == 40
    assert max(size for _, size in seen) <= MIB
    assert len(rows(client, "chunk_id")) == 40
