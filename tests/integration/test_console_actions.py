"""What an operator does in the console: confirmed, done once, and kept in the operation log with the name."""

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from operations.web.console.checks import Check, _run
from tests.support.console import Browser, ConsoleSystem, browsing, refuse, words
from tests.support.damage import remove_row
from tests.support.pipeline import Pipeline, document
from tests.support.reconciled import refill_all
from tests.support.tasks import upload_text, work
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration

OPERATOR = "operator-1 (console)"


@pytest.fixture
def system(pipeline: Pipeline, tmp_path: Path) -> ConsoleSystem:
    pipeline.upsert(document("d1", "one", file=b"x"), document("d2", "two"))
    pipeline.run()
    return ConsoleSystem.of(pipeline, tmp_path / "data")


@pytest.fixture
def browser(system: ConsoleSystem) -> Iterator[Browser]:
    with browsing(system) as one:
        one.sign_in("operator-1")
        yield one


def logged(pipeline: Pipeline) -> list[tuple[str, str, str]]:
    """What the console's operator did: operation, table, id."""
    rows = pipeline.sql(
        "SELECT operation_type, target_table, target_id FROM operation_logs WHERE operator = :name ORDER BY log_id",
        name=OPERATOR,
    )
    return [(row[0], row[1], row[2]) for row in rows]


def check(browser: Browser) -> str:
    """Run a check to its end. Returns the page."""
    browser.submit(browser.page("/consistency"), "/consistency/check")
    wait_for(lambda: browser.console.checks.last and not browser.console.checks.last.is_running, "the check's end")
    return browser.page("/consistency")


def test_document_is_sent_again(browser: Browser, pipeline: Pipeline) -> None:
    asked = browser.page("/document/resync/confirm?id=d1")
    assert logged(pipeline) == [], "nothing happens before it is confirmed"
    session = browser.console.sessions.find(browser.client.cookies.get("session"))
    assert session is not None
    session.note("done", "from before")
    assert "from before" not in browser.get("/document?id=d1", **{"x-part": "1"}).text, "a part takes no message"
    shown = words(browser.submit(asked, "/document/resync").text)
    assert "from before Document d1 is sent again as version 2." in shown
    assert logged(pipeline) == [("SYNC", "documents", "d1")]
    assert [event.version for event in pipeline.pending("d1")] == [2]
    pipeline.run()
    pipeline.assert_in_step()
    assert "is sent again" not in browser.page("/document?id=d1"), "a message is shown once"


def test_document_that_cannot_be_sent_says_why(browser: Browser, pipeline: Pipeline) -> None:
    asked = browser.page("/document/resync/confirm?id=none")
    answer = browser.submit(asked, "/document/resync")
    assert answer.status_code == 404
    assert "There is no document none." not in words(browser.page("/")), "shown already"
    pipeline.delete("d2")
    answer = browser.submit(browser.page("/document/resync/confirm?id=d2"), "/document/resync")
    assert "Document d2 is deleted" in words(answer.text)


@pytest.fixture
def failed_task(pipeline: Pipeline) -> str:
    """The id of the task of `bad`, whose file cannot be read."""
    upload_text(pipeline, "bad", b"%PDF-1.7 nothing", "bad.pdf")
    assert work(pipeline) == [("extract", "failed")]
    pipeline.run()
    [(task_id,)] = pipeline.sql("SELECT task_id FROM processing_tasks")
    return str(task_id)


def test_failed_task_is_tried_again(browser: Browser, pipeline: Pipeline, failed_task: str) -> None:
    page = browser.page("/document?id=bad")
    assert re.search(rf'action="/document/task/confirm">.*?name="task" value="{failed_task}".*?Try again', page)
    asked = browser.page(f"/document/task/confirm?id=bad&task={failed_task}")
    assert "extract: bad.pdf: " in words(asked)
    assert logged(pipeline) == [], "nothing happens before it is confirmed"
    forged = browser.post("/document/task/retry", {"id": "bad", "task": failed_task})
    assert forged.status_code == 403, "a form without its token"
    assert pipeline.sql("SELECT status FROM processing_tasks") == [("failed",)]

    shown = words(browser.submit(asked, "/document/task/retry").text)
    assert "The task is queued again." in shown
    assert "task queued again operator-1 (console)" in shown
    assert logged(pipeline) == [("SYNC", "processing_tasks", "bad")]
    assert pipeline.sql("SELECT status FROM processing_tasks") == [("queued",)]
    assert pipeline.sql("SELECT status FROM documents WHERE doc_id = 'bad'") == [("processing",)]

    again = words(browser.submit(asked, "/document/task/retry").text)
    assert f"This document has no failed task {failed_task}" in again, "a second click"
    assert len(logged(pipeline)) == 1
    assert browser.get(f"/document/task/confirm?id=bad&task={failed_task}").status_code == 404


def test_task_of_another_document_is_not_tried_again(browser: Browser, pipeline: Pipeline, failed_task: str) -> None:
    assert browser.get(f"/document/task/confirm?id=d1&task={failed_task}").status_code == 404
    asked = browser.page(f"/document/task/confirm?id=bad&task={failed_task}")
    answer = browser.submit(asked, "/document/task/retry", id="d1")
    assert f"no failed task {failed_task}" in words(answer.text)
    assert pipeline.sql("SELECT status FROM processing_tasks") == [("failed",)]


