"""Servers that the integration tests share; each test has its own database, topics and groups."""

import os
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from schema.names import Names
from tests import servers as real
from tests.servers import Servers


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Servers:
    """MySQL and Kafka. With several workers the folder is theirs together; the session's end stops what runs there."""
    base = tmp_path_factory.getbasetemp()
    return real.ready(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


@pytest.fixture
def mysql(servers: Servers) -> Iterator[Engine]:
    engine = servers.database()
    yield engine
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {engine.url.database}")
    engine.dispose()


@pytest.fixture
def names(servers: Servers) -> Names:
    return servers.names()
