"""Suspects: a sink may hold a lost version of a document, so its next version is above it, and carries everything."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Connection, Engine, create_engine, text

from consumers import marks
from consumers.lost_history import LostEvent, mark_lost
from producer import Chunk, Document, Receipt, VectorRequired, WriteConflict, Writer, statements, stored
from schema.database import history
from tests.support import written
from tests.support.pipeline import MODEL, chunk, document
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration

ON_BOTH = pytest.mark.parametrize("database", ["engine", "mysql"])
STATES = "SELECT sink, desired_version, applied_version, state FROM sink_states ORDER BY sink"
OPERATIONS: dict[str, Callable[[Connection], Receipt]] = {
    "upsert": lambda connection: Writer(MODEL).upsert(connection, document("d", "one", "two", file=b"x")),
    "resync": lambda connection: Writer(MODEL).resync(connection, "d", [chunk("one"), chunk("two")]),
    "delete": lambda connection: Writer(MODEL).delete(connection, "d"),
}


@pytest.fixture
def some(database: str, request: pytest.FixtureRequest) -> Engine:
    engine: Engine = request.getfixturevalue(database)
    return engine


def execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def suspect(engine: Engine, doc_id: str, lost_version: int) -> None:
    """As the consumer does that receives an event of a lost history."""
    with engine.begin() as connection:
        marks.lock_documents(connection, [doc_id])
        mark_lost(connection, [LostEvent(doc_id, lost_version)], "milvus received")


def write_confirmed(engine: Engine) -> None:
    """A document that both sinks hold."""
    with engine.begin() as connection:
        Writer(MODEL).upsert(connection, document("d", "one", "two"))
    execute(engine, "UPDATE sink_states SET applied_version = 1, state = 'applied'")


@ON_BOTH
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_next_version_of_a_suspect_is_above_the_lost_one(
    some: Engine, operation: Callable[[Connection], Receipt]
) -> None:
    write_confirmed(some)
    suspect(some, "d", 5)
    with some.begin() as connection:
        assert operation(connection).version == 6
    assert written.rows(some, "SELECT version, history_base FROM documents") == [(6, 0)]
    assert written.rows(some, "SELECT doc_id, lost_version FROM documents WHERE lost_version > 0") == [("d", 5)]
    assert written.rows(some, STATES) == [("milvus", 6, 0, "absent"), ("minio", 6, 0, "absent")]
    [event] = written.events(some, "d", 6)
    carried = event["tombstones"] or event["chunks"]
    assert len(carried) == 2, "both chunks, though the sinks had confirmed them"


@ON_BOTH
def test_lost_document_is_written_above_its_lost_version(some: Engine) -> None:
    suspect(some, "d", 3)
    with some.begin() as connection:
        receipts = Writer(MODEL).upsert_many(connection, [document("d", "one"), document("e", "one")])
    assert [(receipt.doc_id, receipt.version) for receipt in receipts] == [("d", 5), ("e", 1)]
    assert written.rows(some, "SELECT doc_id, version, history_base FROM documents ORDER BY 1") == [
        ("d", 5, 0),  # 4 is the deleted document in its place
        ("e", 1, 0),
    ]
    assert written.rows(some, "SELECT doc_id, sink, state FROM sink_states ORDER BY 1, 2") == [
        ("d", "milvus", "absent"),
        ("d", "minio", "absent"),
        ("e", "milvus", "pending"),
        ("e", "minio", "pending"),
    ]
    assert written.rows(some, "SELECT doc_id, lost_version FROM documents WHERE lost_version > 0") == [("d", 3)]
    assert written.rows(some, "SELECT aggregate_id, aggregate_version FROM outbox ORDER BY id") == [("d", 5), ("e", 1)]


@ON_BOTH
def test_lost_document_that_was_never_written_again_is_deleted(some: Engine) -> None:
    suspect(some, "d", 3)
    assert written.rows(some, "SELECT version, status, chunk_count FROM documents") == [(4, "deleting", 0)]
    assert written.rows(some, STATES) == [("milvus", 4, 0, "absent"), ("minio", 4, 0, "absent")]
    with some.begin() as connection:
        assert OPERATIONS["delete"](connection).version == 5, "a deletion may be asked for, too"
    assert written.rows(some, "SELECT status FROM documents") == [("deleting",)]


def test_writer_that_creates_a_lost_document_meets_its_suspect(mysql: Engine) -> None:
    """Whichever comes first, the other waits for it: no sink keeps a state that is older than the discovery."""
    with ThreadPoolExecutor(1) as pool, mysql.connect() as writing:
        with writing.begin():
            Writer(MODEL).upsert(writing, document("d", "one"))
            finding = pool.submit(suspect, mysql, "d", 3)
            wait_for(lambda: waits_for_a_lock(mysql), "the finder to wait for the writer")
        finding.result()
    assert written.rows(mysql, STATES) == [("milvus", 1, 0, "absent"), ("minio", 1, 0, "absent")]
    assert written.rows(mysql, "SELECT version, deleted_at FROM documents") == [(1, None)]


def test_writer_that_overlooked_a_suspect_gets_a_conflict(mysql: Engine) -> None:
    real = statements.insert_documents

    def insert_after_the_discovery(*arguments: Any) -> None:
        suspect(mysql, "d", 3)
        real(*arguments)

    conflict = pytest.raises(WriteConflict, match="created the same document")
    with (
        patch.object(statements, "insert_documents", insert_after_the_discovery),
        conflict,
        mysql.begin() as connection,
    ):
        Writer(MODEL).upsert(connection, document("d", "one"))
    with mysql.begin() as connection:
        assert Writer(MODEL).upsert(connection, document("d", "one")).version == 5
    assert written.rows(mysql, STATES) == [("milvus", 5, 0, "absent"), ("minio", 5, 0, "absent")]


def waits_for_a_lock(engine: Engine) -> bool:
    waiting = "SELECT 1 FROM performance_schema.data_locks WHERE object_schema = DATABASE() AND lock_status = 'WAITING'"
    return bool(written.rows(engine, waiting))


def test_lower_lost_version_does_not_lower_the_next_version(engine: Engine) -> None:
    write_confirmed(engine)
    execute(engine, "UPDATE documents SET version = 9", "UPDATE sink_states SET desired_version = 9, state = 'pending'")
    suspect(engine, "d", 4)
    with engine.begin() as connection:
        assert OPERATIONS["upsert"](connection).version == 10


def test_suspect_needs_its_vectors_again(engine: Engine) -> None:
    write_confirmed(engine)
    suspect(engine, "d", 5)
    before = written.tables(engine)
    without = Document(
        doc_id="d", title="Title of d", source_type="text", chunks=[Chunk(content="one"), Chunk(content="two")]
    )
    with pytest.raises(VectorRequired) as refused, engine.begin() as connection:
        Writer(MODEL).upsert(connection, without)
    assert refused.value.chunks == {"d": (0, 1)}
    assert written.tables(engine) == before


def test_suspect_that_every_sink_replaced_needs_no_vectors(engine: Engine) -> None:
    write_confirmed(engine)
    suspect(engine, "d", 5)
    execute(engine, "UPDATE sink_states SET applied_version = desired_version, state = 'applied'")
    with engine.begin() as connection:
        assert Writer(MODEL).relabel(connection, "d", title="Second").version == 6
    assert written.events(engine, "d", 6)[0]["chunks"] == []


@ON_BOTH
def test_sink_stays_absent_until_its_consumer_replaced_the_document(some: Engine) -> None:
    write_confirmed(some)
    execute(some, "UPDATE sink_states SET applied_version = 0, state = 'absent' WHERE sink = 'milvus'")
    with some.begin() as connection:
        assert OPERATIONS["upsert"](connection).version == 2
    assert written.rows(some, STATES) == [("milvus", 2, 0, "absent"), ("minio", 2, 1, "pending")]
    assert [row["content"] for row in written.events(some, "d", 2)[0]["chunks"]] == ["one", "two"]


@ON_BOTH
def test_suspects_cost_a_write_no_statement(some: Engine) -> None:
    write_confirmed(some)
    with some.begin() as connection, written.statements(some) as sent:
        Writer(MODEL).upsert(connection, document("d", "one", "two", title="Second"))
    assert [" ".join(statement.split()[:2]) for statement in sent if not statement.startswith("SELECT")] == [
        "UPDATE documents",
        "UPDATE sink_states",
        "INSERT INTO",  # operation_logs
        "INSERT INTO",  # outbox
    ]
    assert len(sent) == 9  # four reads after the first: chunks, tombstones, files and states

    suspect(some, "d", 5)
    with some.begin() as connection, written.statements(some) as sent:
        Writer(MODEL).upsert(connection, document("d", "one", "two", title="Third"))
    assert len(sent) == 10  # the vectors travel again: an UPDATE of chunks too


def test_lock_reads_documents_by_their_key(mysql: Engine) -> None:
    """A scan of a small table would lock the rows of other documents."""
    write_confirmed(mysql)
    statement = str(stored._lock_statement("mysql").compile(mysql))
    with mysql.begin() as connection:
        connection.execute(text("ANALYZE TABLE documents"))
        explained = connection.exec_driver_sql(
            f"EXPLAIN FORMAT=TRADITIONAL {statement}", {"json_doc_ids": '["d", "e", "other"]', "id_1": 1, "id_2": 1}
        ).mappings()
        plan = [(row["table"], row["type"], row["key"]) for row in explained]
    assert plan == [
        ("system_identity", "const", "PRIMARY"),
        ("given", "ALL", None),
        ("present", "eq_ref", "PRIMARY"),
        ("documents", "eq_ref", "PRIMARY"),
        ("first_identity", "const", "PRIMARY"),
        ("sinks", "ALL", None),
    ]


def test_write_in_repeatable_read_is_repeated_to_see_a_new_loss(mysql: Engine) -> None:
    """The caller's snapshot is older than the new history, the lost versions, and the sink that joined."""
    write_confirmed(mysql)
    suspect(mysql, "lost", 2)
    theirs = create_engine(mysql.url, isolation_level="REPEATABLE READ")
    count: Any = text("SELECT (SELECT MAX(lost_version) FROM documents), (SELECT COUNT(*) FROM histories)")
    with theirs.begin() as connection:
        assert connection.execute(count).one() == (2, 1)
        with mysql.begin() as other:
            old = history.lock_identity(other).history_id
            assert history.start_history(other, "test", instead_of=old)
        execute(
            mysql,
            "INSERT INTO sinks (name, required, takes_vectors, takes_files, state) VALUES ('s', 0, 0, 0, 'joining')",
        )
        suspect(mysql, "d", 5)
        suspect(mysql, "lost", 3)
        assert connection.execute(count).one() == (2, 1), "the snapshot is older"
        given = [document("d", "one", "three"), document("lost", "one")]
        with pytest.raises(WriteConflict):  # the snapshot may lack files of a lost version, too
            Writer(MODEL).upsert_many(connection, given)
    with theirs.begin() as connection:
        receipts = Writer(MODEL).upsert_many(connection, given)
    theirs.dispose()

    assert [receipt.version for receipt in receipts] == [6, 4]
    current = "SELECT doc_id, history_id = (SELECT history_id FROM system_identity) FROM documents ORDER BY 1"
    assert written.rows(mysql, current) == [("d", 1), ("lost", 1)]
    assert {event["history_id"] for event in written.events(mysql, "d", 6)} != {old}
    lost = written.rows(mysql, "SELECT sink FROM sink_states WHERE doc_id = 'lost' ORDER BY 1")
    assert lost == [("milvus",), ("minio",), ("s",)]