def test_reader_without_a_session_sees_the_command(system: ConsoleSystem, failed_task: str) -> None:
    with browsing(system) as reader:
        assert f"rag-outbox tasks retry {failed_task}" in words(reader.page("/document?id=bad"))
        refused = reader.post("/document/task/retry", {"id": "bad", "task": failed_task})
        assert refused.status_code == 403


def test_sending_a_document_whose_file_failed_says_so(browser: Browser, failed_task: str) -> None:
    answer = browser.submit(browser.page("/document/resync/confirm?id=bad"), "/document/resync")
    shown = words(answer.text)
    assert "Document bad is sent again as version 2." in shown
    assert "It stays failed, because its file could not be processed" in shown


def test_letters_are_replayed_once_per_document(browser: Browser, pipeline: Pipeline) -> None:
    letters = [
        refuse(pipeline.engine, "d1"),
        refuse(pipeline.engine, "d1", stage="minio"),
        refuse(pipeline.engine, "d2"),
    ]
    query = "&".join(f"letter={one}" for one in letters)
    asked = browser.page(f"/dead-letters/confirm?action=replay&{query}")
    shown = words(browser.submit(asked, "/dead-letters/replay").text)
    assert "Document d1 is sent again as version 2." in shown
    assert "Document d2 is sent again as version 2." in shown
    assert "No dead letters" in shown
    closed = pipeline.sql("SELECT DISTINCT state, closed_by FROM outbox_dead_letters")
    assert [tuple(row) for row in closed] == [("replayed", OPERATOR)]
    again = words(browser.submit(asked, "/dead-letters/replay").text)
    assert f"by {OPERATOR}" in again, "a second click names who was first"
    assert pipeline.sql("SELECT max(version) FROM documents") == [(2,)]


def test_letter_is_discarded_with_a_reason_only(browser: Browser, pipeline: Pipeline) -> None:
    letter = refuse(pipeline.engine, "d1")
    asked = browser.page(f"/dead-letters/confirm?action=discard&letter={letter}")
    refused = browser.submit(asked, "/dead-letters/discard", reason="  ")
    assert "Give a reason" in words(refused.text)
    assert pipeline.sql("SELECT state FROM outbox_dead_letters") == [("open",)]
    done = words(browser.submit(asked, "/dead-letters/discard", reason="not wanted").text)
    assert f"Dead letter {letter} is discarded." in done
    assert logged(pipeline) == [("DELETE", "outbox_dead_letters", "d1")]
    assert "discarded by operator-1 (console): not wanted" in words(browser.page(f"/dead-letter?id={letter}"))


def test_check_finds_differences_and_a_repair_mends_them(browser: Browser, pipeline: Pipeline) -> None:
    remove_row(pipeline, "d1")
    shown = words(check(browser))
    assert "Differences: 1" in shown
    assert "milvus missing d1" in shown
    preview = browser.page("/consistency/repair")
    assert "refill in milvus 1 d1" in words(preview)
    assert logged(pipeline) == [("SYNC", "reconcile_reports", "check")], "a preview changes nothing"
    done = words(browser.submit(preview, "/consistency/repair/run").text)
    assert "Repaired in the database: refill milvus: 1." in done
    assert logged(pipeline)[1:] == [("SYNC", "sink_states", "d1")]
    again = browser.submit(preview, "/consistency/repair/run")
    assert "no check of this console has ended" in words(again.text), "a second click repairs nothing"
    refill_all(pipeline)
    pipeline.assert_in_step()
    assert "No differences" in check(browser)


def test_repair_without_a_check_is_refused(browser: Browser) -> None:
    answer = browser.get("/consistency/repair")
    assert answer.status_code == 409
    assert "start one first" in words(answer.text)


def test_check_that_fails_says_why(browser: Browser, pipeline: Pipeline) -> None:
    pipeline.execute("ALTER TABLE chunk_tombstones RENAME TO away")
    assert "The last check ended early: metadata database: no such table: chunk_tombstones" in words(check(browser))


def test_second_check_waits_for_the_first_which_can_be_stopped(browser: Browser, pipeline: Pipeline) -> None:
    page = browser.page("/consistency")
    checks = browser.console.checks
    checks.last = running = Check(datetime.now(UTC), "somebody", full=False)
    shown = words(browser.submit(page, "/consistency/check").text)
    assert "a check that somebody started is under way" in shown
    assert "A check is running" in shown
    assert checks.last is running
    assert logged(pipeline) == []
    browser.submit(browser.page("/consistency"), "/consistency/stop")
    assert logged(pipeline) == [("SYNC", "reconcile_reports", "check")]


def test_stopped_check_ends_early_and_says_so(browser: Browser) -> None:
    checks, stopped = browser.console.checks, threading.Event()
    stopped.set()
    checks.last = Check(datetime.now(UTC), "operator-1", full=False)
    _run(browser.console.system, checks.last, stopped)
    assert "The last check ended early: stopped" in words(browser.page("/consistency"))
