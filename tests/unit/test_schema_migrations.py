"""The migrations build exactly the declared tables; any number of processes may run them concurrently."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, event, inspect, text

from schema.database import migrate, revision
from schema.database.connection import connect, reading
from schema.database.tables import metadata

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
MIGRATIONS = ROOT / "schema" / "database" / "migrations"
TABLES = {
    "documents",
    "chunks",
    "chunk_tombstones",
    "document_files",
    "sink_states",
    "outbox",
    "outbox_dead_letters",
    "operation_logs",
    "processing_tasks",
    "system_identity",
    "histories",
    "reconcile_reports",
    "embedding_cache",
    "sinks",
    "retention_runs",
    "backups",
    "tidied_documents",
}
UPGRADE = """
import sys
from schema.database import connection as database, migrate
engine = database.connect(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
migrate.upgrade(engine)
engine.dispose()
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path / 'migrated.db'}")
    yield engine
    engine.dispose()


@pytest.fixture
def declared(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path / 'declared.db'}")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


def definitions(engine: Engine) -> dict[tuple[str, str], str]:
    """(type, name) → SQL without line breaks, of everything in the database except Alembic's own table."""
    with engine.begin() as connection:
        rows = connection.execute(
            text("SELECT type, name, sql FROM sqlite_master WHERE tbl_name <> :ours"), {"ours": revision.VERSION_TABLE}
        ).all()
    return {(kind, name): " ".join((sql or "automatic").split()) for kind, name, sql in rows}


def require_compatible(engine: Engine) -> None:
    with reading(engine) as connection:
        revision.require_compatible(connection)


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def differences(engine: Engine, server_defaults: bool = True) -> list[object]:
    """The changes that Alembic would make to get the declared tables."""
    options = {
        "version_table": revision.VERSION_TABLE,
        "compare_server_default": server_defaults,
        # Alembic does not compare descending columns; `definitions` does.
        "include_object": lambda _object, name, *_: name != "ix_processing_tasks_status_priority_available_at",
    }
    with engine.begin() as connection:
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def test_migrations_build_the_declared_tables(engine: Engine, declared: Engine) -> None:
    migrate.upgrade(engine)
    assert tables(engine) == TABLES | {revision.VERSION_TABLE}
    assert definitions(engine) == definitions(declared)
    assert differences(engine) == []


@pytest.mark.parametrize(
    "change",
    [
        "DROP INDEX ix_outbox_lane_id_payload_bytes",
        "ALTER TABLE outbox ADD COLUMN extra TEXT",
        "CREATE TABLE more (id INTEGER PRIMARY KEY)",
    ],
)
def test_comparison_detects_a_difference(engine: Engine, declared: Engine, change: str) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text(change))
    assert definitions(engine) != definitions(declared)
    assert differences(engine) != []


def test_migrations_import_nothing_of_ours() -> None:
    scripts = sorted((MIGRATIONS / "versions").glob("*.py"))
    assert scripts
    for script in scripts:
        for node in ast.walk(ast.parse(script.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in names} & {
                "schema",
                "producer",
                "relays",
                "consumers",
                "retrieval",
                "operations",
            }


def test_second_upgrade_changes_nothing(engine: Engine) -> None:
    def state() -> tuple[object, object]:
        with engine.begin() as connection:
            return connection.scalar(text("PRAGMA schema_version")), connection.scalar(
                text("SELECT reason FROM histories")
            )

    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO histories (history_id, server_uuid, reason) VALUES ('h', '', 'wordllama')")
        )
    before = state()
    migrate.upgrade(engine)
    assert state() == before
    assert before[1] == "wordllama"


def test_upgrade_of_a_current_database_waits_for_no_writer(engine: Engine, tmp_path: Path) -> None:
    migrate.upgrade(engine)
    other = connect(f"sqlite:///{tmp_path / 'migrated.db'}")
    with other.begin():  # holds the write lock
        migrate.upgrade(engine)
    other.dispose()


def test_interrupted_upgrade_leaves_no_tables(engine: Engine, declared: Engine) -> None:
    def fail(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        if "CREATE TABLE outbox " in statement:
            raise RuntimeError("the power went out")

    event.listen(engine, "before_cursor_execute", fail)
    with pytest.raises(RuntimeError, match="the power went out"):
        migrate.upgrade(engine)
    assert tables(engine) == set()

    event.remove(engine, "before_cursor_execute", fail)
    migrate.upgrade(engine)
    assert definitions(engine) == definitions(declared)


def test_concurrent_upgrades_all_succeed_silently(engine: Engine, declared: Engine, tmp_path: Path) -> None:
    upgrade_at_once(f"sqlite:///{tmp_path / 'migrated.db'}", processes=3)
    require_compatible(engine)
    assert definitions(engine) == definitions(declared)


def upgrade_at_once(url: str, processes: int) -> None:
    """Upgrade in several processes that start together; each must succeed and print nothing."""
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", UPGRADE, url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        results = []
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in running:
            stdout, stderr = process.communicate(timeout=60)
            results.append((process.returncode, stdout, stderr))
    finally:
        for process in running:
            process.kill()
            process.communicate()
    assert results == [(0, "", "")] * processes


def test_empty_database_is_outdated(engine: Engine) -> None:
    assert revision.current(engine) is None
    with pytest.raises(revision.WrongRevision, match=r"no rag-outbox tables yet: run rag-outbox init$"):
        require_compatible(engine)
    assert tables(engine) == set()


def test_known_revisions_match_the_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    newest_first = ScriptDirectory.from_config(config).walk_revisions()
    assert [script.revision for script in newest_first] == [*reversed(revision.REVISIONS)]


def test_upgraded_database_is_current(engine: Engine) -> None:
    migrate.upgrade(engine)
    assert revision.current(engine) == "0001"
    require_compatible(engine)


def test_foreign_tables_with_our_names_are_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE documents (id INTEGER PRIMARY KEY)"))
        connection.execute(text("CREATE TABLE chunks (id INTEGER PRIMARY KEY)"))
    with pytest.raises(revision.SchemaError, match="tables that rag-outbox did not create: chunks, documents"):
        migrate.upgrade(engine)
    assert tables(engine) == {"documents", "chunks"}


def test_migrations_of_an_upstream_service_stay_separate(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))
        connection.execute(text("CREATE TABLE invoices (id INTEGER PRIMARY KEY)"))
    migrate.upgrade(engine)
    require_compatible(engine)
    assert tables(engine) == TABLES | {revision.VERSION_TABLE, "alembic_version", "invoices"}
    with engine.begin() as connection:
        assert connection.scalars(text("SELECT version_num FROM alembic_version")).all() == ["theirs"]
