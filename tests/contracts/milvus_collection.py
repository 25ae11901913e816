"""The contract of the Milvus sink about its collection, on Milvus Lite and on a server."""

import itertools
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
from pymilvus import MilvusClient

from consumers.milvus import upsert as milvus_upsert
from consumers.milvus.sink import MilvusSink
from consumers.sink import Change
from schema.events.events import ChunkLabels, ChunkRow, DocumentDeleted, DocumentUpserted
from schema.failures import Permanent, Retryable, StoreMissing
from tests.support.pipeline import SYSTEM_ID
from tests.support.waiting import wait_for

MIB = 1024 * 1024
ONES = b"\0\0\x80?" * 8  # eight times 1.0
TWOS = b"\0\0\0@" * 8
FIELDS = [
    "chunk_id",
    "doc_id",
    "doc_version",
    "content_hash",
    "vector",
    "modal_type",
    "business_tag",
    "vector_level",
    "associate_id",
    "oss_id",
    "content",
]


def chunk(chunk_id: str, content: str = "text", vector: bytes = ONES, **fields: Any) -> ChunkRow:
    return ChunkRow(chunk_id=chunk_id, content_hash="0" * 64, content=content, vector=vector, **fields)


def upsert_change(version: int = 1, chunks: Sequence[ChunkRow] = (), **fields: Any) -> list[Change]:
    """One document's change."""
    values = {"embedding_model": "m", "dimension": 8, "title": "t", "source_type": "text", "chunk_count": 1, **fields}
    event = DocumentUpserted(doc_id="a", version=version, history_id="h", chunks=list(chunks), **values)
    return [Change("a", version, (event,))]


def delete_change(version: int, tombstones: Iterable[str]) -> list[Change]:
    return [
        Change(
            "a", version, (DocumentDeleted(doc_id="a", version=version, history_id="h", tombstones=list(tombstones)),)
        )
    ]


def rows(client: MilvusClient, *fields: str, alias: str = "rag_vectors") -> dict[str, dict[str, Any]]:
    """Every row by chunk_id."""
    found = client.query(
        alias,
        filter='chunk_id != ""',
        output_fields=list(fields) or ["*"],
        limit=16_000,
        consistency_level="Strong",
    )
    assert len({row["chunk_id"] for row in found}) == len(found), "Milvus holds a chunk twice"
    return {row["chunk_id"]: row for row in found}


def indexes(client: MilvusClient) -> dict[str, dict[str, Any]]:
    """Field → its index, with the values of parameters as strings."""
    found = {}
    for name in client.list_indexes("rag_vectors"):
        index = client.describe_index("rag_vectors", name)
        found[index["field_name"]] = {
            key: str(index[key])
            for key in ("index_type", "metric_type", "M", "efConstruction")
            if index.get(key, "NONE") != "NONE"
        }
    return found


@contextmanager
def record_requests() -> Iterator[list[tuple[int, int]]]:
    """(rows, bytes on the wire) of every upsert that is sent inside this context."""
    real, seen = milvus_upsert.pack, []

    def prepare(alias: str, rows: Any) -> Any:
        request = real(alias, rows)
        seen.append((request.num_rows, request.ByteSize()))
        return request

    with patch.object(milvus_upsert, "pack", prepare):
        yield seen


class Killed(BaseException):
    """Raised where a real process would be killed."""


class DyingClient:
    """A client whose process is killed before its changing request number `at`, counted from 0."""

    CHANGES = ("create_collection", "create_index", "create_alias", "load_collection", "drop_collection")

    def __init__(self, client: MilvusClient, at: int) -> None:
        self._client, self._left = client, at

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name not in self.CHANGES:
            return found

        def request(*args: Any, **kwargs: Any) -> Any:
            if self._left <= 0:  # and at every later request
                raise Killed
            self._left -= 1
            return found(*args, **kwargs)

        return request


