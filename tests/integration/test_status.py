"""What `rag-outbox status` counts: dead letters, and documents that a sink lacks."""

import pytest

from consumers.refill import mark_all_absent
from operations.settings import Settings
from operations.status import status
from operations.wiring import System
from relays.outbox import SqlOutbox
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
