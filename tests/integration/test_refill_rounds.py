"""Refill goes in rounds: bounded, the oldest request first, and no document holds up others."""

from collections.abc import Sequence
from typing import Any

import pytest

from consumers import refill, whole_document
from consumers.refill import Refill, mark_all_absent
from consumers.sink import Change
from consumers.whole_document import StoredDocument
from schema.failures import Permanent
from schema.sinks import MILVUS
from tests.support.pipeline import MARKS, Pipeline, document
from tests.support.refill import During, make_due, refill_of

pytestmark = pytest.mark.integration


def test_rounds_are_bounded_in_documents_chunks_and_bytes(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.upsert(*(document(f"d{number:03d}", "one", "two " + "x" * 1_000) for number in range(120)))
    pipeline.run()

    def rounds() -> list[int]:
        mark_all_absent(pipeline.engine, MILVUS, "lost")
        one = refill_of(pipeline, pipeline.milvus_sink)
        return list(iter(one.run_round, 0))

    assert rounds() == [100, 20]
    monkeypatch.setattr(refill, "_ROUND_CHUNKS", 100)
    assert rounds() == [50, 50, 20]
    monkeypatch.setattr(refill, "_ROUND_BYTES", 50_000)
    assert len(rounds()) >= 5
    pipeline.assert_in_step()


def test_round_takes_at_most_half_of_the_time(pipeline: Pipeline) -> None:
    now = 0.0

    def take_two_seconds() -> None:
        nonlocal now
        now += 2.0

    pipeline.upsert(document("a", "one"))
    pipeline.run()
    mark_all_absent(pipeline.engine, MILVUS, "lost")
    sink = During(pipeline.milvus_sink, take_two_seconds)
    one = Refill(pipeline.engine, sink, MARKS[MILVUS], pipeline.store, clock=lambda: now)
    assert one.is_due()
    assert one.run_round() == 1
    now = 3.9
    assert not one.is_due()
    now = 4.0
    assert one.is_due()
    assert one.run_round() == 0
    assert not one.is_due(), "nothing was found: a pause"


def test_rounds_of_a_slow_sink_get_smaller(pipeline: Pipeline) -> None:
    """A sink that embeds may need a second per chunk, and events wait for a round to end."""
    now = 0.0
    rounds: list[int] = []

    def take_a_second_per_chunk() -> None:
        nonlocal now
        rounds.append(len(sink.applied[-1]))
        now += sum(change.chunks for change in sink.applied[-1])

    pipeline.upsert(*(document(f"d{number:03d}", "one", "two", "three") for number in range(130)))
    pipeline.run()
    mark_all_absent(pipeline.engine, MILVUS, "lost")
    sink = During(pipeline.milvus_sink, take_a_second_per_chunk)
    one = Refill(pipeline.engine, sink, MARKS[MILVUS], pipeline.store, clock=lambda: now)
    assert sum(iter(one.run_round, 0)) == 130
    assert rounds == [100, 11, 7, 7, 5]
    pipeline.assert_in_step()


def test_nothing_that_was_read_ahead_is_thrown_away(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    build = whole_document.build

    def note(stored: StoredDocument, *rest: Any) -> whole_document.Whole:
        read.append(stored.row.doc_id)
        return build(stored, *rest)

    pipeline.upsert(*(document(f"d{number:02d}", "x" * 10_000) for number in range(30)))
    pipeline.run()
    mark_all_absent(pipeline.engine, MILVUS, "lost")
    monkeypatch.setattr(whole_document, "build", note)
    monkeypatch.setattr(refill, "_ROUND_BYTES", 20_000)
    one = Refill(pipeline.engine, pipeline.milvus_sink, MARKS[MILVUS], pipeline.store, readers=8)
    rounds = list(iter(one.run_round, 0))
    assert (sum(rounds), len(read)) == (30, 30)
    assert len(rounds) > 1
    pipeline.assert_in_step()


def test_oldest_requests_come_first(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.upsert(*(document(doc_id, "one") for doc_id in "abc"))
    pipeline.run()
    mark_all_absent(pipeline.engine, MILVUS, "lost")
    for doc_id, day in (("b", 1), ("c", 2), ("a", 3)):
        requested = f"UPDATE sink_states SET requested_at = '2020-01-0{day} 00:00:00' WHERE doc_id = :doc_id"
        pipeline.execute(requested, doc_id=doc_id)
    monkeypatch.setattr(refill, "_ROUND_DOCUMENTS", 1)
    sink = During(pipeline.milvus_sink, lambda: None)
    one = refill_of(pipeline, sink)
    assert list(iter(one.run_round, 0)) == [1, 1, 1]
    assert [change.doc_id for [change] in sink.applied] == ["b", "c", "a"]


def test_refused_document_keeps_the_reason_and_holds_up_no_other(pipeline: Pipeline) -> None:
    class Refusing(During):
        def apply(self, changes: Sequence[Change]) -> None:
            if any(change.doc_id == "b" for change in changes):
                raise Permanent("b is bad")
            super().apply(changes)

    pipeline.upsert(*(document(doc_id, "one") for doc_id in "abcd"))
    pipeline.run()
    mark_all_absent(pipeline.engine, MILVUS, "lost")
    assert refill_of(pipeline, Refusing(pipeline.milvus_sink, lambda: None)).run_round() == 3
    assert pipeline.sql("SELECT doc_id, last_error FROM sink_states WHERE state = 'absent'") == [("b", "b is bad")]
    make_due(pipeline)
    assert refill_of(pipeline, pipeline.milvus_sink).run_round() == 1
    pipeline.assert_in_step()
