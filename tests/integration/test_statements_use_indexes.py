"""On MySQL with 100,000 rows per table, statements of relays, writers, sweeps and `status` use indexes.

Those that run per batch, under a lock or periodically find their rows by a key. `status`, which a person runs, may
count a table in an index that covers the statement.
"""

import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from operations import staging
from operations.documents.details import describe
from operations.documents.listing import Query, read_page
from operations.ingest import upsert
from operations.ingest.missing import find_missing
from operations.ingest.sources import Source
from operations.ingest.walk import Found
from operations.retention.run import policies_of_database
from operations.settings import Settings
from operations.status import status
from operations.wiring import System
from producer import DocumentFile
from relays.offset_metadata import checksum
from relays.outbox import SqlOutbox
from relays.ports import OutboxRow
from schema.database.tables import LANES
from schema.failures import DeadLetter
from tests.contracts.object_store import put
from tests.integration.test_marks_use_indexes import FILL, NUMBERS, plan, recorded
from tests.support import servers as real
from tests.support import written
from tests.support.console import ConsoleSystem, browsing
from tests.support.pipeline import Pipeline, document
from tests.support.servers import Servers

pytestmark = pytest.mark.integration

SMALL = {"sinks", "system_identity"}
MIB = 1024 * 1024
MORE = (
    "INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, payload)"
    f" {NUMBERS} SELECT UUID(), CONCAT('other-', n), 1, 't', 'c', REPEAT('x', 200) FROM numbers",
    "INSERT INTO outbox_dead_letters (stage, outbox_id, event_id, aggregate_type, aggregate_id, aggregate_version,"
    " event_type, content_type, payload, error, attempts, dead_at)"
    f" {NUMBERS} SELECT IF(n % 2, 'relay', 'minio'), n, UUID(), 'document', CONCAT('other-', n), 1, 't', 'c', '', 'e',"
    " 1, UTC_TIMESTAMP(6) - INTERVAL n MINUTE FROM numbers",
    "INSERT INTO processing_tasks (task_id, upload_id, staged_key, task_type, doc_id, status, error_message,"
    f" completed_at) {NUMBERS} SELECT CONCAT('failed-', n), CONCAT('failed-', n), CONCAT('temp/uploaded-', n),"
    " 'extract', CONCAT('other-', n), 'failed', 'e', UTC_TIMESTAMP(6) FROM numbers WHERE n % 10 = 7",
    "UPDATE document_files SET staged_key = CONCAT('temp/', doc_id)",
    "UPDATE sink_states SET state = 'failed' WHERE doc_id LIKE 'other-1%'",
    "UPDATE documents SET business_tag = CONCAT('tag-', CRC32(doc_id) % 50),"
    " source_type = IF(CRC32(doc_id) % 20, 'text', 'pdf'), status = IF(CRC32(doc_id) % 30, 'pending', 'processing'),"
    " source_url = CONCAT('rag-source://', CRC32(doc_id) % 100, '/', doc_id),"
    " updated_at = UTC_TIMESTAMP(6) - INTERVAL CRC32(doc_id) % 1000000 SECOND",
    "ANALYZE TABLE documents, document_files, sink_states, outbox, outbox_dead_letters, processing_tasks",
)


@pytest.fixture(scope="module")
def filled(servers: Servers) -> Iterator[Engine]:
    """A database for all tests of this module: to fill it takes a minute."""
    with real.database(servers.mysql_url) as engine:
        with engine.begin() as connection:
            for statement in (*FILL, *MORE):
                connection.execute(text(statement.replace("%%", "%")))
        yield engine


@pytest.fixture
def engine(filled: Engine) -> Engine:
    """The fixture `pipeline` on the filled database."""
    return filled


@pytest.fixture
def sent(pipeline: Pipeline) -> Iterator[list[tuple[str, Any]]]:
    with recorded(pipeline.engine) as statements:
        yield statements


def assert_keys(engine: Engine, sent: list[tuple[str, Any]], most_rows: int, counting: bool = False) -> None:
    """Each statement finds its rows by keys, `most_rows` at most; with `counting`, or reads a covering index."""
    explained = [(statement, row) for statement, given in sent for row in plan(engine, statement, given)]
    assert explained
    for statement, row in explained:
        table = row["table"] or "<none>"
        if table in SMALL or table.startswith("<") or row["select_type"] == "INSERT":
            continue
        if counting and row["type"] == "index" and "Using index" in (row["Extra"] or ""):
            continue
        assert row["type"] not in ("ALL", "index") or row["rows"] <= most_rows, (statement, row)
        assert row["rows"] <= most_rows, (statement, row)


