"""What `rag-outbox status` counts: dead letters, and documents that a sink lacks."""

import pytest
from prometheus_client import CollectorRegistry

from consumers.refill import mark_all_absent
from operations.monitoring.metrics import BacklogMetrics
from operations.monitoring.monitor import Monitor
from operations.settings import Settings
from operations.status import status
from operations.wiring import System
from relays.outbox import SqlOutbox
from schema.database import dead_letters
from schema.failures import DeadLetter
from tests.support.pipeline import Pipeline, document

pytestmark = pytest.mark.integration


def test_invariant_11_dead_letter_is_shown_until_sinks_hold_newer_version(pipeline: Pipeline) -> None:
    system = System(Settings(), pipeline.engine)
    pipeline.upsert(document("a", "one"), document("b", "one"))
    outbox = SqlOutbox(pipeline.engine)
    [row] = [row for row in outbox.claim_oldest(10, 10_000) if row.envelope.doc_id == "a"]
    outbox.settle([row], [DeadLetter("relay", row.envelope, "too large")])
    pipeline.run()

    now = status(system)
    assert now.dead_letters == 1
    assert now.failed == [{"doc_id": "a", "sink": "relay", "version": 1, "reason": "too large"}]

    pipeline.upsert(document("a", "two"))
    assert status(system).dead_letters == 1
    pipeline.run()
    now = status(system)
    assert (now.dead_letters, now.failed, now.documents) == (0, [], {"completed": 2})


def test_monitor_closes_only_old_superseded_letters(pipeline: Pipeline) -> None:
    """Those of the last hour count for the limit; of the old ones, `b` still needs a person."""
    pipeline.upsert(*(document(doc_id, "one") for doc_id in ("a", "b", "c")))
    outbox = SqlOutbox(pipeline.engine)
    rows = outbox.claim_oldest(10, 100_000)
    outbox.settle(rows, [DeadLetter("relay", row.envelope, "too large") for row in rows])
    pipeline.execute("UPDATE outbox_dead_letters SET dead_at = '2020-01-01' WHERE aggregate_id IN ('a', 'b')")
    pipeline.upsert(document("a", "two"), document("c", "two"))
    monitor = Monitor(pipeline.engine, BacklogMetrics(CollectorRegistry()))
    monitor._close_superseded()
    assert pipeline.sql("SELECT count(*) FROM outbox_dead_letters WHERE state = 'open'") == [(3,)]

    pipeline.run()
    monitor._close_superseded()
    closed = "SELECT aggregate_id, state, closed_by, closed_at IS NULL FROM outbox_dead_letters ORDER BY aggregate_id"
    assert [tuple(row) for row in pipeline.sql(closed)] == [
        ("a", "superseded", "rag-outbox", 0),
        ("b", "open", None, 1),
        ("c", "open", None, 1),
    ]
    assert status(System(Settings(), pipeline.engine)).dead_letters == 1


def test_letter_that_is_refused_again_while_it_is_closed_stays_open(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one"))
    outbox = SqlOutbox(pipeline.engine)
    [row] = outbox.claim_oldest(10, 100_000)
    letter = DeadLetter("relay", row.envelope, "too large")
    outbox.settle([row], [letter])
    pipeline.execute("UPDATE outbox_dead_letters SET dead_at = '2020-01-01'")
    pipeline.upsert(document("a", "two"))
    pipeline.run()
    with pipeline.engine.begin() as connection:
        found = dead_letters.find_superseded(connection)
        dead_letters.store(connection, [dead_letters.row_of(letter)])
        dead_letters.close_superseded(connection, found)
    assert pipeline.sql("SELECT state, attempts FROM outbox_dead_letters") == [("open", 2)]


def test_absent_document_counts_as_unapplied(pipeline: Pipeline) -> None:
    system = System(Settings(), pipeline.engine)
    pipeline.upsert(document("a", "one"), document("b", "one"))
    pipeline.run()
    mark_all_absent(pipeline.engine, "milvus", "lost")
    pipeline.upsert(document("c", "one"))
    assert {sink: (one["applied"], one["unapplied"]) for sink, one in status(system).sinks.items()} == {
        "milvus": (0, 3),
        "minio": (2, 1),
    }
    assert status(system).sinks["milvus"]["oldest_unapplied_age_seconds"] is not None
