"""The contract of the Milvus sink about rows, on Milvus Lite and on a server."""

import dataclasses
import struct
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from pymilvus import MilvusClient

from consumers.milvus.sink import MilvusSink
from consumers.sink import Change
from schema.events.events import ChunkLabels
from schema.failures import DocumentLost, Permanent
from tests.contracts.milvus_collection import (
    MIB,
    ONES,
    TWOS,
    chunk,
    delete_change,
    record_requests,
    rows,
    upsert_change,
)
from tests.support.pipeline import SYSTEM_ID

REFUSED = [
    (upsert_change(1, [chunk("good"), chunk("c", vector=ONES[:28])]), "c: the vector has 28 bytes, 8 float32"),
    (upsert_change(1, [chunk("c", vector=struct.pack("<8f", *[float("nan")] * 8))]), "c: the vector is not finite"),
    (upsert_change(1, [chunk("c" * 65)]), f"{'c' * 65}: chunk_id has 65 bytes, Milvus takes 64"),
    (upsert_change(1, [chunk("c", "x" * 65_536)]), "c: content has 65536 bytes, Milvus takes 65535"),
    (upsert_change(1, [chunk("c", "😀" * 16_384)]), "c: content has 65536 bytes, Milvus takes 65535"),
    (upsert_change(1, [chunk("c")], business_tag="é" * 65), "c: business_tag has 130 bytes, Milvus takes 128"),
    (upsert_change(1, relabelled=[ChunkLabels(chunk_id="c", modal_type="m" * 17)]), "c: modal_type has 17 bytes"),
    (upsert_change(1, [chunk("c", sparse=b"1234567")]), "c: 7 bytes of sparse weights are not whole entries"),
    (upsert_change(1, [chunk("c", sparse=struct.pack("<IfIf", 2, 1, 2, 1))]), "c: the ids of the sparse"),
    (upsert_change(1, [chunk("c", sparse=struct.pack("<If", 2**32 - 1, 1))]), "c: an id of the sparse weights is"),
    (upsert_change(1, [chunk("c", sparse=struct.pack("<If", 1, 0))]), "c: a sparse weight is not above 0"),
    (upsert_change(1, [chunk("c", sparse=struct.pack("<If", 1, float("inf")))]), "c: a sparse weight is not above"),
    (upsert_change(2**63, [chunk("c")]), "doc_version"),
]


