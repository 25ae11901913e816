"""On MySQL, too, the migrations build the declared tables, and these refuse the same rows as on SQLite.

Needs an empty MySQL server, 8.0 or later, whose user may create databases.
"""

import re
from collections.abc import Iterator

import pymysql
import pytest
from sqlalchemy import Connection, Engine, event, make_url, text
from sqlalchemy.exc import DBAPIError

from schema.database import migrate, revision
from schema.database.connection import is_transient, reading
from schema.database.tables import metadata
from tests.support.servers import Servers, empty_database
from tests.unit.test_schema_migrations import TABLES, differences, require_compatible, tables, upgrade_at_once
from tests.unit.test_schema_tables import REFUSED, VALID, Refused, insert

pytestmark = pytest.mark.integration

FACTS = {  # columns of information_schema that must be equal in both databases
    "tables": "table_name, engine, row_format, table_collation, table_comment, create_options",
    "columns": "table_name, ordinal_position, column_name, column_default, is_nullable, column_type, collation_name, "
    "extra, generation_expression, column_comment",
    "statistics": "table_name, index_name, seq_in_index, column_name, non_unique, sub_part, index_type, collation, "
    "is_visible",
    "table_constraints": "table_name, constraint_name, constraint_type, enforced",
    "referential_constraints": "table_name, constraint_name, referenced_table_name, update_rule, delete_rule",
    "key_column_usage": "table_name, constraint_name, ordinal_position, column_name, referenced_table_name, "
    "referenced_column_name",
}


@pytest.fixture
def engine(servers: Servers) -> Iterator[Engine]:
    """A new, empty database."""
    with empty_database(make_url(servers.mysql_url)) as engine:
        yield engine


@pytest.fixture
def declared(servers: Servers) -> Iterator[Engine]:
    with empty_database(make_url(servers.mysql_url)) as engine:
        metadata.create_all(engine)
        yield engine


@pytest.fixture(scope="module")
def migrated(servers: Servers) -> Iterator[Engine]:
    """One migrated database for all tests that roll back their writes."""
    with empty_database(make_url(servers.mysql_url)) as engine:
        migrate.upgrade(engine)
        yield engine


def definitions(engine: Engine) -> dict[str, list[str]]:
    """Table → lines of SHOW CREATE TABLE. Only keys are sorted: create_all creates them in any order."""
    found = {}
    with reading(engine) as connection:
        for table in connection.scalars(text("SHOW TABLES")).all():
            statement = connection.execute(text(f"SHOW CREATE TABLE {table}")).one()[1]
            lines = [line.strip().rstrip(",") for line in statement.splitlines()]
            keys = sorted(line for line in lines if line.startswith("KEY"))
            found[table] = [line for line in lines if not line.startswith("KEY")] + keys
    del found[revision.VERSION_TABLE]
    return found


