"""A system on real servers, initialised by the command."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import make_url

from schema.collection import alias_of
from tests.support.commands import Folder
from tests.support.corpus import DIMENSION
from tests.support.servers import MilvusServer, MinioServer, Servers, empty_database
from tests.support.stores import Stores


@dataclass(frozen=True)
class System:
    folder: Folder
    servers: Servers
    stores: Stores


@contextmanager
def initialised(
    path: Path, servers: Servers, milvus: MilvusServer, minio: MinioServer, **settings: str
) -> Iterator[System]:
    """Run `rag-outbox init` on a new database, topics, Milvus database and bucket."""
    model = {"embedding_model": "test-model", "vector_dimension": str(DIMENSION)}
    with (
        empty_database(make_url(servers.mysql_url)) as engine,
        milvus.database() as collections,
        milvus.client(collections) as client,
        minio.bucket() as bucket,
    ):
        namespace = servers.names().namespace
        folder = Folder(
            path,
            database_url=engine.url.render_as_string(hide_password=False),
            kafka_bootstrap_servers=servers.kafka,
            namespace=namespace,
            milvus_uri=f"{milvus.uri}/{collections}",
            object_store=minio.url,
            object_store_access_key=minio.access_key,
            object_store_secret_key=minio.secret_key,
            object_store_bucket=bucket,
            **(model | settings),
        )
        assert folder.run("init").status == 0
        yield System(folder, servers, Stores(engine, client, minio.client(), bucket, alias_of(namespace)))


@pytest.fixture
def system(
    tmp_path: Path, servers: Servers, milvus_server: MilvusServer, minio_server: MinioServer
) -> Iterator[System]:
    with initialised(tmp_path, servers, milvus_server, minio_server) as some:
        yield some
