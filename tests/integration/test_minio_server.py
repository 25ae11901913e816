"""The object store and its sink on a real MinIO: the contract of every store, and what only a server does."""

import hashlib
import io
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import minio.api
import msgspec
import pytest
from minio import Minio

from consumers.minio.sink import MinioSink
from consumers.sink import Change
from schema.events.events import ChunkRow, DocumentDeleted, DocumentUpserted, FileRecord
from schema.failures import Permanent, Retryable, StoreMissing
from schema.object_store import s3
from schema.object_store.layout import SYSTEM_ID_KEY
from schema.object_store.s3 import S3Store
from tests.contracts.object_store import HELLO_SHA256, MIB, ObjectStoreContract, copy, put
from tests.support.pipeline import SYSTEM_ID
from tests.support.servers import MinioServer

pytestmark = pytest.mark.integration

STAGED = f"temp/upload_{32 * 'a'}/file"
RAW = "raw-files/pdf/2025/01/31/handbook.pdf"


@pytest.fixture
def client(minio_server: MinioServer) -> Minio:
    return minio_server.client()


@pytest.fixture
def bucket(minio_server: MinioServer) -> Iterator[str]:
    with minio_server.bucket() as name:
        yield name


@pytest.fixture
def store(client: Minio, bucket: str) -> S3Store:
    store = S3Store(client, bucket)
    store.ensure()
    return store


@pytest.fixture
def sink(store: S3Store) -> Iterator[MinioSink]:
    sink = MinioSink(store, SYSTEM_ID)
    yield sink
    sink.close()


class TestS3Store(ObjectStoreContract):
    """On the fixture `store`."""


