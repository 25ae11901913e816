"""Processes of this release do their work on the tables of every revision that they accept, on SQLite and MySQL."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url, text

from consumers.applier import Applier
from consumers.milvus.marks import MilvusMarks
from consumers.minio.marks import MinioMarks
from producer import Writer, WrongRelease
from relays.direct import direct_relay
from schema.database import migrate, revision
from schema.database.connection import connect, reading
from schema.sinks import MILVUS, MINIO
from tests.support.memory_sink import MemorySink
from tests.support.migrations import add_migration, create_tables_of
from tests.support.pipeline import MODEL, document, set_model
from tests.support.servers import Servers, empty_database
from tests.unit.test_schema_migrations import require_compatible

pytestmark = pytest.mark.integration

HEAD = revision.number(revision.REVISIONS[-1])
ACCEPTED = [one for one in revision.REVISIONS if revision.number(one) >= revision.OLDEST]


@pytest.fixture(params=["sqlite", "mysql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty database."""
    if request.param == "sqlite":
        engine = connect(f"sqlite:///{tmp_path / 'metadata.db'}")
        yield engine
        engine.dispose()
    else:
        servers: Servers = request.getfixturevalue("servers")
        with empty_database(make_url(servers.mysql_url)) as engine:
            yield engine


def named_sink(name: str) -> MemorySink:
    sink = MemorySink()
    sink.name = name
    sink.create()
    return sink


def assert_processes_work(engine: Engine) -> None:
    """A writer, a relay and the marks of both sinks: write two documents, change one, delete the other."""
    require_compatible(engine)
    with engine.begin() as connection:
        set_model(connection)
    milvus, minio = named_sink(MILVUS), named_sink(MINIO)
    appliers = [Applier(engine, milvus, MilvusMarks()), Applier(engine, minio, MinioMarks())]
    writer = Writer(MODEL)
    for step in range(2):
        with engine.begin() as connection:
            if step == 0:
                writer.upsert_many(connection, [document("a", "one"), document("b", "two")])
            else:
                writer.upsert_many(connection, [document("a", "one", "three")])
                writer.delete_many(connection, ["b"])
        relay = direct_relay(engine, appliers)
        try:
            relay.run(threading.Event(), until_idle=True, patience_seconds=5)
        finally:
            relay.close()
    with reading(engine) as connection:
        rows = connection.execute(text("SELECT doc_id, version, status FROM documents ORDER BY doc_id")).all()
        assert connection.scalar(text("SELECT COUNT(*) FROM outbox")) == 0
    assert [tuple(row) for row in rows] == [("a", 2, "completed"), ("b", 2, "completed")]
    assert sorted(milvus.store()["a"].values()) == ["one", "three"]
    assert milvus.store()["b"] == {}


@pytest.mark.parametrize("found", ACCEPTED)
def test_processes_work_on_every_revision_they_accept(engine: Engine, found: str) -> None:
    create_tables_of(engine, found)
    assert_processes_work(engine)


def test_processes_work_after_an_additive_upgrade(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollout runs `init` of the next release first, then replaces the processes one after the other."""
    with monkeypatch.context() as newer:
        add_migration(tmp_path, newer, f"9999_from_{HEAD}", columns=True)
        migrate.upgrade(engine)
    assert revision.current(engine) == f"9999_from_{HEAD}"
    assert_processes_work(engine)


def test_writer_refuses_tables_of_a_release_that_it_does_not_work_with(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        set_model(connection)
        connection.execute(text(f"UPDATE {revision.VERSION_TABLE} SET version_num = '9999_from_9999'"))
    with pytest.raises(WrongRelease, match="install that release"), engine.begin() as connection:
        Writer(MODEL).upsert(connection, document("a", "one"))
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {revision.VERSION_TABLE} SET version_num = '9999_from_{HEAD}'"))
        Writer(MODEL).upsert(connection, document("a", "one"))
        connection.execute(text(f"UPDATE {revision.VERSION_TABLE} SET version_num = '9999_from_9999'"))
        Writer(MODEL).upsert(connection, document("b", "one"))  # asked once per engine