class MilvusRowsContract:
    """Derive a class where a class-scoped fixture `shared_clients` makes clients of one empty database."""

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, shared_clients: Callable[[], MilvusClient]) -> MilvusClient:
        """A client after the collection was created, which takes seconds, so the tests share it."""
        client = shared_clients()
        MilvusSink(client, 8, SYSTEM_ID).create()
        return client

    @pytest.fixture
    def client(self, made: MilvusClient) -> MilvusClient:
        if left := list(rows(made, "chunk_id")):
            MilvusSink(made, 8, SYSTEM_ID).apply(delete_change(1, left))
        assert rows(made) == {}
        return made

    @pytest.fixture
    def sink(self, client: MilvusClient) -> MilvusSink:
        return MilvusSink(client, 8, SYSTEM_ID)

    def test_row_has_the_values_of_the_event(self, client: MilvusClient, sink: MilvusSink) -> None:
        one = chunk("one", "text", struct.pack("<8f", *range(1, 9)), modal_type="image", vector_level="row")
        sink.apply(upsert_change(7, [one], business_tag="hr", oss_key="raw-files/a.pdf"))
        row = rows(client)["one"]
        row.pop("sparse", None)
        assert row == {
            "chunk_id": "one",
            "doc_id": "a",
            "doc_version": 7,
            "content_hash": "0" * 64,
            "vector": [1, 2, 3, 4, 5, 6, 7, 8],
            "modal_type": "image",
            "business_tag": "hr",
            "vector_level": "row",
            "associate_id": "",
            "oss_id": "raw-files/a.pdf",
            "content": "text",
        }

    def test_repeated_and_replaced_rows_exist_once(self, client: MilvusClient, sink: MilvusSink) -> None:
        for _ in range(3):
            sink.apply(upsert_change(1, [chunk("one"), chunk("two")]))
        assert rows(client, "chunk_id").keys() == {"one", "two"}
        sink.apply(upsert_change(2, [chunk("one", "new", TWOS)]))
        found = rows(client, "content", "doc_version", "vector")
        assert (found["one"]["content"], found["one"]["doc_version"], found["one"]["vector"]) == ("new", 2, [2.0] * 8)
        assert (found["two"]["content"], found["two"]["doc_version"]) == ("text", 1)

    def test_tombstones_remove_rows_but_not_chunks_of_their_event(self, client: MilvusClient, sink: MilvusSink) -> None:
        sink.apply(upsert_change(1, [chunk("one"), chunk("two"), chunk("three")]))
        sink.apply(upsert_change(2, [chunk("two", "again")], tombstones=["one", "two", "never there"]))
        assert {key: row["content"] for key, row in rows(client, "content").items()} == {
            "two": "again",
            "three": "text",
        }
        for _ in range(2):
            sink.apply(delete_change(3, ["two", "three"]))
            assert rows(client) == {}
        sink.apply(delete_change(4, []))

    def test_replace_removes_every_other_row_of_its_document(self, client: MilvusClient, sink: MilvusSink) -> None:
        many = [chunk(f"old-{number}") for number in range(20_000)]  # more than a limited query returns
        sink.apply(upsert_change(3, [chunk("labelled", vector=TWOS), *many]))
        other = upsert_change(1, [chunk("kept")])[0].events[0]
        sink.apply([Change("b", 1, (msgspec.structs.replace(other, doc_id="b"),))])
        labels = [ChunkLabels(chunk_id="labelled", modal_type="image")]
        first = upsert_change(2, [chunk("one")], part=1, parts=2)[0].events
        second = upsert_change(2, [chunk("two")], part=2, parts=2, relabelled=labels)[0].events
        for _ in range(2):
            sink.apply([Change("a", 2, first + second, replace=True)])
            found = rows(client, "doc_id", "doc_version", "vector")
            assert {key: (row["doc_id"], row["doc_version"]) for key, row in found.items()} == {
                "one": ("a", 2),
                "two": ("a", 2),
                "labelled": ("a", 2),
                "kept": ("b", 1),
            }
            assert found["labelled"]["vector"] == [2.0] * 8
        sink.apply([dataclasses.replace(delete_change(4, [])[0], replace=True)])
        assert rows(client, "chunk_id").keys() == {"kept"}

    def test_quotes_in_ids_do_not_change_the_filter(self, client: MilvusClient, sink: MilvusSink) -> None:
        ids = ["a'b", 'a"b', "a\\b", "a\\", "a\nb\r\t", "😀\"'\\", "'] or chunk_id != '", '"] or chunk_id != "', "%"]
        sink.apply(upsert_change(1, [chunk("bystander"), *map(chunk, ids)]))
        labels = [ChunkLabels(chunk_id=chunk_id, modal_type="image") for chunk_id in ids]
        sink.apply(upsert_change(2, relabelled=labels))
        changed = {key for key, row in rows(client, "modal_type").items() if row["modal_type"] == "image"}
        assert changed == set(ids)
        for chunk_id in ids:
            sink.apply(delete_change(3, [chunk_id]))
            assert chunk_id not in rows(client, "chunk_id")
        assert rows(client, "chunk_id").keys() == {"bystander"}

    def test_longest_content_of_four_byte_characters_is_stored_whole(
        self, client: MilvusClient, sink: MilvusSink
    ) -> None:
        longest = "😀" * 16_383 + "文"  # 65,535 bytes
        sink.apply(upsert_change(1, [chunk("😀" * 16, longest)], business_tag="é" * 64))
        assert {(key, row["content"]) for key, row in rows(client, "content").items()} == {("😀" * 16, longest)}
        sink.apply(upsert_change(2, relabelled=[ChunkLabels(chunk_id="😀" * 16)], business_tag="new"))
        [row] = rows(client).values()
        assert (row["content"], row["business_tag"]) == (longest, "new")

    def test_relabelled_row_keeps_its_vector_and_content(self, client: MilvusClient, sink: MilvusSink) -> None:
        sink.apply(
            upsert_change(1, [chunk("one", vector=struct.pack("<8f", *range(8))), chunk("two")], business_tag="old")
        )
        sink.apply(upsert_change(2, relabelled=[ChunkLabels(chunk_id="one", modal_type="image")], business_tag="new"))
        found = rows(client)
        one, two = found["one"], found["two"]
        assert (one["vector"], one["content"], one["doc_version"]) == ([0, 1, 2, 3, 4, 5, 6, 7], "text", 2)
        assert (one["business_tag"], one["modal_type"], two["business_tag"]) == ("new", "image", "old")

    def test_missing_row_to_relabel_is_named(self, sink: MilvusSink) -> None:
        sink.apply(upsert_change(1, [chunk("one")]))
        with pytest.raises(DocumentLost, match=r"^Milvus lacks 1 marked chunks, one is lost$"):
            sink.apply(upsert_change(2, relabelled=[ChunkLabels(chunk_id="one"), ChunkLabels(chunk_id="lost")]))

    def test_rows_to_relabel_are_read_in_bounded_requests(self, client: MilvusClient, sink: MilvusSink) -> None:
        contents = [f"{number:03d} {'x' * 65_000}" for number in range(100)]  # 6.5 MB
        sink.apply(upsert_change(1, [chunk(f"chunk-{number}", content) for number, content in enumerate(contents)]))
        answers: list[int] = []
        small = patch.multiple("consumers.milvus.sink", _ANSWER_BYTES=2 * MIB, _REQUEST_BYTES=MIB)  # of 32 and 16
        query = client.query

        def watched(*args: Any, **kwargs: Any) -> Any:
            found = query(*args, **kwargs)
            answers.append(sum(len(row["content"]) for row in found))
            return found

        labels = [ChunkLabels(chunk_id=f"chunk-{number}") for number in range(100)]
        with small, patch.object(client, "query", watched), record_requests() as seen:
            sink.apply(upsert_change(2, relabelled=labels, business_tag="new"))
        assert sum(answers) == 100 * 65_004
        assert max(answers) <= 2 * MIB
        assert sum(count for count, _ in seen) == 100
        assert max(size for _, size in seen) <= MIB
        assert {row["business_tag"] for row in rows(client, "business_tag").values()} == {"new"}

    def test_invalid_values_of_a_foreign_writer_are_permanent_and_named(
        self, client: MilvusClient, sink: MilvusSink
    ) -> None:
        for change, words in REFUSED:
            with pytest.raises(Permanent) as refused:
                sink.apply(change)
            assert words in str(refused.value)
            assert rows(client) == {}, words