class Letters:
    """A stream of `size_bytes` that is generated while it is read; `digest` is its SHA-256 at the end."""

    def __init__(self, size_bytes: int) -> None:
        self.left = size_bytes
        self.digest = hashlib.sha256()
        self.largest = 0

    def read(self, size: int = -1, /) -> bytes:
        count = self.left if size < 0 else min(size, self.left)
        self.left -= count
        self.largest = max(self.largest, count)
        some = (b"0123456789abcdef" * (count // 16 + 1))[:count]
        self.digest.update(some)
        return some


def digest_of(client: Minio, bucket: str, key: str) -> str:
    """The SHA-256 of the bytes that the server sends, not of its metadata."""
    response = client.get_object(bucket, key)
    try:
        digest = hashlib.sha256()
        for some in response.stream(MIB):
            digest.update(some)
        return digest.hexdigest()
    finally:
        response.close()
        response.release_conn()


def upsert_change(*files: FileRecord, doc_id: str = "handbook", version: int = 1, **fields: object) -> Change:
    values = {
        "history_id": "h",
        "embedding_model": "m",
        "dimension": 2,
        "title": "t",
        "source_type": "pdf",
        "chunk_count": 1,
        **fields,
    }
    event = msgspec.convert(
        {"doc_id": doc_id, "version": version, "files": list(files), **values}, DocumentUpserted, from_attributes=True
    )
    return Change(doc_id, version, (event,))


def staged(sha256: str = HELLO_SHA256, key: str = RAW) -> FileRecord:
    return FileRecord(object_key=key, content_type="application/pdf", sha256=sha256, size_bytes=5, staged_key=STAGED)


# The bucket


def test_concurrent_processes_create_the_bucket_once(minio_server: MinioServer, bucket: str) -> None:
    stores = [S3Store(minio_server.client(), bucket) for _ in range(8)]
    with ThreadPoolExecutor(len(stores)) as pool:
        list(pool.map(lambda store: store.ensure(), stores))
    put(stores[0], "a", b"hello")
    assert stores[7].read("a") == b"hello"


def test_init_sets_no_lifecycle_rule(client: Minio, store: S3Store, bucket: str) -> None:
    """A rule cannot know which staged objects are still needed."""
    assert client.get_bucket_lifecycle(bucket) is None


# Objects


def test_content_type_and_digest_are_stored(client: Minio, store: S3Store, bucket: str) -> None:
    put(store, "a", b"hello")
    stat = client.stat_object(bucket, "a")
    assert (stat.content_type, stat.size) == ("text/plain", 5)
    assert (stat.metadata or {})["x-amz-meta-sha256"] == HELLO_SHA256


def test_large_file_is_streamed_in_parts_with_flat_memory(client: Minio, store: S3Store, bucket: str) -> None:
    put(store, "warm", b"hello")  # imports and connections
    stream = Letters(100 * MIB)
    tracemalloc.start()
    try:
        store.put("large", stream, size_bytes=100 * MIB, content_type="video/mp4", sha256=None)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 64 * MIB
    stat = client.stat_object(bucket, "large")
    assert (stat.size, stat.content_type) == (100 * MIB, "video/mp4")
    assert (stat.etag or "").endswith("-7"), "16 MiB per part"
    assert digest_of(client, bucket, "large") == stream.digest.hexdigest()


def test_stream_that_breaks_in_a_later_part_leaves_nothing(client: Minio, store: S3Store, bucket: str) -> None:
    with pytest.raises(OSError, match="not enough"):
        store.put("large", Letters(33 * MIB), size_bytes=40 * MIB, content_type="video/mp4", sha256=None)
    assert list(store.keys("")) == []
    uploads = client._list_multipart_uploads(bucket, prefix="large")
    assert uploads.uploads == []


def test_copy_has_the_given_content_type_and_digest(client: Minio, store: S3Store, bucket: str) -> None:
    store.put("a", io.BytesIO(b"hello"), size_bytes=5, content_type="application/octet-stream", sha256=None)
    copy(store, "a", "b")
    stat = client.stat_object(bucket, "b")
    assert stat.content_type == "text/plain"
    assert store.sha256("b") == HELLO_SHA256


def test_large_copy_is_made_in_parts_with_its_metadata(
    client: Minio, store: S3Store, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_COPY_BYTES", 6 * MIB)
    monkeypatch.setattr(minio.api, "MAX_PART_SIZE", 6 * MIB)
    content = os.urandom(13 * MIB)
    put(store, "a", content)
    copy(store, "a", "b", content)
    stat = client.stat_object(bucket, "b")
    assert (stat.size, stat.content_type, (stat.etag or "")[-2:]) == (13 * MIB, "text/plain", "-3")
    assert store.sha256("b") == hashlib.sha256(content).hexdigest() == digest_of(client, bucket, "b")


def test_keys_of_several_pages_are_listed_and_removed(store: S3Store) -> None:
    keys = [f"many/{number:04d}" for number in range(2_100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: put(store, key, b""), keys))
    assert list(store.keys("many/")) == keys
    store.remove(store.keys("many/"))
    assert list(store.keys("")) == []


def test_object_that_cannot_be_removed_is_an_error(store: S3Store) -> None:
    with pytest.raises(OSError, match="cannot remove object 'a//b': XMinioInvalidObjectName"):
        store.remove(["a//b"])  # the error is in the body of the answer, which minio reads lazily


# The sink


def test_staged_file_moves_to_its_key_with_its_metadata(
    client: Minio, store: S3Store, sink: MinioSink, bucket: str
) -> None:
    put(store, STAGED, b"hello")
    change = upsert_change(staged())
    sink.apply([change])
    assert list(store.keys("")) == [RAW, STAGED], "the sweep removes it"
    assert store.read(RAW) == b"hello"
    assert store.sha256(RAW) == HELLO_SHA256
    assert client.stat_object(bucket, RAW).content_type == "application/pdf"  # as the event says
    store.remove([STAGED])
    sink.apply([change])  # the batch is repeated
    assert list(store.keys("")) == [RAW]


def test_large_staged_file_does_not_pass_through_the_process(store: S3Store, sink: MinioSink) -> None:
    store.put(STAGED, Letters(100 * MIB), size_bytes=100 * MIB, content_type="application/pdf", sha256="5" * 64)
    tracemalloc.start()
    try:
        change = upsert_change(staged("5" * 64))
        sink.apply([change])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * MIB
    assert list(store.keys("")) == [RAW, STAGED]


def test_inline_file_and_vectors_are_written_and_deleted_with_the_document(
    client: Minio, store: S3Store, sink: MinioSink, bucket: str
) -> None:
    file = FileRecord(
        object_key=RAW, content_type="application/pdf", sha256=HELLO_SHA256, size_bytes=5, content=b"hello"
    )
    chunk = ChunkRow(chunk_id="c", content_hash="h", content="text", vector=b"\0\0\x80?\0\0\0@")
    sink.apply([upsert_change(file, version=3, chunks=[chunk])])
    archive = "processed-data/embeddings/handbook/000000000003-00001.msgpack"
    assert list(store.keys("")) == [archive, RAW]
    assert client.stat_object(bucket, RAW).content_type == "application/pdf"
    assert store.sha256(RAW) == HELLO_SHA256
    assert [row["vector"] for row in msgspec.msgpack.decode(store.read(archive))] == [b"\0\0\x80?\0\0\0@"]
    gone = DocumentDeleted(doc_id="handbook", version=4, history_id="h", removed_files=[RAW])
    sink.apply([Change("handbook", 4, (gone,))])
    sink.apply([Change("handbook", 4, (gone,))])
    assert list(store.keys("")) == []


def test_missing_staged_file_is_permanent(store: S3Store, sink: MinioSink) -> None:
    with pytest.raises(Permanent, match=r"temp/upload_a+/file.* is gone"):
        sink.apply([upsert_change(staged())])
    put(store, RAW, b"another file's bytes")
    with pytest.raises(Permanent, match="is gone"):
        sink.apply([upsert_change(staged())])


@pytest.mark.parametrize("key", ["a" * 1_100, "a/" + "b" * 300, "raw-files/../x", "a//b", "", "/a"])
def test_invalid_key_is_permanent(store: S3Store, sink: MinioSink, key: str) -> None:
    file = FileRecord(object_key=key, content_type="text/plain", sha256=HELLO_SHA256, size_bytes=5, content=b"hello")
    with pytest.raises(Permanent, match="object store"):
        sink.apply([upsert_change(file)])
    assert list(store.keys("")) == []


def test_missing_bucket_stops_the_sink_until_it_is_created(
    client: Minio, store: S3Store, sink: MinioSink, bucket: str
) -> None:
    change = upsert_change(chunks=[ChunkRow(chunk_id="c", content_hash="h", content="t", vector=b"")])
    sink.create()
    sink.ensure()
    store.remove([SYSTEM_ID_KEY])
    client.remove_bucket(bucket)
    for call in (sink.ensure, lambda: sink.apply([change])):
        with pytest.raises(
            StoreMissing,
            match=rf"^there is no bucket or folder (s3://)?{bucket} in the object store: run rag-outbox init$",
        ):
            call()
    assert not store.exists()
    sink.create()
    sink.apply([change])
    assert len(list(store.keys("processed-data/"))) == 1


def test_wrong_credentials_are_retryable_and_named(minio_server: MinioServer, bucket: str) -> None:
    sink = MinioSink(S3Store(s3.connect(minio_server.url, minio_server.access_key, "wrong-secret"), bucket), SYSTEM_ID)
    with pytest.raises(Retryable, match="SignatureDoesNotMatch"):
        sink.apply([upsert_change(chunks=[ChunkRow(chunk_id="c", content_hash="h", content="t", vector=b"")])])
    sink.close()


def test_unreachable_server_is_reported_within_seconds() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"  # no server listens: connections are refused
        sink = MinioSink(S3Store(s3.connect(url, "key", "a-long-secret"), "bucket"), SYSTEM_ID)
        began = time.monotonic()
        with pytest.raises(Retryable, match="object store"):
            sink.apply([upsert_change(staged()), upsert_change(staged(), doc_id="another")])
        assert time.monotonic() - began < 5.0
        sink.close()


def test_server_without_an_answer_is_reported_after_one_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = s3.connect(url, "key", "a-long-secret", timeout_seconds=1.0)
        sink = MinioSink(S3Store(client, "bucket"), SYSTEM_ID)
        began = time.monotonic()
        with pytest.raises(Retryable, match=r"object store: .*timed out"):
            sink.apply([upsert_change(staged(), doc_id=f"d{number}") for number in range(100)])
        assert time.monotonic() - began < 4.0, "no request is repeated, and those that did not begin are dropped"
        sink.close()


def test_slow_upload_may_take_longer_than_the_limit_of_a_request() -> None:
    """The limit is that of each block: a part of 16 MiB passes a slow network."""
    with socket.create_server(("127.0.0.1", 0)) as slow, ThreadPoolExecutor(1) as pool:
        client = s3.connect(f"http://127.0.0.1:{slow.getsockname()[1]}", "key", "a-long-secret", timeout_seconds=1.0)
        client._region_map["bucket"] = "us-east-1"  # the server knows no other request
        size_bytes = 16 * MIB

        def serve() -> None:
            connection, _ = slow.accept()
            with connection:
                received = bytearray()
                while len(received) < size_bytes:
                    block = connection.recv(MIB // 2)
                    if not block:  # given up
                        return
                    received += block
                    threading.Event().wait(0.06)
                connection.sendall(b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 0\r\n\r\n')

        served = pool.submit(serve)
        began = time.monotonic()
        S3Store(client, "bucket").put(
            "a", io.BytesIO(b"x" * size_bytes), size_bytes=size_bytes, content_type="text/plain", sha256=None
        )
        served.result()
        assert time.monotonic() - began > 1.0