def test_statements_of_a_relay_use_keys(pipeline: Pipeline, sent: list[tuple[str, Any]]) -> None:
    outbox = SqlOutbox(pipeline.engine)
    rows = outbox.claim_lanes(range(LANES), [], 100, MIB)
    outbox.claim_lanes(range(LANES), rows, 100, MIB)
    outbox.settle(rows[:1_000])
    outbox.settle_named([(row.id, checksum(row.envelope.event_id)) for row in rows[1_000:1_100]])
    oldest = outbox.claim_oldest(500, MIB)
    dead = [DeadLetter("relay", row.envelope, "too large") for row in oldest[:10]]
    assert 0 < outbox.count_dead_letters(["milvus", "minio", "relay"]) < 60  # one per minute
    for _ in range(2):
        outbox.settle(oldest, dead)
    lost = [OutboxRow(row.id, row.lane, row.created_at, row.envelope, "lost") for row in oldest]
    outbox.settle(lost)
    outbox.start_history()
    per_lane = 100_000 // LANES  # the range that LIMIT ends early
    assert_keys(pipeline.engine, sent, most_rows=2 * per_lane)


def test_resync_reads_one_lane_of_the_backlog(pipeline: Pipeline, sent: list[tuple[str, Any]]) -> None:
    pipeline.upsert(document("resync", "one"))
    with pipeline.engine.begin() as connection:
        pipeline.writer.resync(connection, "resync")
    of_resync = [one for one in sent if not written.is_look_at_outbox(one[0])]
    assert_keys(pipeline.engine, of_resync, most_rows=2 * 100_000 // LANES)
    assert len(pipeline.pending("resync")) == 2


def test_statements_of_a_write_use_keys(pipeline: Pipeline, sent: list[tuple[str, Any]]) -> None:
    for content in (b"x" * 70_000, b"y" * 70_000):
        file = DocumentFile.from_bytes(content, "a.pdf", pipeline.store)
        given = [document("d", content[:1].decode(), file=file, source_type="pdf")]
        upsert.upsert(pipeline.engine, pipeline.store, pipeline.writer, given, None)
    with pipeline.engine.begin() as connection:
        pipeline.writer.relabel(connection, "d", title="new")
        pipeline.writer.delete(connection, "d")
    looks = [one for one in sent if written.is_look_at_outbox(one[0])]
    assert_keys(pipeline.engine, [one for one in sent if one not in looks], most_rows=100)
    assert_keys(pipeline.engine, looks, most_rows=110_000, counting=True)


def test_statements_of_a_sweep_use_keys(
    pipeline: Pipeline, sent: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_AGE", -staging._AGE)
    for number in range(1, 101):
        put(pipeline.store, f"temp/other-{number}", b"")
        put(pipeline.store, f"temp/abandoned-{number}", b"")
    assert staging.sweep(pipeline.engine, pipeline.store, threading.Event()) == 100
    assert_keys(pipeline.engine, sent, most_rows=1_000)


def test_statements_of_status_use_indexes(pipeline: Pipeline, sent: list[tuple[str, Any]]) -> None:
    now = status(System(Settings(), pipeline.engine))
    assert_keys(pipeline.engine, list(sent), most_rows=110_000, counting=True)
    assert "payload" not in "".join(statement for statement, _ in sent)
    [(events, letters)] = pipeline.sql("SELECT (SELECT count(*) FROM outbox), count(*) FROM outbox_dead_letters")
    assert (now.pending_events, now.dead_letters, len(now.failed)) == (events, letters, 40)


@pytest.mark.parametrize(
    ("query", "key"),
    [
        (Query(), "PRIMARY"),
        (Query(after="other-5"), "PRIMARY"),
        (Query(business_tag="tag-7"), "ix_documents_business_tag"),
        (Query(business_tag="tag-7", after="other-5"), "ix_documents_business_tag"),
        (Query(source_type="pdf", after="other-5"), "ix_documents_source_type"),
        (Query(state="processing", after="other-5"), "ix_documents_status_deleted_at"),
        (Query(state="pending", after="other-5"), "ix_documents_status_deleted_at"),
    ],
    ids=str,
)
def test_pages_of_list_come_from_an_index_in_their_order(
    query: Query, key: str, pipeline: Pipeline, sent: list[tuple[str, Any]]
) -> None:
    assert len(read_page(pipeline.engine, query).documents) == 50
    [(statement, given)] = [one for one in sent if one[0].startswith("SELECT")]
    [row] = plan(pipeline.engine, statement, given)
    assert (row["key"], "filesort" in (row["Extra"] or "")) == (key, False), row


def test_pages_of_list_by_time_come_from_an_index(pipeline: Pipeline, sent: list[tuple[str, Any]]) -> None:
    since = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=1)
    first = read_page(pipeline.engine, Query(updated_since=since))
    second = read_page(pipeline.engine, Query(updated_since=since, after=first.next))
    shown = [one["doc_id"] for page in (first, second) for one in page.documents]
    assert len(set(shown)) == 100
    for statement, given in [one for one in sent if one[0].startswith("SELECT")]:
        [row] = plan(pipeline.engine, statement, given)
        assert row["key"] == "ix_documents_updated_at"
        assert "filesort" not in row["Extra"]


def test_missing_files_of_a_source_are_found_by_an_index(pipeline: Pipeline, sent: list[tuple[str, Any]]) -> None:
    source = Source("42")
    found = Found(folders=[Path("/x")])
    missing = find_missing(pipeline.engine, source, found, force=True)
    assert 500 < len(missing) < 2_000
    assert_keys(pipeline.engine, sent, most_rows=2_000)


OLD = (
    "INSERT INTO operation_logs (operation_type, target_table, target_id, operator, created_at)"
    f" {NUMBERS} SELECT 'INSERT', 'documents', 'd', 'o', UTC_TIMESTAMP(6) - INTERVAL n / 100 DAY FROM numbers"
    " WHERE n % 5 = 0",
    "INSERT INTO processing_tasks (task_id, task_type, doc_id, status, completed_at)"
    f" {NUMBERS} SELECT n, 'chunk', 'd', IF(n % 2, 'completed', 'queued'),"
    " IF(n % 2, UTC_TIMESTAMP(6) - INTERVAL n / 1000 DAY, NULL) FROM numbers WHERE n % 5 = 0",
    "UPDATE outbox_dead_letters SET state = 'replayed', closed_at = '2020-01-01' WHERE id <= 15",  # until the test
    "INSERT INTO documents (doc_id, version, history_id, title, source_type, chunk_count, status, deleted_at) SELECT"
    " CONCAT('gone-', doc_id), 1, 'h', 't', 'text', 0, 'completed', UTC_TIMESTAMP(6) - INTERVAL CRC32(doc_id) % 60 DAY"
    " FROM documents WHERE doc_id LIKE 'other-1%'",
    "INSERT INTO sink_states (doc_id, sink, desired_version, applied_version, state)"
    " SELECT doc_id, name, 1, 1, 'applied' FROM documents JOIN sinks WHERE doc_id LIKE 'gone-%'",
    "ANALYZE TABLE operation_logs, processing_tasks, outbox_dead_letters, documents, sink_states",
)


def test_statements_of_retention_use_indexes(pipeline: Pipeline) -> None:
    with pipeline.engine.begin() as connection:
        for statement in ("SET SESSION cte_max_recursion_depth = 100000", *OLD):
            connection.execute(text(statement))
    with recorded(pipeline.engine) as sent:
        for policy in policies_of_database(pipeline.engine, Settings()):
            batches = policy.batches()
            assert next(batches) > 0, policy.name
            batches.close()
    found = [one for one in sent if " LIMIT " in one[0]]
    assert len(found) == 4
    for statement, given in found:
        [row, *_] = plan(pipeline.engine, statement, given)
        assert (row["type"], "filesort" in (row["Extra"] or "")) == ("range", False), (statement, row)
    assert_keys(pipeline.engine, [one for one in sent if one not in found], most_rows=1_000)


def test_show_reads_one_document(pipeline: Pipeline, sent: list[tuple[str, Any]]) -> None:
    system = System(Settings(), pipeline.engine)
    describe(system, "other-7", chunk_count=5)
    assert_keys(pipeline.engine, sent, most_rows=2 * 100_000 // LANES)
    assert "payload," not in "".join(statement for statement, _ in sent)


def test_pages_of_the_console_use_indexes(
    pipeline: Pipeline, sent: list[tuple[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At most ten queries each. What is counted is counted in an index that covers the query.

    It prints the shortest of three times per page: the goal is 300 ms.
    """
    spent: dict[str, float] = {}
    with browsing(ConsoleSystem.of(pipeline, tmp_path)) as browser:
        browser.sign_in()
        for path in (
            "/",
            "/documents",
            "/documents?title=t",
            "/documents?title=t&tag=tag-7&after=%5B%22t%22%2C+%22other-5%22%5D",
            "/documents?id=other-77",
            "/documents?id=other-77&state=pending&tag=tag-7",
            "/documents?state=processing&type=pdf",
            "/documents?since=2020-01-01T00:00",
            "/document?id=other-7",
            "/document/resync/confirm?id=other-7",
            "/document/task/confirm?id=other-7&task=failed-7",
            "/dead-letters",
            "/dead-letters?stage=relay&after=50000&all=1",
            "/dead-letter?id=50007",
            "/dead-letters/confirm?action=replay&letter=50007&letter=50008",
            "/search?q=t",
            "/consistency",
            "/sinks",
        ):
            for _ in range(3):
                sent.clear()
                began = time.monotonic()
                browser.page(path)
                spent[path] = min(time.monotonic() - began, spent.get(path, 60.0))
            assert len(sent) <= 10, (path, [statement for statement, _ in sent])
            for statement, given in list(sent):
                assert statement.upper().startswith(("SELECT", "SET ")), (path, statement)
                for row in plan(pipeline.engine, statement, given):
                    is_small = (row["table"] or "<").startswith("<") or row["table"] in SMALL
                    is_sorted_page = row["key"] == "PRIMARY" and "LIMIT" in statement and "filesort" not in row["Extra"]
                    is_covered = "Using index" in (row["Extra"] or "")
                    is_keyed = row["type"] not in ("ALL", "index") or (
                        row["type"] == "index" and (is_covered or is_sorted_page)
                    )
                    assert is_small or is_keyed, (path, statement, row)
                    if "/documents" in path:
                        assert "filesort" not in (row["Extra"] or ""), (path, row)
    with capsys.disabled():
        sys.stdout.writelines(f"\n{seconds * 1000:6.0f} ms  {path}" for path, seconds in spent.items())
