"""Fixtures of real servers, a plugin of the root conftest.

All workers share the servers; each test has its own databases, topics, groups and bucket.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from sqlalchemy import Engine

from schema.kafka.names import Names
from tests.support import kafka
from tests.support import servers as real
from tests.support.replica import Replica
from tests.support.servers import MilvusServer, MinioServer, Servers


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers share; the end of the session stops the servers in it."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def servers(shared: Path) -> Servers:
    """MySQL and Kafka."""
    return real.ready(shared)


@pytest.fixture(scope="session")
def mysql_client(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of MySQL's own mysqldump and mysql."""
    return real.mysql_client(tmp_path_factory.mktemp("mysql-client"))


@pytest.fixture(scope="session")
def milvus_server(shared: Path) -> MilvusServer:
    return real.milvus(shared)


@pytest.fixture(scope="session")
def minio_server(shared: Path) -> MinioServer:
    return real.minio(shared)


@pytest.fixture
def mysql(servers: Servers) -> Iterator[Engine]:
    with real.database(servers.mysql_url) as engine:
        yield engine


@pytest.fixture
def names(servers: Servers) -> Names:
    """The test's own topics and groups; the topics exist."""
    made = servers.names()
    kafka.create_topics(servers, made)
    return made


@pytest.fixture
def replica(shared: Path) -> Iterator[Replica]:
    """A new database on a primary, with a stopped replica of it; one test at a time uses the replica."""
    with FileLock(shared / "replica.lock"):  # starting the servers needs the lock too
        primary_url, replica_url = real.replicated(shared)
        with real.database(primary_url) as primary, Replica.stopped(primary, replica_url) as stopped:
            yield stopped
