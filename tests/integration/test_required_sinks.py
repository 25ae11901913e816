"""Invariant 8: a document is completed when every required, active sink of the table `sinks` holds its version."""

import pytest

from consumers import marks
from consumers.sink import Change
from schema.events.events import decode
from tests.support.pipeline import Pipeline, document

pytestmark = [pytest.mark.integration, pytest.mark.both_databases]


def add_sink(pipeline: Pipeline, *, required: bool, state: str) -> None:
    pipeline.execute(
        "INSERT INTO sinks (name, required, takes_vectors, takes_files, state)"
        " VALUES ('cache', :required, FALSE, FALSE, :state)",
        required=required,
        state=state,
    )


def mark_cache(pipeline: Pipeline, version: int, *, replace: bool) -> None:
    """What a consumer, or a refill, of the sink `cache` marks."""
    [event] = [decode(one) for one in pipeline.pending() if one.version == version]
    with pipeline.engine.begin() as connection:
        marks.lock_documents(connection, ["a"])
        known = marks.load_known(connection, "cache", ["a"])
        marks.mark_applied(connection, "cache", [Change("a", version, (event,), replace)], known)


def status(pipeline: Pipeline) -> str:
    [(found,)] = pipeline.sql("SELECT status FROM documents")
    return str(found)


@pytest.mark.parametrize(
    ("required", "state", "completed"),
    [(True, "active", False), (False, "active", True), (True, "joining", True), (True, "leaving", True)],
)
def test_invariant_8_only_required_active_sinks_hold_up_a_document(
    pipeline: Pipeline, required: bool, state: str, completed: bool
) -> None:
    add_sink(pipeline, required=required, state=state)
    pipeline.upsert(document("a", "one"))
    for one in pipeline.appliers():
        assert status(pipeline) == "pending"
        assert one.apply(pipeline.pending()) == []
    assert status(pipeline) == ("completed" if completed else "pending")


def test_invariant_8_document_is_completed_by_the_last_required_sink(pipeline: Pipeline) -> None:
    add_sink(pipeline, required=True, state="active")
    pipeline.upsert(document("a", "one"))
    pipeline.execute("DELETE FROM sink_states")  # a writer in another language
    for one in pipeline.appliers():
        assert one.apply(pipeline.pending()) == []
    assert status(pipeline) == "pending"
    mark_cache(pipeline, 1, replace=False)
    assert status(pipeline) == "completed"


def test_states_that_a_writer_left_out_are_absent_in_a_joining_sink(pipeline: Pipeline) -> None:
    add_sink(pipeline, required=True, state="joining")
    pipeline.upsert(document("a", "one"))
    pipeline.execute("DELETE FROM sink_states")
    pipeline.appliers()[0].apply(pipeline.pending())
    rows = pipeline.sql("SELECT sink, state FROM sink_states ORDER BY sink")
    assert rows == [("cache", "absent"), ("milvus", "applied"), ("minio", "pending")]


def test_replace_ends_an_absent_state_and_an_event_does_not(pipeline: Pipeline) -> None:
    add_sink(pipeline, required=True, state="active")
    pipeline.upsert(document("a", "one"))
    pipeline.execute("DELETE FROM sink_states")
    for one in pipeline.appliers():
        one.apply(pipeline.pending())
    with pipeline.engine.begin() as connection:
        marks.mark_absent(connection, "cache", {"a": "lost"})
    cache = "SELECT state, applied_version, parts_version FROM sink_states WHERE sink = 'cache'"
    mark_cache(pipeline, 1, replace=False)
    assert pipeline.sql(cache) == [("absent", 0, 1)]
    assert status(pipeline) == "pending"
    mark_cache(pipeline, 1, replace=True)
    assert pipeline.sql(cache) == [("applied", 1, 1)]
    assert status(pipeline) == "completed"


def test_replace_of_an_older_version_leaves_the_state_pending(pipeline: Pipeline) -> None:
    """A writer committed the next version while the refill was under way: its event brings the rest."""
    pipeline.upsert(document("a", "one"))
    pipeline.run()
    with pipeline.engine.begin() as connection:
        marks.mark_absent(connection, "milvus", {"a": "lost"})
    pipeline.upsert(document("a", "one", "two"))
    pipeline.execute("UPDATE sink_states SET state = 'absent' WHERE sink = 'milvus'")
    event = decode(pipeline.pending()[0])
    with pipeline.engine.begin() as connection:
        marks.mark_applied(connection, "milvus", [Change("a", 1, (event,), replace=True)])
    states = "SELECT state, applied_version FROM sink_states WHERE sink = 'milvus'"
    assert pipeline.sql(states) == [("pending", 1)]
    pipeline.run()
    pipeline.assert_in_step()
