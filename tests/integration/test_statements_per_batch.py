"""Statements of a consumer per batch: they grow neither with its documents nor with the number of their versions."""

from collections.abc import Sequence

import msgspec
import pytest
from sqlalchemy import Engine

from consumers import marks
from consumers.lost_history import LostEvent, mark_lost
from consumers.marks import Known
from consumers.milvus.marks import mark_chunks_synced
from consumers.sink import Change
from schema.events.events import DocumentDeleted, Envelope
from tests.support import written
from tests.support.foreign_events import forge, lose
from tests.support.pipeline import Pipeline, document

pytestmark = [pytest.mark.integration, pytest.mark.both_databases]

DOCUMENTS = 200


def write_at_versions(pipeline: Pipeline, versions: Sequence[int]) -> list[Envelope]:
    """Documents with a chunk and a file each; each event removes another chunk and another file of its document."""
    doc_ids = [f"d{number}" for number in range(len(versions))]
    pipeline.upsert(*(document(doc_id, "kept", "gone", file=b"x") for doc_id in doc_ids))
    pipeline.run()
    pipeline.upsert(*(document(doc_id, "kept", file=b"x", source_type="pdf") for doc_id in doc_ids))
    events = pipeline.pending()
    for event, version in zip(events, versions, strict=True):
        where = {"version": version, "doc_id": event.doc_id}
        pipeline.execute("UPDATE documents SET version = :version WHERE doc_id = :doc_id", **where)
        pipeline.execute("UPDATE sink_states SET desired_version = :version WHERE doc_id = :doc_id", **where)
    return [forge(event, version=version) for event, version in zip(events, versions, strict=True)]


def count_statements(pipeline: Pipeline, events: Sequence[Envelope], dead: int = 0) -> list[int]:
    """For each sink."""
    counts = []
    for one in pipeline.appliers():
        with written.statements(pipeline.engine) as sent:
            assert len(one.apply(events)) == dead
        counts.append(len(sent))
    return counts


def test_versions_of_a_batch_share_their_statements(pipeline: Pipeline) -> None:
    same = write_at_versions(pipeline, [2] * DOCUMENTS)
    expected = count_statements(pipeline, same)
    pipeline.execute("DELETE FROM outbox")
    pipeline.assert_in_step()
    other = write_at_versions(pipeline, range(1002, 1002 + DOCUMENTS))
    assert count_statements(pipeline, other) == expected
    assert max(expected) <= 12
    pipeline.execute("DELETE FROM outbox")
    pipeline.assert_in_step()


def test_refused_versions_share_their_statements(pipeline: Pipeline) -> None:
    events = [
        msgspec.structs.replace(event, payload=b"") for event in write_at_versions(pipeline, range(2, 2 + DOCUMENTS))
    ]
    assert count_statements(pipeline, events[:1], dead=1) == count_statements(pipeline, events, dead=DOCUMENTS)
    assert pipeline.sql("SELECT DISTINCT status FROM documents") == [("failed",)]


def test_lost_versions_share_their_statements(pipeline: Pipeline) -> None:
    lost = [lose(event) for event in write_at_versions(pipeline, range(2, 2 + DOCUMENTS))]
    assert count_statements(pipeline, lost[:1]) == count_statements(pipeline, lost[1:])
    assert pipeline.sql("SELECT min(lost_version), max(lost_version) FROM documents") == [(2, 1 + DOCUMENTS)]


def test_marks_look_rows_up_in_sqlite(sqlite: Engine) -> None:
    """The planner may read the given rows, and the few rows of `sinks`, as a whole, and no other table."""
    known = Known(1, "h", 0, 1, 0, 0, 0, 0, False, 0, "", 0)
    event = DocumentDeleted(doc_id="a", version=1, history_id="h")
    with written.statements(sqlite) as sent, sqlite.begin() as connection:
        marks.mark_applied(connection, "milvus", [Change("a", 1, (event,))], {"a": known})
        marks.mark_refused(connection, "milvus", {("a", 1): "reason"})
        marks.mark_absent(connection, "milvus", {"a": "reason"})
        mark_lost(connection, [LostEvent("a", 1, ("k",))], "milvus received")
        mark_chunks_synced(connection, [("c", 1)])
    steps = []
    with sqlite.connect() as connection:
        for statement in sent[1:]:
            none = tuple(None for _ in range(statement.count("?")))
            steps += [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", none)]
    scanned = {step.split()[1] for step in steps if step.startswith("SCAN")}
    assert scanned == {"json_each", "sinks"}
    assert [step for step in steps if "ix_sink_states_sink_state_requested_at" in step] == []