class MilvusCollectionContract:
    """Derive a class with `indexes`, in a module with three fixtures.

    `clients` makes clients of one empty database, `client` is one of them, `sink` has created the collection with it.
    """

    indexes: ClassVar[dict[str, dict[str, str]]]

    def assert_collection_is_whole(self, client: MilvusClient) -> None:
        described = client.describe_collection("rag_vectors")
        assert described["collection_name"] != "rag_vectors", "it must be an alias"
        names = [field["name"] for field in described["fields"]]
        assert [name for name in names if name != "sparse"] == FIELDS
        assert indexes(client) == self.indexes
        assert ("sparse" in names) == ("sparse" in self.indexes)

    # The collection

    def test_collection_is_created_once_behind_its_alias(self, client: MilvusClient, sink: MilvusSink) -> None:
        self.assert_collection_is_whole(client)
        [made] = client.list_collections()
        sink.apply(upsert_change(chunks=[chunk("one")]))
        sink.create()
        assert client.list_collections() == [made]
        assert rows(client, "chunk_id").keys() == {"one"}

    def test_creation_continues_after_a_kill_at_any_step(self, client: MilvusClient) -> None:
        for step in itertools.count():
            try:
                MilvusSink(DyingClient(client, step), 8, SYSTEM_ID).create()
            except Killed:
                MilvusSink(client, 8, SYSTEM_ID).create()
            else:
                break
            self.assert_collection_is_whole(client)
            sink = MilvusSink(client, 8, SYSTEM_ID)
            sink.apply(upsert_change(chunks=[chunk("one")]))
            client.drop_alias("rag_vectors")
            for name in client.list_collections():  # the kill may leave a probe
                client.drop_collection(name)
        assert step >= 9  # probe, its index, collection, four indexes, alias, loading

    def test_only_searches_need_the_alias(self, client: MilvusClient, sink: MilvusSink) -> None:
        client.drop_alias("rag_vectors")
        sink.ensure()
        sink.apply(upsert_change(1, [chunk("one")]))
        sink.create()
        assert rows(client, "chunk_id").keys() == {"one"}

    def test_second_instance_has_its_own_collection_and_index(self, client: MilvusClient, sink: MilvusSink) -> None:
        index = {"index_type": "IVF_FLAT", "params": {"nlist": 8}}
        other = MilvusSink(client, 8, SYSTEM_ID, name="milvus-2", is_serving=False, index=index)
        other.create()
        try:
            other.apply(upsert_change(1, [chunk("two")]))
            assert rows(client, "chunk_id") == {}, "searches use the first one"
            assert client.describe_index("rag_vectors_2", "vector")["index_type"] == "IVF_FLAT"
            MilvusSink(client, 8, SYSTEM_ID, name="milvus-2", index=index).create()
            assert rows(client, "chunk_id").keys() == {"two"}
        finally:
            sink.create()
            client.drop_collection("rag_vectors_2")

    def test_concurrent_processes_create_one_collection(self, clients: Callable[[], MilvusClient]) -> None:
        made = [clients() for _ in range(6)]
        start = threading.Barrier(len(made))

        def create(client: MilvusClient) -> None:
            start.wait(10)
            wait_for(lambda: try_create(MilvusSink(client, 8, SYSTEM_ID)), "the collection")

        with ThreadPoolExecutor(len(made)) as pool:
            list(pool.map(create, made))
        self.assert_collection_is_whole(made[0])
        assert len(made[0].list_collections()) == 1

    def test_collection_of_another_dimension_is_permanent(self, client: MilvusClient, sink: MilvusSink) -> None:
        with pytest.raises(Permanent, match="the Milvus collection has 8 dimensions, the system 16"):
            MilvusSink(client, 16, SYSTEM_ID).ensure()

    def test_two_collections_are_independent(self, client: MilvusClient, sink: MilvusSink) -> None:
        other = MilvusSink(client, 4, SYSTEM_ID, "rebuilt_vectors")
        other.create()
        try:
            sink.apply(upsert_change(1, [chunk("one"), chunk("both", "old")]))
            other.apply(upsert_change(2, [chunk("two", vector=ONES[:16]), chunk("both", "new", ONES[:16])]))
            other.apply(upsert_change(3, relabelled=[ChunkLabels(chunk_id="both")], business_tag="hr"))
            other.apply(delete_change(4, ["two", "one"]))
            assert {key: row["content"] for key, row in rows(client, "content").items()} == {
                "one": "text",
                "both": "old",
            }
            found = rows(client, "content", "business_tag", alias="rebuilt_vectors")
            assert {key: (row["content"], row["business_tag"]) for key, row in found.items()} == {"both": ("new", "hr")}
        finally:
            client.drop_alias("rebuilt_vectors")

    # Invariant 12

    def test_requests_with_large_vectors_are_bounded_in_bytes(self, client: MilvusClient) -> None:
        sink = MilvusSink(client, 1_024, SYSTEM_ID)
        sink.create()
        made = [chunk(f"chunk-{number}", "x" * 16_000, ONES * 128) for number in range(1_000)]
        with record_requests() as seen:
            sink.apply(upsert_change(1, made))
        assert sum(count for count, _ in seen) == 1_000
        assert len(seen) >= 2
        assert max(size for _, size in seen) <= 16 * MIB
        assert len(rows(client, "chunk_id")) == 1_000

    # Failures

    def test_released_collection_is_loaded_again(self, client: MilvusClient, sink: MilvusSink) -> None:
        sink.apply(upsert_change(1, [chunk("one")]))
        client.release_collection("rag_vectors")
        relabel = upsert_change(2, relabelled=[ChunkLabels(chunk_id="one")], business_tag="new")
        with pytest.raises(Retryable, match=r"^Milvus: .*(not loaded|released)"):
            sink.apply(relabel)
        wait_for(lambda: try_apply(sink, relabel), "the sink to heal")
        assert rows(client, "business_tag")["one"]["business_tag"] == "new"

    def test_check_of_a_released_collection_loads_nothing(self, client: MilvusClient, sink: MilvusSink) -> None:
        client.release_collection("rag_vectors")
        sink.ensure()
        assert client.get_load_state("rag_vectors")["state"].name == "NotLoad"

    def test_missing_collection_stops_the_sink_until_it_is_created(
        self, client: MilvusClient, sink: MilvusSink
    ) -> None:
        [name] = client.list_collections()
        client.drop_alias("rag_vectors")
        client.drop_collection(name)
        missing = "^there is no Milvus collection rag_vectors_1: run rag-outbox init$"
        replace = [Change("a", 1, (), replace=True)]
        relabel = upsert_change(1, relabelled=[ChunkLabels(chunk_id="one")])
        for changes in (upsert_change(1, [chunk("one")]), delete_change(1, ["one"]), relabel, replace):
            with pytest.raises(StoreMissing, match=missing):
                sink.apply(changes)
        for checked in (sink, MilvusSink(client, 8, SYSTEM_ID)):
            with pytest.raises(StoreMissing, match=missing):
                checked.ensure()
        assert not client.has_collection("rag_vectors"), "only `create` creates it"
        sink.create()
        sink.apply(upsert_change(1, [chunk("one")]))
        assert rows(client, "chunk_id").keys() == {"one"}


def try_create(sink: MilvusSink) -> bool:
    try:
        sink.create()
    except Retryable:
        return False
    return True


def try_apply(sink: MilvusSink, changes: list[Change]) -> bool:
    try:
        sink.apply(changes)
    except Retryable:
        return False
    return True


def ids_of(expression: str) -> list[str]:
    """The ids in a filter `chunk_id in ["…", …]`."""
    found = json.loads(expression.removeprefix("chunk_id in "))
    assert isinstance(found, list)
    return found
