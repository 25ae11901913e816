"""A consumer that lost its partitions and goes on must leave the archive's newer vectors: no other store has them."""

from collections.abc import Callable, Iterable, Iterator

import pytest

from consumers.minio.sink import MinioSink
from consumers.sink import Change
from schema import archive
from schema.events.events import ChunkRow, DocumentDeleted, DocumentUpserted
from schema.object_store.port import Readable
from tests.support.memory_object_store import MemoryObjectStore

pytestmark = pytest.mark.unit

SYSTEM_ID = "5e57ab1e-0000-4000-8000-000000000001"


class Pausing(MemoryObjectStore):
    """`on_put` runs after each write; with `delays` what is removed is removed by `remove_delayed`."""

    def __init__(self, other: MemoryObjectStore) -> None:
        super().__init__()
        self.objects = other.objects
        self.on_put: Callable[[], None] = lambda: None
        self.delays = False
        self._delayed: list[str] = []

    def put(self, key: str, stream: Readable, *, size_bytes: int | None, content_type: str, sha256: str | None) -> None:
        super().put(key, stream, size_bytes=size_bytes, content_type=content_type, sha256=sha256)
        self.on_put()

    def remove(self, keys: Iterable[str]) -> None:
        if self.delays:
            self._delayed += keys
        else:
            super().remove(keys)

    def remove_delayed(self) -> None:
        super().remove(self._delayed)


@pytest.fixture
def store() -> MemoryObjectStore:
    return MemoryObjectStore()


@pytest.fixture
def new_sink() -> Iterator[Callable[[MemoryObjectStore], MinioSink]]:
    made: list[MinioSink] = []

    def make(store: MemoryObjectStore) -> MinioSink:
        made.append(MinioSink(store, SYSTEM_ID))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


def upsert(version: int, *, replace: bool = False) -> Change:
    chunk = ChunkRow(
        chunk_id="c", content_hash="h", content="one", vector=b"\0" * 32, vector_level="text", modal_type="text"
    )
    event = DocumentUpserted(
        doc_id="a",
        history_id="h",
        version=version,
        embedding_model="m",
        dimension=8,
        title="t",
        source_type="text",
        chunk_count=1,
        chunks=[chunk],
    )
    return Change("a", version, (event,), replace=replace)


def delete(version: int, *, replace: bool = False) -> Change:
    return Change("a", version, (DocumentDeleted(doc_id="a", version=version, history_id="h"),), replace=replace)


def has_vector(store: MemoryObjectStore, version: int) -> bool:
    return any(archive.read_vectors(store, "a", {"c": archive.Wanted("h", version)}))


def test_late_deletion_keeps_the_newer_archive(
    store: MemoryObjectStore, new_sink: Callable[[MemoryObjectStore], MinioSink]
) -> None:
    sink = new_sink(store)
    sink.apply([upsert(1)])
    sink.apply([upsert(3)])
    sink.apply([delete(2)])
    assert archive.keys(store, "a") == ["processed-data/embeddings/a/000000000003-00001.msgpack"]
    sink.apply([delete(4)])
    assert archive.keys(store, "a") == []


def test_two_concurrent_replaces_never_empty_the_archive(
    store: MemoryObjectStore, new_sink: Callable[[MemoryObjectStore], MinioSink]
) -> None:
    """Each of them writes before the other one removes."""
    new_sink(store).apply([upsert(1)])
    first, second = Pausing(store), Pausing(store)
    second.delays = True

    def apply_second() -> None:
        first.on_put = lambda: None
        new_sink(second).apply([upsert(1, replace=True)])

    first.on_put = apply_second
    new_sink(first).apply([upsert(1, replace=True)])
    second.remove_delayed()
    assert has_vector(store, 1)
