"""The contract of every sink, for ours and for those of other packages.

Derive a class from `SinkContract` and give it what `Store` asks for. The suite needs pytest and no server of its own.
The applier fences versions; a sink owes what stands here, for changes that come in any order and more than once.
"""

import dataclasses
import hashlib
import struct
from collections.abc import Sequence
from typing import Protocol

import pytest

from consumers.sink import Change, Sink
from schema.events.events import ChunkLabels, ChunkRow, DocumentDeleted, DocumentUpserted, FileRecord
from schema.failures import Permanent, StoreMissing

DIMENSION = 8
RAW = "raw-files/text/2025/01/31"


class Store(Protocol):
    """The store of one test, read and damaged without the sink."""

    sink: Sink  # new, not created yet
    shows_chunks: bool  # whether `read` returns chunks, which is not so for an archive
    shows_files: bool

    def read(self, doc_id: str) -> dict[str, str]:
        """What the store holds of a document: chunk ids with their contents, object keys with their bytes as text."""

    def lose(self) -> None:
        """Remove the store, as an accident would: collection, bucket, file."""


class SinkContract:
    """Derive a class with a fixture `store`: a Store that is empty in each test."""

    @pytest.fixture
    def sink(self, store: Store) -> Sink:
        store.sink.create()
        store.sink.ensure()
        return store.sink

    # Readable when acknowledged

    def test_acknowledged_change_is_readable(self, store: Store, sink: Sink) -> None:
        sink.apply([upsert(store, 1, "one", "two"), upsert(store, 4, "one", doc_id="b")])
        assert_holds(store, "one", "two")
        assert_holds(store, "one", doc_id="b")

    def test_every_part_of_a_change_is_applied(self, store: Store, sink: Sink) -> None:
        def parts(doc_id: str) -> tuple[DocumentUpserted, ...]:
            words = enumerate(("one", "two", "three"), 1)
            return tuple(make_event(store, 1, word, doc_id=doc_id, part=part, parts=3) for part, word in words)

        sink.apply([Change("a", 1, parts("a"))])
        assert_holds(store, "one", "two", "three")
        for part in parts("b"):
            sink.apply([Change("b", 1, (part,))])
        assert_holds(store, "one", "two", "three", doc_id="b")

    def test_newer_version_keeps_what_it_does_not_name(self, store: Store, sink: Sink) -> None:
        sink.apply([upsert(store, 1, "one", "two")])
        sink.apply([upsert(store, 2, "two", "three", removed=["one"])])
        assert_holds(store, "two", "three")

    # Again, and out of order

    def test_repeated_change_has_the_same_effect(self, store: Store, sink: Sink) -> None:
        sink.apply([upsert(store, 1, "one", "two")])
        for change in (upsert(store, 2, "two", "three", removed=["one", "never there"]), delete(store, 3, "two")):
            for _ in range(3):
                sink.apply([change])
        assert_holds(store, "three")

    def test_replace_heals_an_older_version_that_came_late(self, store: Store, sink: Sink) -> None:
        sink.apply([upsert(store, 2, "two", "three", removed=["one"])])
        sink.apply([upsert(store, 1, "one", "two", removed=["three"])])
        for _ in range(2):
            sink.apply([replace(upsert(store, 2, "two", "three"))])
            assert_holds(store, "two", "three")

    # Write before delete

    def test_refused_change_removes_nothing(self, store: Store, sink: Sink) -> None:
        sink.apply([upsert(store, 1, "one", "two")])
        bad = upsert(store, 2, "three", removed=["one", "two"], broken=True)
        for change in (bad, replace(bad)):
            try:
                sink.apply([change])
            except Permanent:
                assert read(store).items() >= expected(store, "one", "two").items()
            else:
                pytest.skip("this sink refuses nothing that a broken event carries")

    # Replace

    def test_replace_removes_everything_else_of_its_document(self, store: Store, sink: Sink) -> None:
        sink.apply([upsert(store, 1, "one", "two", "three"), upsert(store, 1, "one", "two", doc_id="a.b")])
        first, second = (make_event(store, 1, word, part=part, parts=2) for part, word in enumerate(("two", "four"), 1))
        for _ in range(2):
            sink.apply([Change("a", 1, (first, second), replace=True)])
            assert_holds(store, "two", "four")
        assert_holds(store, "one", "two", doc_id="a.b")

    def test_replace_with_a_deletion_removes_the_whole_document(self, store: Store, sink: Sink) -> None:
        sink.apply([upsert(store, 3, "one", "two"), upsert(store, 1, "one", doc_id="b")])
        named = [file_key("a", word) for word in ("one", "two")] if store.shows_files else []
        gone = DocumentDeleted(doc_id="a", version=4, history_id="h", removed_files=named)
        for _ in range(2):
            sink.apply([Change("a", 4, (gone,), replace=True)])
            assert read(store) == {}
        assert_holds(store, "one", doc_id="b")

    def test_replace_keeps_relabelled_chunks(self, store: Store, sink: Sink) -> None:
        if not store.shows_chunks:
            pytest.skip("this sink shows no chunks")
        sink.apply([upsert(store, 1, "one", "two", "three")])
        change = upsert(store, 2, "two")
        [event] = change.events
        assert isinstance(event, DocumentUpserted)
        event.relabelled.append(ChunkLabels(chunk_id=chunk_id("a", "one"), modal_type="image"))
        sink.apply([replace(change)])
        chunks = {key for key in read(store) if not key.startswith(RAW)}
        assert chunks == {chunk_id("a", "one"), chunk_id("a", "two")}

    # A lost store

    def test_missing_store_is_found_and_only_create_makes_it(self, store: Store, sink: Sink) -> None:
        sink.apply([upsert(store, 1, "one")])
        store.lose()
        for call in (sink.ensure, lambda: sink.apply([upsert(store, 2, "two")]), sink.ensure):
            with pytest.raises(StoreMissing):
                call()
        sink.create()
        sink.ensure()
        assert read(store) == {}
        sink.apply([upsert(store, 2, "two")])
        sink.create()
        assert_holds(store, "two")


