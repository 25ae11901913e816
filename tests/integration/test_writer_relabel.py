"""Relabel: a change of metadata without chunks and vectors, whether or not the sinks confirmed them."""

from typing import Any

import pytest
from sqlalchemy import Engine, text

from producer import FileRequired, InvalidDocument, Receipt, UnknownDocument, VectorRequired, Writer
from schema.database import history
from tests.support import written
from tests.support.pipeline import MODEL, Pipeline, document

pytestmark = pytest.mark.integration

METADATA = "SELECT version, title, source_url, business_tag, domain, language, chunk_count FROM documents"


def upsert(engine: Engine, *contents: str, **fields: Any) -> None:
    with engine.begin() as connection:
        Writer(MODEL).upsert(connection, document("d", *contents, **fields))


def relabel(engine: Engine, doc_id: str = "d", **values: Any) -> Receipt:
    with engine.begin() as connection:
        return Writer(MODEL).relabel(connection, doc_id, **values)


def execute(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))


def current_history(engine: Engine) -> str:
    [(history_id,)] = written.rows(engine, "SELECT history_id FROM system_identity")
    return str(history_id)


def start_history(engine: Engine) -> None:
    with engine.begin() as connection:
        assert history.start_history(connection, "test", instead_of=current_history(engine))


def test_relabel_of_a_confirmed_document_sends_its_labels(pipeline: Pipeline) -> None:
    pipeline.upsert(document("d", "one", "two", file=b"x", business_tag="old", language="en"))
    pipeline.run()

    receipt = relabel(pipeline.engine, business_tag="new", domain="law")

    assert (receipt.version, receipt.changed) == (2, True)
    assert written.rows(pipeline.engine, METADATA) == [(2, "Title of d", None, "new", "law", "en", 2)]
    [event] = written.events(pipeline.engine, "d", 2)
    assert "builds_on" not in event
    assert (event["chunks"], event["files"], event["business_tag"]) == ([], [], "new")
    ids = written.chunk_ids(pipeline.engine, "d")
    assert sorted(row["chunk_id"] for row in event["relabelled"]) == sorted(ids.values())
    pipeline.run()
    pipeline.assert_in_step()
    assert {row["business_tag"] for row in pipeline.milvus_rows().values()} == {"new"}


def test_relabel_before_confirmation_names_the_version_it_builds_on(engine: Engine) -> None:
    upsert(engine, "zero", "one", business_tag="first")
    upsert(engine, "one", "two", file=b"x", business_tag="first")
    tombstones = written.events(engine, "d", 2)[0]["tombstones"]

    relabel(engine, business_tag="second")
    relabel(engine, title="Third")

    ids = sorted(written.chunk_ids(engine, "d").values())
    for version, title in ((3, "Title of d"), (4, "Third")):
        [event] = written.events(engine, "d", version)
        assert event["builds_on"] == 2
        assert (event["chunks"], event["files"]) == ([], [])
        assert sorted(row["chunk_id"] for row in event["relabelled"]) == ids, "all changes of labels since"
        assert (event["title"], event["business_tag"], event["tombstones"]) == (title, "second", tombstones)
    assert written.rows(engine, "SELECT DISTINCT vector_version, row_version FROM chunks") == [(2, 4)]
    assert written.rows(engine, "SELECT version FROM document_files") == [(2,)]


def test_base_and_relabel_together_bring_the_sinks_up_to_date(pipeline: Pipeline) -> None:
    pipeline.upsert(document("d", "one", "two", file=b"x", business_tag="old"))
    relabel(pipeline.engine, business_tag="new")
    for one in pipeline.appliers():
        for envelope in pipeline.pending():
            assert one.apply([envelope]) == []
    pipeline.execute("DELETE FROM outbox")
    pipeline.assert_in_step()
    assert {row["business_tag"] for row in pipeline.milvus_rows().values()} == {"new"}


def test_write_after_a_relabel_carries_the_vectors_again(engine: Engine) -> None:
    upsert(engine, "one", file=b"x")
    relabel(engine, business_tag="new")
    with engine.begin() as connection:
        Writer(MODEL).resync(connection, "d")
    [event] = written.events(engine, "d", 3)
    assert "builds_on" not in event
    assert ([row["content"] for row in event["chunks"]], len(event["files"])) == (["one"], 1)
    relabel(engine, domain="law")
    assert written.events(engine, "d", 4)[0]["builds_on"] == 3


