"""Consumers apply the version that an event builds on before the event itself."""

from typing import Any
from unittest.mock import patch

import pytest

from relays import direct
from tests.support.foreign_events import lose
from tests.support.pipeline import Pipeline, document

pytestmark = pytest.mark.integration


def relabel(pipeline: Pipeline, **fields: Any) -> None:
    with pipeline.engine.begin() as connection:
        pipeline.writer.relabel(connection, "d", **fields)


def test_base_and_two_relabels_in_one_batch_are_applied_in_order(pipeline: Pipeline) -> None:
    pipeline.upsert(document("d", "one", "two", file=b"x"))
    relabel(pipeline, business_tag="first")
    relabel(pipeline, business_tag="second")
    pipeline.run()
    assert {row["business_tag"] for row in pipeline.milvus_rows().values()} == {"second"}
    pipeline.assert_in_step()


def test_relabels_in_batches_of_their_own_follow_their_base(pipeline: Pipeline) -> None:
    pipeline.upsert(document("d", "one", "two", file=b"x"))
    relabel(pipeline, business_tag="first")
    relabel(pipeline, business_tag="second")
    with patch.object(direct, "_BATCH_ROWS", 1):
        pipeline.run()
    pipeline.assert_in_step()


def test_lost_event_next_to_a_base_is_counted_once(pipeline: Pipeline) -> None:
    pipeline.upsert(document("other", "one"))
    [event] = pipeline.pending()
    pipeline.run()
    pipeline.upsert(document("d", "one"))
    relabel(pipeline, business_tag="tag")
    milvus, _ = pipeline.appliers()
    assert milvus.apply([lose(event), *pipeline.pending()]) == []
    assert milvus.counts["lost_history"] == 1
    assert [row["business_tag"] for row in pipeline.milvus_rows().values() if row["doc_id"] == "d"] == ["tag"]


def test_relabel_without_its_base_is_refused_and_healed_by_a_write(pipeline: Pipeline) -> None:
    pipeline.upsert(document("d", "one", file=b"x"))
    relabel(pipeline, business_tag="tag")
    pipeline.execute("DELETE FROM outbox WHERE aggregate_version = 1")
    pipeline.run()
    assert pipeline.milvus_rows() == {}
    assert pipeline.sql("SELECT status FROM documents") == [("failed",)]
    reasons = {row.last_error for row in pipeline.sql("SELECT last_error FROM sink_states")}
    assert reasons == {"it builds on version 1, which the sink does not hold"}

    pipeline.execute("DELETE FROM outbox_dead_letters")
    pipeline.upsert(document("d", "one", file=b"x"))
    pipeline.run()
    pipeline.assert_in_step()
