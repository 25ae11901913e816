"""The archive of vectors: what the object-store sink writes, refill reads."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from schema import archive
from schema.events.events import ChunkRow
from schema.object_store.directory import DirectoryStore

pytestmark = pytest.mark.unit

FOLDER = "processed-data/embeddings/d"


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


def row(chunk_id: str, content: str = "text", vector: bytes = b"\0\0\x80?") -> ChunkRow:
    return ChunkRow(chunk_id=chunk_id, content_hash=f"hash of {content}", content=content, vector=vector)


class Reads(DirectoryStore):
    """Notes the objects that are read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.read_keys: list[str] = []

    def read(self, key: str) -> bytes:
        self.read_keys.append(key.rpartition("/")[2])
        return super().read(key)


def wanted(**versions: int) -> dict[str, archive.Wanted]:
    return {chunk_id: archive.Wanted("hash of text", version) for chunk_id, version in versions.items()}


def found(rows: Iterator[ChunkRow]) -> dict[str, ChunkRow]:
    listed = list(rows)
    assert len({one.chunk_id for one in listed}) == len(listed)
    return {one.chunk_id: one for one in listed}


def test_object_has_the_rows_of_one_part_as_messagepack(store: DirectoryStore) -> None:
    assert archive.write(store, "d", 7, 2, [row("a")]) == f"{FOLDER}/000000000007-00002.msgpack"
    packed = b"\x91\x84\xa8chunk_id\xa1a\xaccontent_hash\xachash of text\xa7content\xa4text\xa6vector\xc4\x04\0\0\x80?"
    assert store.read(f"{FOLDER}/000000000007-00002.msgpack") == packed
    assert archive.decode(packed) == [row("a")]


def test_only_the_objects_of_the_named_versions_are_read(tmp_path: Path) -> None:
    store = Reads(tmp_path)
    for version in range(1, 6):
        archive.write(store, "d", version, 1, [row(f"c{version}")])
    assert found(archive.read_vectors(store, "d", wanted(c2=2, c4=4))) == {"c2": row("c2"), "c4": row("c4")}
    assert store.read_keys == ["000000000004-00001.msgpack", "000000000002-00001.msgpack"]
    assert found(archive.read_vectors(store, "d", {})) == {}


def test_vector_of_another_version_counts_and_the_newest_wins(store: DirectoryStore) -> None:
    archive.write(store, "d", 1, 1, [row("a", vector=b"1111")])
    archive.write(store, "d", 3, 1, [row("a", vector=b"3333")])
    archive.write(store, "d", 4, 1, [row("b")])
    assert found(archive.read_vectors(store, "d", wanted(a=9, b=4)))["a"].vector == b"3333"
    assert found(archive.read_vectors(store, "d", wanted(a=1)))["a"].vector == b"1111"


def test_chunk_with_another_content_hash_is_left_out(store: DirectoryStore) -> None:
    archive.write(store, "d", 1, 1, [row("a", "other"), row("b")])
    assert found(archive.read_vectors(store, "d", wanted(a=1, b=1, c=1))).keys() == {"b"}


def test_damaged_object_is_skipped_with_a_warning(store: DirectoryStore, caplog: pytest.LogCaptureFixture) -> None:
    archive.write(store, "d", 1, 1, [row("a")])
    key = archive.write(store, "d", 2, 1, [row("a")])
    (store.root / key).write_bytes(b"\x91\x84half")
    assert found(archive.read_vectors(store, "d", wanted(a=2))) == {"a": row("a")}
    assert [record.getMessage().split(" reason=")[0] for record in caplog.records] == [
        f"archive_object_damaged key={key}"
    ]


def test_other_documents_are_neither_read_nor_removed(store: DirectoryStore) -> None:
    kept = archive.write(store, "d", 2, 1, [row("a")])
    archive.write(store, "d", 1, 1, [row("a")])
    other = archive.write(store, "dd", 1, 1, [row("b")])
    archive.remove(store, "d", keep=[kept])
    assert list(store.keys("")) == [kept, other]
    archive.remove(store, "d")
    assert list(store.keys("")) == [other]
    assert found(archive.read_vectors(store, "d", wanted(b=1))) == {}
