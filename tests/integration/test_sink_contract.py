"""The contract of sinks on Milvus Lite, a Milvus server, a directory and a MinIO server."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymilvus import MilvusClient

from consumers.milvus.sink import MilvusSink
from consumers.minio.sink import MinioSink
from schema.object_store import s3
from schema.object_store.directory import DirectoryStore
from schema.object_store.port import ObjectStore
from tests.contracts.sink import DIMENSION, SinkContract
from tests.support.pipeline import SYSTEM_ID
from tests.support.servers import MilvusServer, MinioServer

pytestmark = pytest.mark.integration


class MilvusStore:
    shows_chunks = True
    shows_files = False

    def __init__(self, client: MilvusClient) -> None:
        self.sink = MilvusSink(client, DIMENSION, SYSTEM_ID)
        self._client = client

    def read(self, doc_id: str) -> dict[str, str]:
        rows = self._client.query(
            "rag_vectors", f'doc_id == "{doc_id}"', ["chunk_id", "content"], consistency_level="Strong"
        )
        assert len({row["chunk_id"] for row in rows}) == len(rows), "Milvus holds a chunk twice"
        return {row["chunk_id"]: row["content"] for row in rows}

    def lose(self) -> None:
        [name] = self._client.list_collections()
        self._client.drop_alias("rag_vectors")
        self._client.drop_collection(name)


class FilesStore:
    """Files of the object store; the archive is not shown."""

    shows_chunks = False
    shows_files = True

    def __init__(self, store: ObjectStore) -> None:
        self.sink = MinioSink(store, SYSTEM_ID)
        self.objects = store

    def read(self, doc_id: str) -> dict[str, str]:
        keys = [key for key in self.objects.keys("raw-files/") if key.rpartition("/")[2].rpartition(".")[0] == doc_id]
        return {key: self.objects.read(key).decode() for key in keys}

    def lose(self) -> None:
        raise NotImplementedError


class TestMilvusLite(SinkContract):
    @pytest.fixture
    def store(self, milvus: MilvusClient) -> MilvusStore:
        return MilvusStore(milvus)


class TestMilvusServer(SinkContract):
    @pytest.fixture
    def store(self, milvus_server: MilvusServer) -> Iterator[MilvusStore]:
        with milvus_server.database() as database, milvus_server.client(database) as client:
            yield MilvusStore(client)


class TestDirectory(SinkContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[FilesStore]:
        root = tmp_path / "objects"

        class Store(FilesStore):
            def lose(self) -> None:
                shutil.rmtree(root)

        store = Store(DirectoryStore(root))
        yield store
        store.sink.close()


class TestMinio(SinkContract):
    @pytest.fixture
    def store(self, minio_server: MinioServer) -> Iterator[FilesStore]:
        client = minio_server.client()
        with minio_server.bucket() as bucket:

            class Store(FilesStore):
                def lose(self) -> None:
                    self.objects.remove(list(self.objects.keys("")))
                    client.remove_bucket(bucket)

            store = Store(s3.S3Store(client, bucket))
            yield store
            store.sink.close()