def facts(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    """Rows of information_schema about every table except Alembic's own."""
    found = {}
    with reading(engine) as connection:
        for view, columns in FACTS.items():
            schema = "constraint_schema" if "constraint" in view or "usage" in view else "table_schema"
            query = (
                f"SELECT {columns} FROM information_schema.{view} WHERE {schema} = DATABASE() AND table_name <> :ours"
            )
            rows = connection.execute(text(query), {"ours": revision.VERSION_TABLE})
            found[view] = sorted((tuple(row) for row in rows), key=repr)
        checks = "SELECT constraint_name, check_clause FROM information_schema.check_constraints"
        rows = connection.execute(text(f"{checks} WHERE constraint_schema = DATABASE()"))
        found["check_constraints"] = sorted((tuple(row) for row in rows), key=repr)
    return found


def test_migrations_build_the_declared_tables(engine: Engine, declared: Engine) -> None:
    migrate.upgrade(engine)
    with declared.begin() as connection:  # so that both databases have the same number of tables
        connection.execute(text(f"CREATE TABLE {revision.VERSION_TABLE} (version_num VARCHAR(32) PRIMARY KEY)"))
    assert tables(engine) == TABLES | {revision.VERSION_TABLE}
    assert definitions(engine) == definitions(declared)
    assert facts(engine) == facts(declared)
    assert all(rows for rows in facts(engine).values())
    assert differences(engine, server_defaults=False) == []  # MySQL changes their spelling; `facts` compared them


def test_texts_compare_by_bytes_and_times_have_microseconds(migrated: Engine) -> None:
    columns = "FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name <> :ours"
    with reading(migrated) as connection:
        ours = {"ours": revision.VERSION_TABLE}
        collations = connection.scalars(text(f"SELECT DISTINCT collation_name {columns}"), ours).all()
        times = connection.scalars(
            text(f"SELECT DISTINCT column_type {columns} AND data_type = 'datetime'"), ours
        ).all()
    assert set(collations) == {None, "utf8mb4_0900_bin"}
    assert times == ["datetime(6)"]


def test_second_upgrade_changes_nothing(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        insert(connection, "chunks")
    before = definitions(engine)
    migrate.upgrade(engine)
    assert definitions(engine) == before
    with reading(engine) as connection:
        assert connection.scalar(text("SELECT count(*) FROM chunks")) == 1


def test_concurrent_upgrades_all_succeed_silently(engine: Engine) -> None:
    upgrade_at_once(engine.url.render_as_string(hide_password=False), processes=3)
    require_compatible(engine)
    assert tables(engine) == TABLES | {revision.VERSION_TABLE}


def test_upgrade_continues_after_an_interruption_at_any_statement(engine: Engine, migrated: Engine) -> None:
    """Each round runs one statement more than the previous one, then fails."""
    done = 0

    def fail_after_the_first(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        nonlocal done
        if re.match(r"\s*(CREATE|INSERT)", statement):
            if done:
                raise RuntimeError("the power went out")
            done += 1

    event.listen(engine, "before_cursor_execute", fail_after_the_first)
    rounds = 0
    while revision.current(engine) is None:
        done = 0
        try:
            migrate.upgrade(engine)
        except RuntimeError:
            rounds += 1
    assert rounds == 17 + 28 + 1  # tables, indexes, and the table of the revision; the last round inserts the revision
    require_compatible(engine)
    assert definitions(engine) == definitions(migrated)


def test_empty_database_is_outdated(engine: Engine) -> None:
    with pytest.raises(revision.WrongRevision, match="run rag-outbox init"):
        require_compatible(engine)


def test_foreign_tables_with_our_names_are_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE documents (id INT PRIMARY KEY)"))
    with pytest.raises(revision.SchemaError, match="tables that rag-outbox did not create: documents"):
        migrate.upgrade(engine)
    assert tables(engine) == {"documents"}


@pytest.mark.parametrize("table", VALID)
def test_valid_row_is_accepted(migrated: Engine, table: str) -> None:
    with migrated.connect() as connection:
        insert(connection, table)
        assert connection.scalar(text(f"SELECT count(*) FROM {table}")) == 1


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.why)
def test_invalid_row_is_refused(migrated: Engine, case: Refused) -> None:
    with migrated.connect() as connection:
        if case.existing is not None:
            insert(connection, case.table, **case.existing)
        with pytest.raises(DBAPIError) as refusal:
            insert(connection, case.table, **case.changes)
    assert case.mysql in str(refusal.value.orig)


@pytest.mark.parametrize(
    ("table", "column", "characters"),
    [("documents", "doc_id", 64), ("documents", "title", 512), ("outbox", "aggregate_id", 64)],
)
def test_too_long_text_is_refused_not_truncated(migrated: Engine, table: str, column: str, characters: int) -> None:
    with migrated.connect() as connection:
        insert(connection, table, **{column: "😀" * characters})
        assert connection.scalar(text(f"SELECT {column} FROM {table}")) == "😀" * characters
        with pytest.raises(DBAPIError, match="Data too long"):
            insert(connection, table, **{column: "😀" * (characters + 1)})


def test_ids_that_differ_in_case_or_accent_are_different_keys(migrated: Engine) -> None:
    doc_ids = ["resume", "Resume", "résumé", "resume ", "😀", "😁"]
    with migrated.connect() as connection:
        for doc_id in doc_ids:
            insert(connection, "documents", doc_id=doc_id)
        assert connection.scalars(text("SELECT doc_id FROM documents WHERE doc_id = 'resume'")).all() == ["resume"]
        assert set(connection.scalars(text("SELECT doc_id FROM documents"))) == set(doc_ids)


@pytest.mark.parametrize(  # CRC-32 of the id's UTF-8, as gzip computes it, mod 16
    ("doc_id", "lane"), [("doc-1", 9), ("doc-2", 3), ("Doc-1", 13), ("手册-😀", 2)]
)
def test_outbox_computes_lane_and_payload_size(migrated: Engine, doc_id: str, lane: int) -> None:
    with migrated.connect() as connection:
        insert(connection, "outbox", aggregate_id=doc_id, payload=b"\x00\xff\xc3")
        assert connection.execute(text("SELECT lane, payload_bytes FROM outbox")).one() == (lane, 3)


@pytest.mark.parametrize("charset", ["utf8mb4", "latin1"])
def test_service_in_any_language_writes_with_plain_sql(engine: Engine, charset: str) -> None:
    """On its own connection: default isolation, its own time zone and character set."""
    migrate.upgrade(engine)
    url = engine.url
    connection = pymysql.connect(
        host=url.host,
        port=url.port or 3306,
        user=url.username,
        password=str(url.password or ""),
        database=url.database,
        charset=charset,
        init_command="SET time_zone = '+09:00'",
    )
    title = "A manual 😀" if charset == "utf8mb4" else "A manual é"
    doc_id = "手册-😀" if charset == "utf8mb4" else "é"
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO documents (doc_id, version, history_id, title, source_type, chunk_count)"
                " VALUES (%s, 1, 'h', %s, 'pdf', 1)",
                (doc_id, title),
            )
            cursor.execute(
                "INSERT INTO chunks (chunk_id, doc_id, chunk_index, vector_level, modal_type, content, content_hash,"
                " char_count, vector_version, row_version) VALUES ('c', %s, 0, 'text', 'text', %s, 'h', 10, 1, 1)",
                (doc_id, title),
            )
            cursor.execute(
                "INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, headers,"
                " payload) VALUES (UUID(), %s, 1, 'rag.document.upserted.v1', 'application/json', '{}', %s)",
                (doc_id, b'{"doc_id": "..."}'),
            )
        connection.commit()
    finally:
        connection.close()

    with reading(engine) as ours:
        assert ours.execute(text("SELECT doc_id, title, status FROM documents")).one() == (doc_id, title, "pending")
        assert ours.execute(text("SELECT doc_id, content, milvus_synced FROM chunks")).one() == (doc_id, title, 0)
        lane, payload_bytes = ours.execute(text("SELECT lane, payload_bytes FROM outbox")).one()
        assert (lane, payload_bytes) == ({"手册-😀": 2, "é": 14}[doc_id], 17)
        for table in ("documents", "chunks", "outbox"):
            age = text(f"SELECT ABS(TIMESTAMPDIFF(SECOND, created_at, UTC_TIMESTAMP(6))) FROM {table}")
            assert int(ours.execute(age).scalar_one()) < 60


def test_connection_has_the_settings_of_the_contract(migrated: Engine) -> None:
    settings = "@@transaction_isolation, @@time_zone, @@character_set_client, @@character_set_results"
    with migrated.connect() as connection:
        found = connection.execute(text(f"SELECT {settings}")).one()
    assert found == ("READ-COMMITTED", "+00:00", "utf8mb4", "utf8mb4")


def test_reading_connection_sees_newly_committed_rows(engine: Engine) -> None:
    migrate.upgrade(engine)
    with reading(engine) as reader:
        assert reader.scalar(text("SELECT count(*) FROM documents")) == 0
        with engine.begin() as writer:
            insert(writer, "documents")
        assert reader.scalar(text("SELECT count(*) FROM documents")) == 1


def test_killed_connection_is_a_transient_error(migrated: Engine) -> None:
    with migrated.connect() as victim, reading(migrated) as killer:
        killer.execute(text(f"KILL {victim.scalar(text('SELECT CONNECTION_ID()'))}"))
        with pytest.raises(DBAPIError) as lost:
            victim.execute(text("SELECT 1"))
    assert is_transient(lost.value)
