"""The writer on a real SQLite file: one transaction, many documents per call, and concurrent writers."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text

from producer import Document, WriteConflict, Writer
from schema.database.connection import connect
from tests.support import written
from tests.support.pipeline import MODEL, document

pytestmark = pytest.mark.integration

Operation = Callable[[Writer, Connection], object]
OPERATIONS: dict[str, Operation] = {
    "insert": lambda writer, connection: writer.upsert(connection, document("new", "one", "two", file=b"new")),
    "update": lambda writer, connection: writer.upsert(connection, document("old", "two", "three", file=b"other")),
    "delete": lambda writer, connection: writer.delete(connection, "old"),
    "sync": lambda writer, connection: writer.resync(connection, "old"),
}
IN_THE_MIDDLE, BEFORE_COMMIT = 8, 9  # exit statuses of a process that died there
EVERY_OPERATION = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


@pytest.fixture
def engine(engine: Engine) -> Engine:
    """The database of the `engine` fixture, with one document."""
    upsert(engine, document("old", "one", "two", file=b"old", business_tag="tag"))
    return engine


def upsert(engine: Engine, *documents: Document) -> None:
    with engine.begin() as connection:
        Writer(MODEL).upsert_many(connection, documents)


def write_and_die(url: str, name: str, at_statement: int) -> None:
    """Runs in its own process, which dies before statement `at_statement`, or before the commit if there are fewer."""
    engine = connect(url)
    with engine.begin() as connection:
        die_at(engine, at_statement, lambda: os._exit(IN_THE_MIDDLE))
        OPERATIONS[name](Writer(MODEL), connection)
        os._exit(BEFORE_COMMIT)


def die_at(engine: Engine, number: int, die: Callable[[], None]) -> Callable[..., None]:
    sent = 0

    def count(*_: object) -> None:
        nonlocal sent
        sent += 1
        if sent == number:
            die()

    event.listen(engine, "before_cursor_execute", count)
    return count


def upsert_often(url: str, writer: str, times: int, start: Any) -> list[int]:
    """Write states of the document `shared` and return their versions; `start` is common to all writers."""
    engine = connect(url)
    start.wait()
    versions = []
    for number in range(times):
        with engine.begin() as connection:
            state = document("shared", "common", f"{writer} {number}")
            versions.append(Writer(MODEL).upsert(connection, state).version)
    engine.dispose()
    return versions


def upsert_often_in_process(url: str, writer: str, times: int, start: Any, answers: Any) -> None:
    answers.put((writer, upsert_often(url, writer, times, start)))


@EVERY_OPERATION
def test_invariant_1_atomic_rollback_leaves_nothing(engine: Engine, operation: Operation) -> None:
    before = written.tables(engine)

    with engine.connect() as connection:
        connection.begin()
        operation(Writer(MODEL), connection)
        connection.rollback()

    assert written.tables(engine) == before


@EVERY_OPERATION
def test_invariant_1_atomic_exception_at_any_statement_leaves_nothing(engine: Engine, operation: Operation) -> None:
    with written.statements(engine) as sent, engine.connect() as connection:
        connection.begin()
        operation(Writer(MODEL), connection)
        connection.rollback()
    before = written.tables(engine)

    def fail() -> None:
        raise KeyboardInterrupt

    for number in range(2, len(sent) + 1):  # the first is BEGIN
        listener = die_at(engine, number, fail)
        with pytest.raises(KeyboardInterrupt), engine.begin() as connection:
            operation(Writer(MODEL), connection)
        event.remove(engine, "before_cursor_execute", listener)
        assert written.tables(engine) == before, f"after statement {number - 1} of {len(sent)}"


@pytest.mark.parametrize(
    ("name", "at_statement", "died"),
    [("insert", 1_000, BEFORE_COMMIT), ("update", 1_000, BEFORE_COMMIT), ("update", 14, IN_THE_MIDDLE)],
)
def test_invariant_1_atomic_process_death_before_commit_leaves_nothing(
    engine: Engine, name: str, at_statement: int, died: int
) -> None:
    before = written.tables(engine)

    process = multiprocessing.get_context("spawn").Process(
        target=write_and_die, args=(str(engine.url), name, at_statement)
    )
    process.start()
    process.join()

    assert process.exitcode == died
    assert written.tables(engine) == before


def test_invariant_1_atomic_only_the_caller_commits(engine: Engine) -> None:
    before = written.tables(engine)
    commits: list[object] = []
    event.listen(engine, "commit", commits.append)

    with engine.begin() as connection:
        Writer(MODEL).upsert(connection, document("new", "one", "two", file=b"new"))
        connection.execute(text("CREATE TABLE of_the_caller (id INTEGER)"))
        assert written.tables(engine) == before, "other connections see it before the commit"
        assert commits == [], "the writer committed"

    counts = {
        table: len(rows) - len(before.get(table, []))
        for table, rows in written.tables(engine).items()
        if rows != before.get(table)
    }
    counts.pop("sqlite_sequence", None)
    assert counts == {
        "documents": 1,
        "chunks": 2,
        "document_files": 1,
        "sink_states": 2,
        "operation_logs": 1,
        "outbox": 1,
        "of_the_caller": 0,
    }


def test_invariant_2_whole_chunk_count_matches_after_every_commit(engine: Engine) -> None:
    """(version, chunk_count, chunks) as other connections see them, before and after each commit."""
    statement = """SELECT version, chunk_count, (SELECT COUNT(*) FROM chunks WHERE doc_id = 'd')
                   FROM documents WHERE doc_id = 'd'"""
    writer = Writer(MODEL)
    steps: list[tuple[Operation, list[tuple[int, int, int]]]] = [
        (lambda w, c: w.upsert(c, document("d", "one", "two", "three")), [(1, 3, 3)]),
        (lambda w, c: w.upsert(c, document("d", "zero", "one", "two", "three", "four")), [(2, 5, 5)]),
        (lambda w, c: w.upsert(c, document("d", "three")), [(3, 1, 1)]),
        (lambda w, c: w.resync(c, "d"), [(4, 1, 1)]),
        (lambda w, c: w.delete(c, "d"), [(5, 0, 0)]),
        (lambda w, c: w.upsert(c, document("d", "again", "three")), [(6, 2, 2)]),
    ]
    seen: list[tuple[int, int, int]] = []
    for operation, expected in steps:
        with engine.begin() as connection:
            operation(writer, connection)
            assert written.rows(engine, statement) == seen
        assert written.rows(engine, statement) == expected
        seen = expected


def test_invariant_2_whole_chunk_count_reveals_partial_document(engine: Engine) -> None:
    partial = """SELECT doc_id FROM documents d
                 WHERE chunk_count <> (SELECT COUNT(*) FROM chunks c WHERE c.doc_id = d.doc_id)"""
    upsert(engine, document("d", "one", "two", "three"))
    assert written.rows(engine, partial) == []

    with engine.begin() as connection:
        connection.execute(text("DELETE FROM chunks WHERE doc_id = 'd' AND chunk_index = 1"))

    assert written.rows(engine, partial) == [("d",)]


@pytest.mark.parametrize("documents", [1, 10, 200])
def test_new_documents_take_six_statements_at_any_batch_size(engine: Engine, documents: int) -> None:
    batch = [document(f"d{number}", *(f"{number} {position}" for position in range(10))) for number in range(documents)]
    with engine.begin() as connection, written.statements(engine) as sent:
        receipts = Writer(MODEL).upsert_many(connection, batch)

    assert [(receipt.doc_id, receipt.version, receipt.changed) for receipt in receipts] == [
        (f"d{number}", 1, True) for number in range(documents)
    ]
    assert [" ".join(statement.split()[:3]) for statement in sent if not statement.startswith("SELECT")] == [
        "INSERT INTO documents",
        "INSERT INTO sink_states",
        "INSERT INTO chunks",
        "INSERT INTO operation_logs",
        "INSERT INTO outbox",
    ]
    assert len(sent) == 6  # a SELECT too: the identity of the system, and the documents that exist
    assert written.rows(engine, "SELECT COUNT(*) FROM chunks WHERE doc_id <> 'old'") == [(10 * documents,)]


def test_concurrent_creation_of_document_raises_write_conflict(engine: Engine) -> None:
    """The write lock of `connect` prevents it, so the caller has an engine whose transactions take the lock late."""
    own, other = create_engine(engine.url), document("d", "other")
    created = threading.Event()

    def create_other(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO documents") and not created.is_set():
            created.set()
            upsert(engine, other)

    event.listen(own, "before_cursor_execute", create_other)
    with (
        own.begin() as connection,
        pytest.raises(WriteConflict, match="another transaction created the same document; run this"),
    ):
        Writer(MODEL).upsert(connection, document("d", "own"))

    assert created.is_set()
    assert written.chunks(engine, "d") == ["other"]
    assert written.rows(engine, "SELECT aggregate_version FROM outbox WHERE aggregate_id = 'd'") == [(1,)]


def test_two_processes_writing_one_document_lose_no_version(engine: Engine) -> None:
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=upsert_often_in_process, args=(str(engine.url), writer, 15, start, answers))
        for writer in ("first", "second")
    ]
    for process in processes:
        process.start()
    versions: dict[str, list[int]] = dict(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()

    assert_no_version_is_lost(engine, versions, 30)


def test_four_threads_writing_one_document_lose_no_version(engine: Engine) -> None:
    start = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        running = {name: pool.submit(upsert_often, str(engine.url), name, 10, start) for name in ("a", "b", "c", "d")}

    assert_no_version_is_lost(engine, {name: future.result() for name, future in running.items()}, 40)


def assert_no_version_is_lost(engine: Engine, versions: dict[str, list[int]], count: int) -> None:
    """Every write has its own version, event (in version order) and log entry; the newest state is stored."""
    expected = list(range(1, count + 1))
    assert sorted(version for numbers in versions.values() for version in numbers) == expected
    assert all(numbers == sorted(numbers) for numbers in versions.values())
    in_order = "SELECT aggregate_version FROM outbox WHERE aggregate_id = 'shared' ORDER BY id"
    assert [version for (version,) in written.rows(engine, in_order)] == expected
    logged = "SELECT operation_type, COUNT(*) FROM operation_logs WHERE target_id = 'shared' GROUP BY 1 ORDER BY 1"
    assert written.rows(engine, logged) == [("INSERT", 1), ("UPDATE", count - 1)]
    newest = next(name for name, numbers in versions.items() if count in numbers)
    assert written.chunks(engine, "shared") == ["common", f"{newest} {len(versions[newest]) - 1}"]
    tombstones = "SELECT COUNT(*) FROM chunk_tombstones WHERE doc_id = 'shared'"
    assert written.rows(engine, tombstones) == [(count - 1,)]