def upsert(
    store: Store, version: int, *words: str, doc_id: str = "a", removed: Sequence[str] = (), broken: bool = False
) -> Change:
    """A chunk and a file per word, as far as the store shows them."""
    return Change(doc_id, version, (make_event(store, version, *words, doc_id=doc_id, removed=removed, broken=broken),))


def delete(store: Store, version: int, *words: str) -> Change:
    """A deletion that names these words only."""
    event = DocumentDeleted(
        doc_id="a",
        version=version,
        history_id="h",
        tombstones=[chunk_id("a", word) for word in words],
        removed_files=[file_key("a", word) for word in words] if store.shows_files else [],
    )
    return Change("a", version, (event,))


def replace(change: Change) -> Change:
    return dataclasses.replace(change, replace=True)


def make_event(
    store: Store,
    version: int,
    *words: str,
    doc_id: str = "a",
    part: int = 1,
    parts: int = 1,
    removed: Sequence[str] = (),
    broken: bool = False,
) -> DocumentUpserted:
    vector = b"" if broken else struct.pack(f"<{DIMENSION}f", *range(1, DIMENSION + 1))
    chunks = [
        ChunkRow(chunk_id=chunk_id(doc_id, word), content_hash=_digest(word.encode()), content=word, vector=vector)
        for word in words
    ]
    return DocumentUpserted(
        doc_id=doc_id,
        version=version,
        history_id="h",
        embedding_model="m",
        dimension=DIMENSION,
        title="Title",
        source_type="text",
        chunk_count=len(words),
        part=part,
        parts=parts,
        chunks=chunks if store.sink.takes_vectors else [],
        files=[_file(doc_id, word, broken) for word in words] if store.shows_files else [],
        tombstones=[chunk_id(doc_id, word) for word in removed],
        removed_files=[file_key(doc_id, word) for word in removed] if store.shows_files else [],
    )


def chunk_id(doc_id: str, word: str) -> str:
    return _digest(f"{doc_id} {word}".encode())[:32]


def file_key(doc_id: str, word: str) -> str:
    """Keys of originals: one document has one of each extension."""
    return f"{RAW}/{doc_id}.{word.replace(' ', '')}"


def read(store: Store, doc_id: str = "a") -> dict[str, str]:
    return store.read(doc_id)


def expected(store: Store, *words: str, doc_id: str = "a") -> dict[str, str]:
    chunks = {chunk_id(doc_id, word): word for word in words} if store.shows_chunks else {}
    files = {file_key(doc_id, word): f"file {word}" for word in words} if store.shows_files else {}
    return chunks | files


def assert_holds(store: Store, *words: str, doc_id: str = "a") -> None:
    assert read(store, doc_id) == expected(store, *words, doc_id=doc_id)


def _file(doc_id: str, word: str, broken: bool) -> FileRecord:
    content = f"file {word}".encode()
    return FileRecord(
        object_key=file_key(doc_id, word),
        content_type="text/plain",
        sha256=_digest(content),
        size_bytes=len(content),
        content=None if broken else content,  # neither content nor a staged object
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
