"""Writers whose own engine has another isolation level than READ COMMITTED, on a real MySQL."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError

from consumers.refill import mark_all_absent
from producer import Chunk, Document, UnsuitableIsolation, VectorRequired, WriteConflict, Writer, locking, run
from producer.stored import LockedDocuments
from tests.support import written
from tests.support.pipeline import MODEL, document

pytestmark = pytest.mark.integration

THREADS, ROUNDS = 8, 12


@pytest.fixture
def repeatable(mysql: Engine) -> Iterator[Engine]:
    """As SQLAlchemy makes it by default."""
    own = create_engine(mysql.url, pool_size=THREADS)
    yield own
    own.dispose()


def in_threads(work: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        errors = [done.exception() for done in [pool.submit(work, number) for number in range(THREADS)]]
    found = [error for error in errors if error is not None]
    assert [error for error in found if not isinstance(error, threading.BrokenBarrierError)] == []
    assert found == []


def test_unrelated_new_documents_never_deadlock_at_repeatable_read(repeatable: Engine) -> None:
    """All transactions of a round are open at the same time."""
    together = threading.Barrier(THREADS, timeout=60)

    def write(thread: int) -> None:
        for number in range(ROUNDS):
            with repeatable.begin() as connection:
                Writer(MODEL).upsert(connection, document(f"{number}-{thread}", "one", "two", file=b"x"))
                together.wait()
            together.wait()

    in_threads(write)
    assert written.rows(repeatable, "SELECT COUNT(*) FROM documents") == [(THREADS * ROUNDS,)]


def test_creation_seen_late_at_repeatable_read_is_a_write_conflict(mysql: Engine, repeatable: Engine) -> None:
    with repeatable.begin() as connection:
        written_before = connection.exec_driver_sql("SELECT COUNT(*) FROM documents").scalar_one()  # takes the snapshot
        run(mysql, lambda other: Writer(MODEL).upsert(other, document("a", "one")))
        with pytest.raises(WriteConflict, match="run this transaction again"):
            Writer(MODEL).upsert(connection, document("a", "two"))
    assert written_before == 0
    assert run(repeatable, lambda connection: Writer(MODEL).upsert(connection, document("a", "two"))).version == 2


@pytest.mark.parametrize("level", ["REPEATABLE READ", "READ COMMITTED"])
def test_unrelated_edits_of_stored_documents_never_deadlock(
    mysql: Engine, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neighbours in every index. All transactions of a round hold their documents' locks when the first one writes."""
    own = create_engine(mysql.url, pool_size=THREADS, isolation_level=level)
    together = threading.Barrier(THREADS, timeout=30)
    writer = Writer(MODEL)
    edits: list[Callable[[Connection, str], object]] = [
        lambda connection, doc_id: writer.upsert(connection, document(doc_id, "one")),
        lambda connection, doc_id: writer.upsert(connection, document(doc_id, "one", "three")),
        lambda connection, doc_id: writer.upsert(connection, document(doc_id, "zero", "one", "two", "three")),
        lambda connection, doc_id: writer.upsert(connection, document(doc_id, "zero", "one", "two", file=b"x")),
        lambda connection, doc_id: writer.relabel(connection, doc_id, business_tag="new"),
        lambda connection, doc_id: writer.upsert(connection, document(doc_id, "two", file=b"y", source_type="pdf")),
        writer.delete,
        lambda connection, doc_id: writer.upsert(connection, document(doc_id, "two", "four", file=b"z")),
    ]
    doc_ids = [f"{letter}-{thread}" for letter in "ab" for thread in range(THREADS)]
    run(mysql, lambda connection: writer.upsert_many(connection, [document(one, "one", "two") for one in doc_ids]))

    def write(thread: int) -> None:
        for number in range(len(edits)):
            for letter in "ab":
                edit = edits[(number + (thread if letter == "b" else 0)) % len(edits)]
                with mysql.begin() as connection:
                    connection.execute(confirm, {"doc_id": f"{letter}-{thread}"})
                try:
                    with own.begin() as connection:
                        edit(connection, f"{letter}-{thread}")
                except OperationalError:
                    together.abort()  # the others need not wait
                    raise

    confirm = text("UPDATE sink_states SET applied_version = desired_version, state = 'applied' WHERE doc_id = :doc_id")
    lock = locking.lock

    def lock_together(*arguments: Any) -> LockedDocuments:
        locked = lock(*arguments)
        together.wait()
        return locked

    monkeypatch.setattr(locking, "lock", lock_together)
    in_threads(write)
    own.dispose()
    assert written.rows(mysql, "SELECT DISTINCT version FROM documents WHERE doc_id LIKE 'a-%'") == [(9,)]


