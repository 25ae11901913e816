"""MySQL that goes silent without a reset: every call has a limit, and what arrives late does no harm."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError

from producer import Writer
from relays.outbox import SqlOutbox
from relays.ports import OutboxRow
from schema.database.connection import connect, is_away, is_transient, probe
from schema.database.tables import LANES
from tests.support.forwarder import Forwarder
from tests.support.pipeline import MODEL, document
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration

TIMEOUT_SECONDS = 1.0
IDLE_SECONDS = 3.0
GRACE_SECONDS = 2.0  # for a slow machine
CONNECTIONS = 4


@pytest.fixture
def forwarder(mysql: Engine) -> Iterator[Forwarder]:
    with Forwarder.opened(mysql.url.port or 3306, mysql.url.host or "127.0.0.1") as forwarder:
        yield forwarder


@pytest.fixture
def through(mysql: Engine, forwarder: Forwarder) -> Iterator[Engine]:
    """An engine whose connections lead through the forwarder."""
    url = mysql.url.set(host="127.0.0.1", port=forwarder.port).render_as_string(hide_password=False)
    engine = connect(url, timeout_seconds=TIMEOUT_SECONDS, idle_seconds=IDLE_SECONDS)
    yield engine
    engine.dispose()


def select_one(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))


def seconds_to_fail(engine: Engine) -> float:
    began = time.monotonic()
    with pytest.raises(DBAPIError) as failed:
        select_one(engine)
    assert is_transient(failed.value)
    assert is_away(failed.value)
    return time.monotonic() - began


def test_statement_without_an_answer_fails_in_time(through: Engine, forwarder: Forwarder) -> None:
    with through.connect() as connection:
        forwarder.silence()
        began = time.monotonic()
        with pytest.raises(DBAPIError) as failed:
            connection.execute(text("SELECT 1"))
        assert time.monotonic() - began < TIMEOUT_SECONDS + GRACE_SECONDS
        assert is_away(failed.value)
        assert connection.invalidated
    forwarder.heal()
    select_one(through)


def test_pool_of_dead_connections_costs_one_limit(through: Engine, forwarder: Forwarder) -> None:
    some = [through.connect() for _ in range(CONNECTIONS)]
    for connection in some:
        connection.close()
    forwarder.silence()
    seconds = seconds_to_fail(through)  # of an idle connection, and of a new one
    assert seconds < 2 * TIMEOUT_SECONDS + GRACE_SECONDS
    forwarder.heal()
    began = time.monotonic()
    for _ in range(CONNECTIONS):
        select_one(through)
    assert time.monotonic() - began < GRACE_SECONDS


def test_probe_needs_an_answer_on_a_new_connection(through: Engine, forwarder: Forwarder) -> None:
    probe(through)
    forwarder.silence()
    with pytest.raises(DBAPIError) as failed:
        probe(through)
    assert is_away(failed.value)
    forwarder.heal()
    probe(through)


def test_wait_for_a_lock_is_no_silence(mysql: Engine) -> None:
    patient = connect(mysql.url.render_as_string(hide_password=False), timeout_seconds=3.0)
    take_lock = text("SELECT history_id FROM system_identity FOR UPDATE")
    with mysql.begin() as holding, patient.connect() as waiting:
        holding.execute(take_lock)
        with pytest.raises(DBAPIError) as failed:
            waiting.execute(take_lock)
    patient.dispose()
    assert is_transient(failed.value)
    assert not is_away(failed.value)


def test_locks_of_a_vanished_client_end(mysql: Engine, through: Engine, forwarder: Forwarder) -> None:
    with through.connect() as vanished:
        vanished.execute(text("SELECT history_id FROM system_identity FOR UPDATE"))
        forwarder.silence()
        wait_for(lambda: can_lock(mysql, "system_identity"), "the lock", timeout_seconds=IDLE_SECONDS + 30)
        vanished.invalidate()
    forwarder.heal()


def can_lock(engine: Engine, table: str) -> bool:
    with engine.connect() as connection:
        try:
            connection.execute(text(f"SELECT * FROM {table} FOR UPDATE NOWAIT"))
        except DBAPIError:
            return False
    return True


@pytest.fixture
def claimed(mysql: Engine) -> list[OutboxRow]:
    with mysql.begin() as connection:
        Writer(MODEL).upsert(connection, document("a", "one"))
    return SqlOutbox(mysql).claim_lanes(range(LANES), [], 10, 1_000_000)


def count_rows(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM outbox")).scalar_one())


def test_delete_that_arrives_late_without_commit_does_nothing(
    mysql: Engine, through: Engine, forwarder: Forwarder, claimed: list[OutboxRow]
) -> None:
    @event.listens_for(through, "before_cursor_execute")
    def silence(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("DELETE"):
            forwarder.silence()

    with pytest.raises(DBAPIError):
        SqlOutbox(through).settle(claimed)
    forwarder.heal()
    wait_for(lambda: can_lock(mysql, "outbox"), "the late statement to end")
    assert count_rows(mysql) == 1


def test_settle_whose_commit_arrives_late_removes_published_rows_only(
    mysql: Engine, through: Engine, forwarder: Forwarder, claimed: list[OutboxRow]
) -> None:
    @event.listens_for(through, "commit")
    def silence(_connection: object) -> None:
        forwarder.silence()

    with pytest.raises(DBAPIError):
        SqlOutbox(through).settle(claimed)
    with mysql.begin() as connection:
        Writer(MODEL).upsert(connection, document("b", "one"))  # while the settle holds its locks
    forwarder.heal()
    wait_for(lambda: count_rows(mysql) == 1, "the late commit")
    assert [row.envelope.doc_id for row in SqlOutbox(mysql).claim_lanes(range(LANES), [], 10, 1_000_000)] == ["b"]


@pytest.mark.parametrize("lock", ["LOCK TABLES documents WRITE", "an ALTER TABLE that waits"])
def test_wait_for_a_table_lock_fails_as_busy_and_keeps_the_pool(mysql: Engine, lock: str) -> None:
    url = mysql.url.render_as_string(hide_password=False)
    engine = connect(url, timeout_seconds=3 * TIMEOUT_SECONDS)
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        holder = stack.enter_context(mysql.connect())
        if lock.startswith("LOCK"):
            holder.execute(text(lock))
            stack.callback(holder.execute, text("UNLOCK TABLES"))
        else:
            holder.execute(text("SELECT COUNT(*) FROM documents"))  # until it ends, no ALTER may begin
            pool = stack.enter_context(ThreadPoolExecutor(1))
            altering = pool.submit(alter, mysql)
            stack.callback(altering.result, 30)
            stack.callback(holder.rollback)
            wait_for(lambda: is_alter_waiting(mysql), "the ALTER to wait")
        with engine.connect() as connection:
            its_id = connection.scalar(text("SELECT CONNECTION_ID()"))
            with pytest.raises(DBAPIError) as failed:
                connection.execute(text("SELECT COUNT(*) FROM documents"))
            assert failed.value.orig is not None
            assert failed.value.orig.args[0] == 1205
            assert is_transient(failed.value)
            assert not is_away(failed.value)
            assert not connection.invalidated
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT CONNECTION_ID()")) == its_id


def alter(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("ALTER TABLE documents COMMENT = 'altered'"))


def is_alter_waiting(engine: Engine) -> bool:
    waiting = (
        "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND state LIKE '%metadata lock'"
    )
    with engine.connect() as connection:
        return bool(connection.scalar(text(waiting)))
