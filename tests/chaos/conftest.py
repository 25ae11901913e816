"""The servers of the integration tests, and a system on them."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from schema.database import connect
from tests.commands import Folder
from tests.corpus import DIMENSION
from tests.integration.conftest import milvus_server, minio_server, mysql, names, servers, shared
from tests.servers import MilvusServer, MinioServer, Servers
from tests.stores import Stores

__all__ = ["milvus_server", "minio_server", "mysql", "names", "servers", "shared"]


@dataclass(frozen=True)
class System:
    folder: Folder
    servers: Servers
    stores: Stores


@contextmanager
def initialised(path: Path, servers: Servers, milvus: MilvusServer, minio: MinioServer) -> Iterator[System]:
    """A system by `rag-outbox init`: its own database, topics, Milvus database and bucket."""
    database = f"test_{uuid.uuid4().hex[:12]}"
    administrator = connect(servers.mysql_url)
    with administrator.begin() as connection:
        connection.execute(text(f"CREATE DATABASE {database}"))
    url = make_url(servers.mysql_url).set(database=database).render_as_string(hide_password=False)
    engine = connect(url)
    with milvus.database() as collections, milvus.client(collections) as client, minio.bucket() as bucket:
        folder = Folder(
            path,
            database_url=url,
            kafka_bootstrap_servers=servers.kafka,
            namespace=servers.names().namespace,
            milvus_uri=f"{milvus.uri}/{collections}",
            object_store=minio.url,
            object_store_access_key=minio.access_key,
            object_store_secret_key=minio.secret_key,
            object_store_bucket=bucket,
            embedding_model="test-model",
            vector_dimension=str(DIMENSION),
        )
        assert folder.run("init").status == 0
        yield System(folder, servers, Stores(engine, client, minio.client(), bucket))
    with administrator.begin() as connection:
        connection.execute(text(f"DROP DATABASE {database}"))
    engine.dispose()
    administrator.dispose()


@pytest.fixture
def system(
    tmp_path: Path, servers: Servers, milvus_server: MilvusServer, minio_server: MinioServer
) -> Iterator[System]:
    with initialised(tmp_path, servers, milvus_server, minio_server) as some:
        yield some
