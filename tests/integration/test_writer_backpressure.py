"""A writer refuses to write while too much waits in the outbox; it looks once per second."""

import pytest
from sqlalchemy import Engine, event

from producer import Backpressure, Writer, run
from producer.backpressure import OutboxLimit
from tests.support import written
from tests.support.pipeline import MODEL, document

pytestmark = [pytest.mark.integration, pytest.mark.both_databases]


def fill(engine: Engine, count: int) -> None:
    batch = [document(f"d{number}", "one") for number in range(count)]
    run(engine, lambda connection: Writer(MODEL).upsert_many(connection, batch))


def empty(engine: Engine, statement: str = "DELETE FROM outbox") -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


@pytest.mark.parametrize("limit", [{"max_pending_events": 3}, {"max_pending_bytes": 500}], ids=str)
def test_write_past_a_limit_is_refused_before_anything_is_written(engine: Engine, limit: dict[str, int]) -> None:
    fill(engine, 4)
    writer = Writer(MODEL, **limit)  # type: ignore[arg-type]
    with written.statements(engine) as sent, pytest.raises(Backpressure, match=r"more than \d+ .* wait in the outbox"):
        run(engine, lambda connection: writer.upsert(connection, document("new", "one")))
    assert not [statement for statement in sent if statement.startswith(("INSERT", "UPDATE", "DELETE"))]
    with pytest.raises(Backpressure):  # as seen last
        run(engine, lambda connection: writer.delete(connection, "d1"))
    run(engine, lambda connection: writer.upsert(connection, document("d1", "one")))  # nothing changes
    empty(engine)
    run(engine, lambda connection: Writer(MODEL, **limit).upsert(connection, document("new", "one")))  # type: ignore[arg-type]


def test_writer_looks_once_per_second_and_then_goes_on(engine: Engine) -> None:
    fill(engine, 4)
    now = [100.0]
    limit = OutboxLimit(3, None, clock=lambda: now[0])
    looks = []
    for seconds in (0.0, 0.5, 0.9, 1.1):
        now[0] = 100.0 + seconds
        with engine.connect() as connection:
            if seconds == 0.9:
                empty(engine) if engine.dialect.name == "mysql" else connection.exec_driver_sql("DELETE FROM outbox")
            try:
                limit.look(connection)
                limit.check(connection)
                looks.append("passes")
            except Backpressure:
                looks.append("refused")
            connection.commit()
    assert looks == ["refused", "refused", "refused", "passes"]


def test_gap_in_the_ids_does_not_count_as_backlog(engine: Engine) -> None:
    """One old row waits, all the others were published."""
    fill(engine, 6)
    empty(engine, "DELETE FROM outbox WHERE id NOT IN (1, 6)")
    run(engine, lambda connection: Writer(MODEL, max_pending_events=3).upsert(connection, document("new", "one")))


def test_without_limits_the_outbox_is_not_read(engine: Engine) -> None:
    limit = OutboxLimit(None, None, clock=lambda: pytest.fail("no look is due"))
    with engine.connect() as connection:
        limit.look(connection)
        limit.check(connection)


def test_writer_looks_before_it_locks_a_document(engine: Engine) -> None:
    """To count a long backlog takes a second, in which no lock of the transaction may be held."""
    fill(engine, 4)
    now = [100.0]
    writer = Writer(MODEL, max_pending_events=3)
    writer._outbox_limit.clock = lambda: now[0]
    sent: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: sent.append(arguments[2]))
    with engine.begin() as connection, pytest.raises(Backpressure):
        writer.upsert(connection, document("new", "one"))
    kinds = ["look" if written.is_look_at_outbox(one) else "lock" for one in sent if is_look_or_lock(one)]
    assert kinds == ["look", "look", "lock"]  # the keys, the count, the documents
    assert not [statement for statement in sent if statement.startswith(("INSERT", "UPDATE", "DELETE"))]

    empty(engine)
    now[0] += 100
    sent.clear()
    with engine.begin() as connection:
        writer.upsert(connection, document("new", "one"))
        now[0] += 100
        writer.upsert(connection, document("other", "one"))  # the transaction holds a lock: no look
    assert [written.is_look_at_outbox(one) for one in sent if is_look_or_lock(one)] == [True, False, False]


def is_look_or_lock(statement: str) -> bool:
    return written.is_look_at_outbox(statement) or "AS given" in statement