def test_relabel_builds_on_the_version_of_an_unconfirmed_file(engine: Engine) -> None:
    upsert(engine, "one")
    execute(engine, "UPDATE sink_states SET applied_version = 1, state = 'applied'")
    upsert(engine, "one", file=b"x")
    relabel(engine, title="Third")
    [event] = written.events(engine, "d", 3)
    assert (event["builds_on"], event["files"], event["chunks"]) == (2, [], [])


def test_field_that_is_left_out_stays_and_none_clears_it(engine: Engine) -> None:
    upsert(engine, "one", business_tag="tag", domain="law", language="en", source_url="https://example.org/d")
    assert relabel(engine, domain=None, title="Second").version == 2
    assert written.rows(engine, METADATA) == [(2, "Second", "https://example.org/d", "tag", None, "en", 1)]
    before = written.tables(engine)
    assert not relabel(engine, domain=None, title="Second").changed
    assert not relabel(engine).changed
    assert written.tables(engine) == before
    log = "SELECT operation_type FROM operation_logs ORDER BY log_id"
    assert written.rows(engine, log) == [("INSERT",), ("UPDATE",)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"title": None}, "title must not be empty"),
        ({"title": "x" * 513}, "title must be at most 512 characters"),
        ({"business_tag": "文" * 43}, "business_tag must be at most 128 bytes"),
        ({"domain": 5}, "domain must be a string"),
        ({"language": "e\n"}, "language must not contain control characters"),
        ({"source_url": "x" * 1_025}, "source_url must be at most 1024 characters"),
    ],
)
def test_invariant_13_checked_at_the_door_relabel_refuses_bad_values(
    engine: Engine, values: dict[str, Any], message: str
) -> None:
    upsert(engine, "one")
    before = written.tables(engine)
    with pytest.raises(InvalidDocument, match=message):
        relabel(engine, **values)
    assert written.tables(engine) == before


@pytest.mark.parametrize("doc_id", ["deleted", "unknown", "", "\udcff", None])
def test_relabel_refuses_a_document_that_does_not_live(engine: Engine, doc_id: Any) -> None:
    with engine.begin() as connection:
        Writer(MODEL).upsert(connection, document("deleted", "one"))
        Writer(MODEL).delete(connection, "deleted")
    with pytest.raises(UnknownDocument):
        relabel(engine, doc_id, title="Second")


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE sink_states SET state = 'failed' WHERE sink = 'milvus'",
        "UPDATE sink_states SET applied_version = 0, state = 'absent' WHERE sink = 'milvus'",
    ],
    ids=["failed", "absent"],
)
def test_relabel_asks_for_vectors_when_a_sink_lost_the_document(engine: Engine, damage: str) -> None:
    upsert(engine, "one", "two")
    execute(engine, "UPDATE sink_states SET applied_version = 1, state = 'applied'")
    execute(engine, damage)
    before = written.tables(engine)
    with pytest.raises(VectorRequired) as refused:
        relabel(engine, business_tag="new")
    assert refused.value.chunks == {"d": (0, 1)}
    assert written.tables(engine) == before


def test_relabel_asks_for_a_file_that_the_object_store_lost(engine: Engine) -> None:
    upsert(engine, "one", file=b"x")
    execute(engine, "UPDATE sink_states SET applied_version = 1, state = 'applied'")
    execute(engine, "UPDATE sinks SET takes_vectors = 0 WHERE name = 'minio'")
    execute(engine, "UPDATE sink_states SET state = 'failed' WHERE sink = 'minio'")
    with pytest.raises(FileRequired):
        relabel(engine, business_tag="new")


def test_relabel_builds_on_no_version_of_another_history(engine: Engine) -> None:
    upsert(engine, "one")
    start_history(engine)
    with pytest.raises(VectorRequired):  # consumers skip the event of the first history
        relabel(engine, title="Second")
    upsert(engine, "one", title="Second")
    relabel(engine, title="Third")
    assert written.events(engine, "d", 3)[0]["builds_on"] == 2
