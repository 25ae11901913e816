"""Writers whose own engine has another isolation level than READ COMMITTED, on a real MySQL."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, Engine, create_engine, event

from producer import UnsuitableIsolation, WriteConflict, Writer, run
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
        for done in [pool.submit(work, number) for number in range(THREADS)]:
            done.result()


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


def test_stale_snapshot_at_repeatable_read_loses_no_version(mysql: Engine, repeatable: Engine) -> None:
    run(mysql, lambda connection: Writer(MODEL).upsert(connection, document("a", "one")))
    with repeatable.begin() as connection:
        connection.exec_driver_sql("SELECT COUNT(*) FROM documents").scalar_one()
        run(mysql, lambda other: Writer(MODEL).upsert(other, document("a", "one", "two")))
        assert Writer(MODEL).upsert(connection, document("a", "two", "three")).version == 3
    assert written.chunks(mysql, "a") == ["two", "three"]


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
