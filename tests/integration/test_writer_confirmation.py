"""Confirmation per sink: an event carries what a sink that takes it is not known to hold, and nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from producer import Chunk, Document, FileRequired, VectorRequired, Writer
from tests.support import written
from tests.support.pipeline import MODEL, Pipeline, chunk, document

pytestmark = pytest.mark.integration

VECTOR_VERSIONS = {"one": 1, "two": 2}
ROW_VERSIONS = {"one": 3, "two": 2}
FILE_VERSION, VERSION = 2, 3


def upsert(engine: Engine, given: Document) -> None:
    with engine.begin() as connection:
        Writer(MODEL).upsert(connection, given)


def set_state(connection: Connection, sink: str, state: str, applied_version: int) -> None:
    statement = text("UPDATE sink_states SET state = :state, applied_version = :version WHERE sink = :sink")
    connection.execute(statement, {"sink": sink, "state": state, "version": applied_version})


def confirm(engine: Engine, version: int) -> None:
    with engine.begin() as connection:
        for sink in ("milvus", "minio"):
            set_state(connection, sink, "applied", version)


@pytest.fixture
def edited(engine: Engine) -> Engine:
    """A document at version 3: `one` came in 1, `two` and the file in 2, the labels of `one` in 3."""
    upsert(engine, document("d", "one", file=b"first"))
    confirm(engine, 1)
    upsert(engine, document("d", "one", "two", file=b"second"))
    confirm(engine, 2)
    upsert(engine, edit(title="Title of d"))
    found = written.rows(engine, "SELECT content, vector_version, row_version FROM chunks ORDER BY 1")
    assert found == [(name, VECTOR_VERSIONS[name], ROW_VERSIONS[name]) for name in ("one", "two")]
    return engine


def edit(**fields: Any) -> Document:
    """The third version without vectors and file."""
    chunks = [Chunk(content="one", vector_level="row"), Chunk(content="two")]
    return Document(**{"doc_id": "d", "title": "Edited", "source_type": "text", "chunks": chunks, **fields})


@contextmanager
def undone(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        connection.begin()
        yield connection
        connection.rollback()


SINK_STATES = st.one_of(
    st.just(("applied", VERSION)),
    st.just(("absent", 0)),
    st.tuples(st.just("pending"), st.integers(0, VERSION - 1)),
    st.tuples(st.just("failed"), st.integers(0, VERSION)),
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(milvus=SINK_STATES, minio=SINK_STATES)
def test_edit_needs_the_vectors_that_a_sink_may_lack(
    edited: Engine, milvus: tuple[str, int], minio: tuple[str, int]
) -> None:
    in_milvus, in_minio = (
        0 if state in ("failed", "absent") else applied_version for state, applied_version in (milvus, minio)
    )
    vectors = [at for at, name in enumerate(("one", "two")) if VECTOR_VERSIONS[name] > min(in_milvus, in_minio)]
    with undone(edited) as connection:
        set_state(connection, "milvus", *milvus)
        set_state(connection, "minio", *minio)
        if vectors:
            with pytest.raises(VectorRequired) as vector_required:
                Writer(MODEL).upsert(connection, edit())
            assert vector_required.value.chunks == {"d": tuple(vectors)}
        elif in_minio < FILE_VERSION:
            with pytest.raises(FileRequired):
                Writer(MODEL).upsert(connection, edit())
        else:
            assert Writer(MODEL).upsert(connection, edit()).version == 4
            relabelled = {name for name, version in ROW_VERSIONS.items() if version > in_milvus}
            counted = connection.execute(text("SELECT content FROM chunks WHERE row_version = 4")).scalars()
            assert set(counted) == relabelled
            assert connection.execute(text("SELECT COUNT(*) FROM chunks WHERE vector_version = 4")).scalar() == 0


def test_edit_after_a_create_needs_no_file_while_only_milvus_lags(pipeline: Pipeline) -> None:
    pipeline.upsert(document("e", "one", file=b"x"))
    _, minio = pipeline.appliers()
    assert minio.apply(pipeline.pending()) == []

    pipeline.upsert(document("e", "one", title="Edited"))

    [event] = written.events(pipeline.engine, "e", 2)
    assert (event["files"], len(event["chunks"])) == ([], 1)
    pipeline.run()
    pipeline.assert_in_step()
    assert [content for key, content in pipeline.objects().items() if key.startswith("raw-files/")] == [b"x"]


def test_sinks_that_are_optional_or_joining_ask_for_nothing(edited: Engine) -> None:
    confirm(edited, VERSION)
    with edited.begin() as connection:
        for name, required, state in (("o", 0, "active"), ("j", 1, "joining"), ("l", 1, "leaving")):
            connection.execute(
                text("INSERT INTO sinks (name, required, takes_vectors, takes_files, state) VALUES (:n, :r, 1, 1, :s)"),
                {"n": name, "r": required, "s": state},
            )
            connection.execute(
                text("INSERT INTO sink_states (doc_id, sink, desired_version, state) VALUES ('d', :n, 3, 'absent')"),
                {"n": name},
            )
    upsert(edited, edit(title="Title of d"))
    assert written.rows(edited, "SELECT version FROM documents") == [(3,)], "unchanged: nothing is written"
    upsert(edited, edit())
    [event] = written.events(edited, "d", 4)
    assert (event["chunks"], event["relabelled"], event["files"]) == ([], [], [])

    upsert(edited, document("new", "one"))
    created = written.rows(edited, "SELECT sink, state FROM sink_states WHERE doc_id = 'new' ORDER BY 1")
    assert created == [("j", "pending"), ("milvus", "pending"), ("minio", "pending"), ("o", "pending")]


def test_what_no_sink_takes_is_not_asked_for(edited: Engine) -> None:
    with edited.begin() as connection:
        set_state(connection, "minio", "pending", 0)
        set_state(connection, "milvus", "applied", VERSION)
        connection.execute(text("DELETE FROM sinks WHERE name = 'minio'"))
    upsert(edited, edit())
    assert written.rows(edited, "SELECT version FROM documents") == [(4,)]


@pytest.mark.parametrize("state", ["failed", "absent"])
def test_unchanged_document_is_sent_whole_to_a_sink_that_lost_it(edited: Engine, state: str) -> None:
    confirm(edited, VERSION)
    with edited.begin() as connection:
        set_state(connection, "milvus", state, 0)
    chunks = [chunk("one", vector_level="row"), chunk("two")]
    upsert(edited, edit(title="Title of d", chunks=chunks))
    [event] = written.events(edited, "d", 4)
    assert [row["content"] for row in event["chunks"]] == ["one", "two"]
    assert event["files"] == [], "the object store has it"
