"""What a caller may pass as `connection`, and receipts of writes through engines of every kind, on real databases."""

import asyncio
import threading
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from producer import NotApplied, Receipt, Writer, run
from tests.support import written
from tests.support.pipeline import MODEL, Pipeline, document

pytestmark = [pytest.mark.integration, pytest.mark.both_databases]


def async_url(engine: Engine) -> Any:
    if engine.dialect.name == "sqlite":
        return engine.url.set(drivername="sqlite+aiosqlite")
    return engine.url.set(drivername="mysql+asyncmy", query={})


def versions(engine: Engine) -> list[tuple[Any, ...]]:
    return written.rows(engine, "SELECT doc_id, version FROM documents ORDER BY doc_id")


def test_writer_accepts_a_session(pipeline: Pipeline, callers_engine: Engine) -> None:
    sessions = sessionmaker(callers_engine)
    with sessions() as session, session.begin():
        pipeline.writer.upsert(session, document("a", "one"))
        pipeline.writer.relabel(session, "a", title="New")
    scoped = scoped_session(sessions)
    pipeline.writer.delete(scoped, "a")
    scoped.commit()
    scoped.remove()
    with Session(callers_engine) as session:
        pipeline.writer.upsert(session, document("b", "one"))  # never committed
    assert versions(pipeline.engine) == [("a", 3)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda engine: engine, "pass the connection of your transaction, not the Engine"),
        (lambda engine: engine.execution_options(x=1), "pass the connection of your transaction, not the OptionEngine"),
        (lambda engine: create_async_engine(async_url(engine)), "not the AsyncEngine"),
        (lambda engine: create_async_engine(async_url(engine)).connect(), "not async.*AsyncConnection.*run_sync"),
        (lambda engine: AsyncSession(create_async_engine(async_url(engine))), "AsyncSession.*run_sync"),
        (lambda engine: None, "must be a SQLAlchemy Connection or Session, is NoneType"),
        (lambda engine: engine.connect().execution_options(isolation_level="AUTOCOMMIT"), "commits each statement"),
    ],
)
def test_wrong_connection_is_refused_with_a_hint(pipeline: Pipeline, make: Any, message: str) -> None:
    wrong = make(pipeline.engine)
    with pytest.raises(TypeError, match=message):
        pipeline.writer.upsert(wrong, document("a", "one"))
    if hasattr(wrong, "invalidate") and not hasattr(wrong, "run_sync"):
        wrong.close()
    assert versions(pipeline.engine) == []


def test_connection_that_commits_each_statement_is_refused(mysql: Engine) -> None:
    """An engine with that level: its connections name it in no option."""
    own = create_engine(mysql.url, isolation_level="AUTOCOMMIT")
    with own.connect() as connection, pytest.raises(TypeError, match="commits each statement"):
        Writer(MODEL).upsert(connection, document("a", "one"))
    own.dispose()


def test_receipt_of_async_transaction_waits_through_own_engine(pipeline: Pipeline) -> None:
    async def write_and_wait() -> Receipt:
        own = create_async_engine(async_url(pipeline.engine))
        try:
            async with own.begin() as connection:
                receipt = await connection.run_sync(
                    lambda connection: pipeline.writer.upsert(connection, document("a", "one"))
                )
            with pytest.raises(NotApplied, match="milvus, minio do not hold document 'a' version 1"):
                receipt.wait(timeout_seconds=0)
            relay = asyncio.create_task(asyncio.to_thread(pipeline.run))
            await asyncio.to_thread(receipt.wait, timeout_seconds=60)
            await relay
            async with AsyncSession(own) as session, session.begin():
                return await session.run_sync(lambda session: pipeline.writer.delete(session, "a"))
        finally:
            await own.dispose()

    receipt = asyncio.run(write_and_wait())
    assert (receipt.version, versions(pipeline.engine)) == (2, [("a", 2)])


def test_receipt_needs_an_engine_for_a_database_in_memory(pipeline: Pipeline) -> None:
    receipt = Receipt("a", 1, True, create_async_engine("sqlite+aiosqlite://").sync_engine)
    with pytest.raises(ValueError, match=r"in memory .* pass `engine`"):
        receipt.wait()
    with pytest.raises(NotApplied):
        receipt.wait(timeout_seconds=0, engine=pipeline.engine)


def test_receipt_sees_marks_made_while_it_waits(pipeline: Pipeline, callers_engine: Engine) -> None:
    """In REPEATABLE READ, all reads of one transaction would see the same rows."""
    receipt = run(callers_engine, lambda connection: pipeline.writer.upsert(connection, document("a", "one")))
    polled = threading.Event()

    def note_poll(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "sink_states" in statement:
            polled.set()

    event.listen(callers_engine, "after_cursor_execute", note_poll)

    def relay() -> None:
        polled.wait(60)
        pipeline.run()

    thread = threading.Thread(target=relay)
    thread.start()
    try:
        receipt.wait(timeout_seconds=60)
    finally:
        thread.join()


def test_receipt_waits_for_required_sinks_alone_unless_one_is_named(pipeline: Pipeline) -> None:
    pipeline.execute(
        "INSERT INTO sinks (name, required, takes_vectors, takes_files) VALUES ('extra', FALSE, TRUE, TRUE)"
    )
    receipt = run(pipeline.engine, lambda connection: pipeline.writer.upsert(connection, document("a", "one")))
    pipeline.run()
    receipt.wait(timeout_seconds=0)
    with pytest.raises(NotApplied, match="extra does not hold"):
        receipt.wait("extra", 0)
    with pytest.raises(ValueError, match="there is no sink 'milvsu': the sinks are extra, milvus, minio"):
        receipt.wait("milvsu", timeout_seconds=30)
