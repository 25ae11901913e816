"""Fixtures of the embedded profile: each test has its own SQLite file, folder and Milvus database.

The tests of one worker share one Milvus Lite process.
"""

import logging
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from milvus_lite.server_manager import server_manager_instance
from pymilvus import MilvusClient
from sqlalchemy import Engine, create_engine

from consumers.milvus.sink import MilvusSink
from consumers.minio.sink import MinioSink
from producer import Writer
from schema.database.connection import connect
from schema.database.tables import metadata
from schema.object_store.directory import DirectoryStore
from tests.support import servers
from tests.support.pipeline import DIMENSION, MODEL, SYSTEM_ID, Pipeline, set_model
from tests.support.servers import MilvusServer

settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

pytest_plugins = ["pytester", "tests.support.markers", "tests.support.server_fixtures"]

_MEMORY = Path("/dev/shm")
_MIN_FREE_BYTES = 12_000_000_000  # twice what a whole run needs


def pytest_configure() -> None:
    """Keep temporary files in memory if it has room: like a disk, it survives a killed process."""
    if "TMPDIR" not in os.environ and _MEMORY.is_dir():
        meminfo = Path("/proc/meminfo").read_text().split()
        available = 1024 * int(meminfo[meminfo.index("MemAvailable:") + 1])
        if min(available, shutil.disk_usage(_MEMORY).free) > _MIN_FREE_BYTES:
            os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)  # the workers and all processes inherit it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow modules first, spread over the workers, so that none of them starts near the end of the run."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow: dict[object, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("slow"):
            slow[item.path].append(item)
    others = [item for item in items if not item.get_closest_marker("slow")]
    modules = list(slow.values())
    items.clear()
    for worker in range(workers):
        share = [item for module in modules[worker::workers] for item in module]
        fill = len(others) // (workers - worker)
        items += share + others[:fill]
        del others[:fill]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In the controller, stop the servers that its workers shared."""
    if not hasattr(session.config, "workerinput"):
        servers.stop(session.config._tmp_path_factory.getbasetemp())  # type: ignore[attr-defined]  # there is no public name


@pytest.fixture(scope="session")
def milvus_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    for name in ("pymilvus", "grpc"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    folder = str(tmp_path_factory.mktemp("milvus") / "vectors.db")
    uri = server_manager_instance.start_and_get_uri(folder)
    assert uri is not None
    yield uri
    server_manager_instance.release_server(folder)


@pytest.fixture
def milvus(milvus_uri: str) -> Iterator[MilvusClient]:
    """A client of the test's own Milvus database."""
    server = MilvusServer(milvus_uri)
    with server.database() as name, server.client(name) as client:
        yield client


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables and an embedding model, for tests to copy."""
    path = tmp_path_factory.mktemp("empty") / "metadata.db"
    engine = connect(f"sqlite:///{path}")
    metadata.create_all(engine)
    with engine.begin() as connection:
        set_model(connection)
    engine.dispose()
    return path


@pytest.fixture
def sqlite(empty_database: Path, tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{shutil.copy(empty_database, tmp_path)}")
    yield engine
    engine.dispose()


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Engine:
    """The database of the fixture `pipeline`: SQLite; MySQL, too, with the marker `both_databases`.

    A test module may override it.
    """
    made: Engine = request.getfixturevalue(getattr(request, "param", "sqlite"))
    return made


@pytest.fixture
def callers_engine(engine: Engine) -> Iterator[Engine]:
    """The engine of a service, as SQLAlchemy makes it by default: REPEATABLE READ on MySQL."""
    own = create_engine(engine.url)
    yield own
    own.dispose()


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    store = DirectoryStore(tmp_path / "objects")
    store.ensure()
    return store


@pytest.fixture
def pipeline(engine: Engine, store: DirectoryStore, milvus: MilvusClient) -> Iterator[Pipeline]:
    """The embedded pipeline; its sinks are ready."""
    milvus_sink, minio_sink = MilvusSink(milvus, DIMENSION, SYSTEM_ID), MinioSink(store, SYSTEM_ID)
    milvus_sink.create()
    minio_sink.create()
    yield Pipeline(engine, store, milvus, Writer(MODEL), milvus_sink, minio_sink)
    minio_sink.close()