def test_write_with_older_snapshot_at_repeatable_read_is_a_conflict(mysql: Engine, repeatable: Engine) -> None:
    run(mysql, lambda connection: Writer(MODEL).upsert(connection, document("a", "one")))
    with repeatable.begin() as connection:
        connection.exec_driver_sql("SELECT COUNT(*) FROM documents").scalar_one()  # takes the snapshot
        run(mysql, lambda other: Writer(MODEL).upsert(other, document("a", "one", "two")))
        with (
            written.statements(repeatable) as sent,
            pytest.raises(WriteConflict, match="document 'a' after this one began to read"),
        ):
            Writer(MODEL).upsert(connection, document("a", "two", "three"))
    assert not [statement for statement in sent if statement.startswith(("INSERT", "UPDATE", "DELETE"))]
    assert run(repeatable, lambda connection: Writer(MODEL).upsert(connection, document("a", "two"))).version == 3
    assert written.chunks(mysql, "a") == ["two"]


def test_sink_that_is_absent_since_the_snapshot_gets_its_vectors(mysql: Engine, repeatable: Engine) -> None:
    run(mysql, lambda connection: Writer(MODEL).upsert(connection, document("a", "one")))
    with mysql.begin() as other:
        other.exec_driver_sql("UPDATE sink_states SET applied_version = 1, state = 'applied'")
    kept = Document(doc_id="a", title="New", source_type="text", chunks=[Chunk(content="one")])
    with repeatable.begin() as connection:
        held = connection.exec_driver_sql("SELECT DISTINCT state FROM sink_states").scalar_one()
        mark_all_absent(mysql, "milvus", "the collection is gone")
        with pytest.raises(VectorRequired):
            Writer(MODEL).upsert(connection, kept)
        Writer(MODEL).upsert(connection, document("a", "one", title="New"))
    assert held == "applied"
    assert len(written.events(mysql, "a", 2)[0]["chunks"]) == 1


def test_tombstone_confirmed_since_the_snapshot_is_sent_once_more(mysql: Engine, repeatable: Engine) -> None:
    for contents in (["one", "two"], ["one"]):
        state = document("a", *contents)
        run(mysql, lambda connection, state=state: Writer(MODEL).upsert(connection, state))  # type: ignore[misc]
    with repeatable.begin() as connection:
        connection.exec_driver_sql("SELECT COUNT(*) FROM documents").scalar_one()
        with mysql.begin() as other:
            other.exec_driver_sql("DELETE FROM chunk_tombstones")
        Writer(MODEL).relabel(connection, "a", title="New")
    assert len(written.events(mysql, "a", 3)[0]["tombstones"]) == 1
    with repeatable.begin() as connection:
        connection.exec_driver_sql("SELECT COUNT(*) FROM documents").scalar_one()
        Writer(MODEL).upsert(connection, document("a", "one", "two"))
    assert written.chunks(mysql, "a") == ["one", "two"]


def test_write_reads_and_locks_in_five_statements_at_each_level(mysql: Engine, repeatable: Engine) -> None:
    """More reads would cost a round trip each."""
    for engine in (mysql, repeatable):
        for _ in range(2):  # the first write of a connection compares the server, too
            with written.statements(engine) as sent:
                run(engine, lambda connection: Writer(MODEL).upsert(connection, document("a", "one")))
        assert len(sent) == 5


def test_concurrent_updates_at_repeatable_read_all_commit(repeatable: Engine) -> None:
    """Neighbours in the index: a deadlock is possible, and `run` repeats it."""

    def write(thread: int) -> None:
        for number in range(ROUNDS):
            state = document(f"d{thread % 4}", "kept", f"{thread}-{number}")

            def work(connection: Connection, state: object = state) -> None:
                Writer(MODEL).upsert(connection, state)  # type: ignore[arg-type]

            run(repeatable, work, attempts=50)

    in_threads(write)
    assert written.rows(repeatable, "SELECT SUM(version) FROM documents") == [(THREADS * ROUNDS,)]


def test_serializable_is_refused_with_the_reason(mysql: Engine) -> None:
    own = create_engine(mysql.url, isolation_level="SERIALIZABLE")
    with written.statements(own) as sent, pytest.raises(UnsuitableIsolation, match="use READ COMMITTED"):
        run(own, lambda connection: Writer(MODEL).upsert(connection, document("a", "one")))
    assert not [statement for statement in sent if statement.startswith(("INSERT", "UPDATE"))]
    own.dispose()


def test_level_of_one_connection_is_seen(mysql: Engine) -> None:
    locked = []
    event.listen(mysql, "before_cursor_execute", lambda *arguments: locked.append(arguments[2]))
    with (
        mysql.connect().execution_options(isolation_level="SERIALIZABLE") as connection,
        pytest.raises(UnsuitableIsolation),
    ):
        Writer(MODEL).upsert(connection, document("a", "one"))
    with mysql.begin() as connection:
        Writer(MODEL).upsert(connection, document("a", "one"))
    assert any("FOR UPDATE OF documents" in statement for statement in locked)
