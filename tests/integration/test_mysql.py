"""Behaviour of MySQL: retries after deadlocks and lock timeouts, time zones, 4-byte characters, the claim's index."""

import random
import threading
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pymysql
import pytest
from sqlalchemy import Connection, Engine, text

import producer
from operations.transient_errors import note_transient_errors
from producer import Writer
from relays.outbox import SqlOutbox
from schema.database.tables import LANES
from tests.support import written
from tests.support.pipeline import MODEL, document
from tests.support.servers import Servers
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration

MIB = 1024 * 1024


def status_of(engine: Engine) -> dict[str, str]:
    return dict(written.rows(engine, "SELECT doc_id, status FROM documents"))


def test_transaction_runs_again_after_a_deadlock_and_counts_it(mysql: Engine) -> None:
    with mysql.begin() as connection:
        Writer(MODEL).upsert_many(connection, [document("a", "one"), document("b", "one")])
    found: Counter[str] = Counter()
    note_transient_errors(mysql, lambda code: found.update([code]))
    both = threading.Barrier(2)

    def touch(first: str, second: str) -> None:
        met = False

        def work(connection: Connection) -> None:
            nonlocal met
            update = text("UPDATE documents SET status = 'processing' WHERE doc_id = :doc_id")
            connection.execute(update, {"doc_id": first})
            if not met:
                met = True
                both.wait(30)
            connection.execute(update, {"doc_id": second})

        producer.run(mysql, work)

    threads = [threading.Thread(target=touch, args=order) for order in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == {"1213": 1}
    assert status_of(mysql) == {"a": "processing", "b": "processing"}


def test_transaction_runs_again_after_a_lock_timeout_and_counts_it(mysql: Engine) -> None:
    with mysql.begin() as connection:
        Writer(MODEL).upsert(connection, document("a", "one"))
    found: Counter[str] = Counter()
    note_transient_errors(mysql, lambda code: found.update([code]))
    holder = mysql.connect()
    lock = holder.begin()
    holder.execute(text("SELECT * FROM documents WHERE doc_id = 'a' FOR UPDATE"))

    def work(connection: Connection) -> None:
        connection.execute(text("SET SESSION innodb_lock_wait_timeout = 1"))
        Writer(MODEL).upsert(connection, document("a", "two"))

    waiting = threading.Thread(target=lambda: producer.run(mysql, work))
    waiting.start()
    wait_for(lambda: found["1205"] >= 1, "a lock timeout")
    lock.rollback()
    waiting.join()
    holder.close()
    assert found.keys() == {"1205"}
    assert written.chunks(mysql, "a") == ["two"]


def test_times_are_utc_in_any_session_time_zone(mysql: Engine) -> None:
    with mysql.begin() as connection:
        connection.execute(text("SET time_zone = '+09:00'"))  # a writer in another language may do this
        Writer(MODEL).upsert(connection, document("a", "one"))
        connection.execute(text("SET time_zone = '+00:00'"))
    [(created_at, now)] = written.rows(mysql, "SELECT created_at, UTC_TIMESTAMP(6) FROM outbox")
    assert abs((now - created_at).total_seconds()) < 60
    assert abs((now.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()) < 60


def test_four_byte_characters_and_texts_that_differ_in_case_are_kept(mysql: Engine) -> None:
    contents = ("𝄞 😀 𐍈", "Größe", "größe", "straße", "strasse")
    with mysql.begin() as connection:
        Writer(MODEL).upsert(connection, document("𐍈-😀", *contents, title="😀 title", business_tag="タグ"))
    assert written.chunks(mysql, "𐍈-😀") == list(contents)
    assert written.rows(mysql, "SELECT title, business_tag FROM documents") == [("😀 title", "タグ")]
    [row] = SqlOutbox(mysql).claim_lanes(range(LANES), [], 10, 1_000_000)
    assert row.envelope.doc_id == "𐍈-😀"


def test_claim_reads_its_lanes_by_the_index(mysql: Engine) -> None:
    with written.statements(mysql) as sent:
        SqlOutbox(mysql).claim_lanes([3, 5], [], 10, 1_000_000)
    [statement] = [one for one in sent if "outbox" in one]
    with mysql.begin() as connection:
        Writer(MODEL).upsert_many(connection, [document(f"d{number}", "one") for number in range(500)])
        connection.execute(text("ANALYZE TABLE outbox"))
    with mysql.connect() as connection:
        numbered = statement.replace("%(param_1)s", "10").replace("%(param_2)s", "10")
        plan = (
            connection.exec_driver_sql(f"EXPLAIN FORMAT=TRADITIONAL {numbered}", {"lane_1": 3, "lane_2": 5})
            .mappings()
            .all()
        )
    used = [row["key"] for row in plan if row["table"] == "outbox"]
    assert used == ["ix_outbox_lane_id_payload_bytes", "ix_outbox_lane_id_payload_bytes"]
    assert all("filesort" not in (row["Extra"] or "") for row in plan)


def test_statements_stay_far_below_max_allowed_packet(mysql: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default is 64 MiB, on older servers 4 MiB."""
    sizes: list[int] = []
    driver: Any = pymysql.connections.Connection
    send = driver._execute_command

    def record_size(self: Any, command: int, sql: Any) -> Any:
        sizes.append(len(sql))
        return send(self, command, sql)

    monkeypatch.setattr(driver, "_execute_command", record_size)
    words = [random.randbytes(30_000).hex() for _ in range(20)]  # 1.2 MB per document, in several parts
    with mysql.begin() as connection:
        Writer(MODEL).upsert_many(connection, [document(f"d{n}", *words) for n in range(20)])
        Writer(MODEL).upsert_many(
            connection, [document(f"many-{n}", *(f"{n} {at}" for at in range(2_000))) for n in range(10)]
        )
    rows = SqlOutbox(mysql).claim_lanes(range(LANES), [], 500, 100 * MIB)
    SqlOutbox(mysql).settle(rows)
    assert sum(sizes) > 24 * MIB
    assert max(sizes) < 4 * MIB


def test_sessions_are_read_committed(mysql: Engine, servers: Servers) -> None:
    assert servers.kafka
    assert written.rows(mysql, "SELECT @@transaction_isolation, @@character_set_client, @@time_zone") == [
        ("READ-COMMITTED", "utf8mb4", "+00:00")
    ]
