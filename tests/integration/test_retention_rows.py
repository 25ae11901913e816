"""Old rows of logs, closed dead letters and ended tasks go, in small batches; younger, open and running ones stay."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, event, insert, literal_column, text

from operations.retention import hourly, runs
from operations.retention.dead_letters import old_dead_letters
from operations.retention.hourly import retain_hourly
from operations.retention.metrics import RetentionMetrics
from operations.retention.operation_logs import old_operation_logs
from operations.retention.processing_tasks import old_processing_tasks
from operations.retention.run import run_due, run_policy
from schema.database.connection import connect
from schema.database.tables import operation_logs, outbox_dead_letters, processing_tasks
from tests.support.forwarder import forward
from tests.support.retained import DAYS, MINUTE, days_ago, ran
from tests.support.waiting import wait_for
from tests.support.written import rows

pytestmark = [pytest.mark.integration, pytest.mark.both_databases]


def add(engine: Engine, table: Any, *values: dict[str, Any]) -> None:
    with engine.begin() as connection:
        connection.execute(insert(table), list(values))


def log(target_id: str, created_at: datetime) -> dict[str, Any]:
    fixed = {"operation_type": "INSERT", "target_table": "documents", "operator": "o", "payload": {"title": "x"}}
    return {"target_id": target_id, "created_at": created_at, **fixed}


def letter(event_id: str, state: str, at: datetime) -> dict[str, Any]:
    closed = {"closed_at": None if state == "open" else at, "closed_by": "p", "closed_reason": "r"}
    fixed = {"outbox_id": 0, "aggregate_type": "document", "aggregate_id": "d", "aggregate_version": 1}
    more = {"event_type": "t", "content_type": "c", "payload": b"p", "error": "e", "attempts": 1, "stage": "milvus"}
    return {"event_id": event_id, "state": state, "dead_at": at, **closed, **fixed, **more}


def task(task_id: str, status: str, completed_at: datetime | None, created_at: datetime) -> dict[str, Any]:
    times = {"completed_at": completed_at, "created_at": created_at}
    return {"task_id": task_id, "task_type": "chunk", "doc_id": "d", "status": status, **times}


def kept(engine: Engine, column: str, table: str) -> set[str]:
    return {one for (one,) in rows(engine, f"SELECT {column} FROM {table}")}


def test_logs_go_at_the_limit_and_not_before(engine: Engine) -> None:
    old, young = days_ago(engine, DAYS, -MINUTE), days_ago(engine, DAYS, MINUTE)
    add(engine, operation_logs, *(log(f"old-{n}", old) for n in range(7)), log("young", young))
    policy = replace(old_operation_logs(engine, DAYS), batch_rows=3)
    found = policy.preview()
    assert found.count == 7
    assert found.oldest is not None
    assert abs(found.oldest - old) < MINUTE
    assert list(policy.batches()) == [3, 3, 1]
    assert kept(engine, "target_id", "operation_logs") == {"young"}
    assert policy.preview().count == 0


def test_dead_letters_go_after_they_were_closed_and_open_ones_never(engine: Engine) -> None:
    old, young = days_ago(engine, DAYS, -MINUTE), days_ago(engine, DAYS, MINUTE)
    states = ("replayed", "discarded", "superseded")
    given = [letter(f"{state} old", state, old) for state in states] + [
        letter(f"{state}", state, young) for state in states
    ]
    add(engine, outbox_dead_letters, *given, letter("open", "open", old))
    assert ran(engine, old_dead_letters(engine, DAYS)).removed == 3
    assert kept(engine, "event_id", "outbox_dead_letters") == {*states, "open"}


def test_letter_that_is_refused_again_before_its_removal_stays(engine: Engine) -> None:
    add(engine, outbox_dead_letters, letter("e", "replayed", days_ago(engine, DAYS + 1)))
    reopen = "UPDATE outbox_dead_letters SET state = 'open', closed_at = NULL"
    with after_first_read(engine, reopen):
        assert ran(engine, old_dead_letters(engine, DAYS)).removed == 0
    assert kept(engine, "state", "outbox_dead_letters") == {"open"}


@contextmanager
def after_first_read(engine: Engine, statement: str) -> Iterator[None]:
    """Commit a statement on another connection right after the policy has read the keys."""
    done: list[str] = []

    def commit(_connection: object, _cursor: object, sent: str, *_: object) -> None:
        if sent.startswith("SELECT") and "closed_at" in sent and not done:
            done.append(sent)
            with engine.begin() as other:
                other.execute(text(statement))

    event.listen(engine, "after_cursor_execute", commit)
    try:
        yield
    finally:
        event.remove(engine, "after_cursor_execute", commit)
    assert done


def test_tasks_go_after_their_end_and_unended_ones_never(engine: Engine) -> None:
    old, young = days_ago(engine, DAYS, -MINUTE), days_ago(engine, DAYS, MINUTE)
    gone = [
        task("completed", "completed", old, old),
        task("failed", "failed", old, old),
        task("undated", "failed", None, old),
    ]
    stays = [
        task("just completed", "completed", young, old),
        task("just created", "failed", None, young),
        task("queued", "queued", None, old),
        task("running", "running", None, old),
    ]
    add(engine, processing_tasks, *gone, *stays)
    policy = old_processing_tasks(engine, DAYS)
    assert policy.preview().count == len(gone)
    assert ran(engine, policy).removed == len(gone)
    assert kept(engine, "task_id", "processing_tasks") == {one["task_id"] for one in stays}


def test_run_stops_after_its_time_and_the_next_one_goes_on(engine: Engine) -> None:
    add(engine, operation_logs, *(log("old", days_ago(engine, DAYS + 1)) for _ in range(5)))
    policy = replace(old_operation_logs(engine, DAYS), batch_rows=2)
    first = run_policy(engine, policy, threading.Event(), seconds=0)
    assert (first.removed, first.is_complete) == (2, False)
    second = ran(engine, policy)
    assert (second.removed, second.is_complete) == (3, True)
    assert runs.read(engine)["operation_logs"].removed == 5


def test_twins_share_what_is_due_and_remove_each_row_once(engine: Engine) -> None:
    add(engine, operation_logs, *(log("old", days_ago(engine, DAYS + 1)) for _ in range(50)))
    policy = replace(old_operation_logs(engine, DAYS), batch_rows=5)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(run_due, engine, [policy], threading.Event(), seconds=60.0) for _ in range(2)]
        done = [future.result() for future in futures]
    assert [sorted(one.values()) for one in sorted(done, key=len)] == [[], [50]], "one of them claimed it"
    with ThreadPoolExecutor(2) as pool:  # and if both work on it, no row counts twice
        add(engine, operation_logs, *(log("old", days_ago(engine, DAYS + 1)) for _ in range(50)))
        assert sum(pool.map(lambda _: ran(engine, policy).removed, range(2))) == 50
    assert kept(engine, "log_id", "operation_logs") == set()


def test_claim_of_a_dead_process_ends_with_its_lease(engine: Engine) -> None:
    assert runs.claim(engine, "operation_logs")
    assert not runs.claim(engine, "operation_logs")
    with engine.begin() as connection:
        connection.execute(text("UPDATE retention_runs SET due_at = :at"), {"at": days_ago(engine, 0, -MINUTE)})
    assert runs.claim(engine, "operation_logs")


def test_background_removes_counts_and_survives_a_failing_policy(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hourly, "_LOOK_SECONDS", 0.05)
    add(engine, operation_logs, *(log("old", days_ago(engine, DAYS + 1)) for _ in range(3)))
    broken = replace(old_dead_letters(engine, DAYS), is_old=lambda _: literal_column("no_such_column") < 1)
    metrics = RetentionMetrics(registry := CollectorRegistry(), ["operation_logs", "dead_letters"])
    value = registry.get_sample_value
    labels = {"policy": "operation_logs"}
    with caplog.at_level("INFO"), retain_hourly(engine, [old_operation_logs(engine, DAYS), broken], metrics):
        wait_for(lambda: value("rag_outbox_retention_removed_total", labels) == 3, "the logs to go")
        wait_for(lambda: "retention_failed policy=dead_letters" in caplog.text, "the failure in the log")
    assert value("rag_outbox_retention_last_success_timestamp_seconds", labels) == pytest.approx(time.time(), abs=600)
    assert value("rag_outbox_retention_last_success_timestamp_seconds", {"policy": "dead_letters"}) is None
    assert "retention_removed policy=operation_logs removed=3" in caplog.text


def test_background_waits_for_a_database_that_is_away(
    mysql: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hourly, "_LOOK_SECONDS", 0.05)
    add(mysql, operation_logs, log("old", days_ago(mysql, DAYS + 1)))
    with forward(mysql.url.render_as_string(hide_password=False)) as (forwarder, url):
        engine = connect(url, timeout_seconds=2)
        forwarder.silence()
        with retain_hourly(engine, [old_operation_logs(engine, DAYS)]):
            wait_for(lambda: "retention_failed policy=operation_logs" in caplog.text, "the failure in the log")
            forwarder.heal()
            wait_for(lambda: kept(mysql, "log_id", "operation_logs") == set(), "the log to go")
        engine.dispose()
