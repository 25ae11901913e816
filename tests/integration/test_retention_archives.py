"""The archive loses what no chunk needs, and never a vector that one needs: crashes, twins and writes at every step."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import pytest
from sqlalchemy import Engine

from operations.retention import runs
from operations.retention.archives import Archives
from schema import archive
from schema.object_store import layout
from schema.object_store.directory import DirectoryStore
from tests.support.pipeline import Pipeline, chunk, document
from tests.support.reconciled import found, pipeline_on_servers, reconciled
from tests.support.refill import make_due
from tests.support.retained import DAYS, ArchivePipeline, age_objects, ran, tidied
from tests.support.servers import MilvusServer, MinioServer

pytestmark = pytest.mark.integration

PREFIX = "processed-data/embeddings/"


@pytest.fixture
def pipeline(sqlite: Engine, store: DirectoryStore) -> Iterator[ArchivePipeline]:
    with ArchivePipeline.opened(sqlite, store) as made:
        yield made


@pytest.fixture
def edited(pipeline: ArchivePipeline) -> ArchivePipeline:
    """Document `a` with three versions, of whose chunks `two` is the only one that stayed."""
    edit(pipeline)
    return pipeline


def edit(pipeline: Pipeline) -> None:
    for contents in (("one", "two"), ("two", "three"), ("two", "four")):
        pipeline.upsert(document("a", *contents))
        pipeline.run()


def archived(pipeline: Pipeline, *, superseded: bool) -> list[str]:
    """The contents of all rows, of the superseded objects or of the others, in order."""
    keys = [key for key in pipeline.store.keys(PREFIX) if layout.is_superseded_key(key) == superseded]
    return sorted(row.content for key in keys for row in archive.decode(pipeline.store.read(key)))


def assert_whole(pipeline: Pipeline) -> None:
    """Every living chunk has its vector in the archive."""
    rows = pipeline.sql("SELECT doc_id, chunk_id, content_hash, vector_version, vector_digest, content FROM chunks")
    for doc_id, chunk_id, *of_chunk, content in rows:
        [row] = archive.read_vectors(pipeline.store, doc_id, {chunk_id: archive.Wanted(*of_chunk)})
        assert row.content == content


def test_rows_of_removed_chunks_are_kept_for_their_time_and_then_go(edited: ArchivePipeline) -> None:
    assert archived(edited, superseded=False) == ["four", "one", "three", "two"]
    assert tidied(edited).removed == 0
    assert archived(edited, superseded=False) == ["four", "two"]
    assert archived(edited, superseded=True) == ["one", "three"]
    assert_whole(edited)
    age_objects(edited, DAYS - 0.01)
    assert tidied(edited).removed == 0
    age_objects(edited, DAYS + 0.01)
    assert Archives(edited.engine, edited.store, DAYS).preview().count == 2
    assert tidied(edited).removed == 2
    assert (archived(edited, superseded=False), archived(edited, superseded=True)) == (["four", "two"], [])
    assert_whole(edited)
    assert found(reconciled(edited, ("minio",))) == set()


def test_restored_database_finds_the_vectors_of_chunks_that_were_removed_since(edited: ArchivePipeline) -> None:
    """The database is again that of version 1, when `one` was a chunk, and the stores are refilled from the archive."""
    tidied(edited)
    edited.execute("DELETE FROM chunks")
    edited.execute("UPDATE documents SET version = 1, chunk_count = 1")
    [one] = [
        row
        for key in edited.store.keys(PREFIX)
        for row in archive.decode(edited.store.read(key))
        if row.content == "one"
    ]
    edited.execute(
        "INSERT INTO chunks (chunk_id, doc_id, chunk_index, vector_level, modal_type, content, content_hash,"
        " char_count, vector_version, row_version)"
        " VALUES (:chunk_id, 'a', 0, 'text', 'text', 'one', :content_hash, 3, 1, 1)",
        chunk_id=one.chunk_id,
        content_hash=one.content_hash,
    )
    absent = "state = 'absent', applied_version = 0, parts_version = 0, desired_version = 1"
    edited.execute(f"UPDATE sink_states SET {absent}")
    make_due(edited)
    edited.refill()
    assert "one" in archived(edited, superseded=False)
    assert_whole(edited)


def test_of_many_copies_of_a_chunk_the_newest_stays(pipeline: ArchivePipeline) -> None:
    pipeline.upsert(document("a", "one", "two"))
    pipeline.run()
    for _ in range(2):
        with pipeline.engine.begin() as connection:
            pipeline.writer.resync(connection, "a", [chunk("one"), chunk("two")])
        pipeline.run()
    assert archived(pipeline, superseded=False) == ["one", "one", "one", "two", "two", "two"]
    tidied(pipeline)
    assert archived(pipeline, superseded=False) == ["one", "two"]
    assert [layout.embeddings_version(key) for key in archive.keys(pipeline.store, "a")] == [1, 2, 3]
    assert_whole(pipeline)


def test_chunk_whose_digest_is_unknown_keeps_the_copy_of_its_own_version(pipeline: ArchivePipeline) -> None:
    """A lost history archived another vector of it under a later version."""
    edit(pipeline)
    pipeline.execute("UPDATE chunks SET vector_digest = NULL")
    [own] = [row for row in rows_of(pipeline) if row.content == "two"]
    other = type(own)(**{name: getattr(own, name) for name in own.__struct_fields__} | {"vector": b"\0" * 32})
    archive.write(pipeline.store, "a", 2, 9, [other])
    tidied(pipeline)
    age_objects(pipeline)
    tidied(pipeline)
    assert [row.vector for row in rows_of(pipeline) if row.content == "two"] == [own.vector]


def rows_of(pipeline: ArchivePipeline) -> list[Any]:
    return [row for key in archive.keys(pipeline.store, "a") for row in archive.decode(pipeline.store.read(key))]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sink_states SET state = 'absent', applied_version = 0",
        "UPDATE sink_states SET state = 'failed', applied_version = 1",
        "INSERT INTO sinks (name, required, takes_vectors, takes_files) VALUES ('extra', 0, 1, 0)",
        "UPDATE documents SET lost_version = 3",
        "UPDATE documents SET status = 'pending'",
        "UPDATE chunks SET vector_digest = 7",
    ],
    ids=["absent sink", "failed sink", "optional sink without it", "suspect", "open status", "archive lacks a vector"],
)
def test_archive_that_somebody_may_need_is_left_alone(edited: ArchivePipeline, statement: str) -> None:
    before = edited.objects()
    edited.execute(statement)
    assert tidied(edited).blocked == 1
    assert edited.objects() == before


class Stepping(DirectoryStore):
    """Calls `step` before each request that reads or changes an object of an archive."""

    step: Callable[[], None]

    def read(self, key: str) -> bytes:
        self.step()
        return super().read(key)

    def put(self, key: str, *args: Any, **options: Any) -> None:
        if key.startswith(PREFIX):
            self.step()
        super().put(key, *args, **options)

    def remove(self, keys: Any) -> None:
        for key in list(keys):
            if key.startswith(PREFIX):
                self.step()
            super().remove([key])


def tidy_with(pipeline: ArchivePipeline, step: Callable[[], None], at: int) -> bool:
    """Tidy, and call `step` once before request number `at`. Returns whether there was such a request."""
    numbers = count()
    reached = False

    def once() -> None:
        nonlocal reached
        if next(numbers) == at:
            reached = True
            step()

    store = Stepping(pipeline.store.root)
    store.step = once
    ran(pipeline.engine, Archives(pipeline.engine, store, DAYS))
    return reached


def die() -> None:
    raise KeyboardInterrupt


def settle(pipeline: ArchivePipeline) -> None:
    """What processes do in time: events, refills, and two more runs of retention, a month apart."""
    pipeline.run()
    pipeline.refill()
    for _ in range(2):
        tidied(pipeline)
        age_objects(pipeline)
    tidied(pipeline)


def write(pipeline: ArchivePipeline) -> None:
    """`one` comes back, `two` goes, `four` stays without its vector; the sinks hold it at once."""
    given = document("a", "one", "four")
    with pipeline.engine.begin() as connection:
        chunks = [given.chunks[0], chunk("four", vector=None)]  # type: ignore[index]
        pipeline.writer.upsert(connection, type(given)(**{**vars_of(given), "chunks": chunks}))
    pipeline.run()


def vars_of(given: Any) -> dict[str, Any]:
    return {name: getattr(given, name) for name in given.__dataclass_fields__}


def twin(pipeline: Pipeline) -> None:
    """Another process tidies the same archive."""
    tidied(pipeline)


def delete(pipeline: Pipeline) -> None:
    pipeline.delete("a")
    pipeline.run()


def replace(pipeline: ArchivePipeline) -> None:
    """The object store is refilled, which reads the archive and writes it again."""
    pipeline.execute("UPDATE sink_states SET state = 'absent', applied_version = 0 WHERE sink = 'minio'")
    pipeline.execute("UPDATE sink_states SET marks = marks + 1")
    make_due(pipeline)
    pipeline.refill()


STEPS: dict[str, tuple[Callable[[ArchivePipeline], None], Sequence[str]]] = {
    "death": (lambda _: die(), ["four", "two"]),
    "twin": (twin, ["four", "two"]),
    "write": (write, ["four", "one"]),
    "delete": (delete, []),
    "refill": (replace, ["four", "two"]),
}


@pytest.mark.parametrize("name", STEPS)
def test_fault_at_any_step_loses_no_vector_and_keeps_no_removed_text(pipeline: ArchivePipeline, name: str) -> None:
    step, expected = STEPS[name]
    for at in range(100):
        pipeline.execute("DELETE FROM tidied_documents")
        edit(pipeline)
        try:
            if not tidy_with(pipeline, lambda: step(pipeline), at):
                assert at > 5
                return
        except KeyboardInterrupt:
            pass
        assert_whole(pipeline)
        settle(pipeline)
        assert_whole(pipeline)
        assert (archived(pipeline, superseded=False), archived(pipeline, superseded=True)) == (list(expected), [])
        assert found(reconciled(pipeline, ("minio",))) == set()
    raise AssertionError("the run never ended")


def test_reader_finds_vectors_in_an_archive_during_its_rewrite(edited: ArchivePipeline) -> None:
    store = Stepping(edited.store.root)
    numbers = count()
    store.step = lambda: twin(edited) if next(numbers) == 0 else None  # after its listing
    rows = edited.sql("SELECT chunk_id, content_hash, vector_version, vector_digest FROM chunks")
    wanted = {chunk_id: archive.Wanted(*of_chunk) for chunk_id, *of_chunk in rows}
    read = list(archive.read_vectors(store, "a", wanted))
    assert sorted(row.content for row in read) == ["four", "two"]


def test_run_goes_on_where_the_last_one_ended_and_reaches_all(
    pipeline: ArchivePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("operations.retention.archives._DOCUMENTS", 2)
    ids = ["a", "a-1", "aa", "b", "c"]
    for contents in (("one", "two"), ("two", "three")):
        pipeline.upsert(*(document(doc_id, *contents) for doc_id in ids))
        pipeline.run()
    policy = Archives(pipeline.engine, pipeline.store, DAYS)
    batches = policy.batches()
    next(batches)
    batches.close()
    assert runs.read_position(pipeline.engine, "archives").startswith(f"{PREFIX}a/")
    tidied(pipeline)
    assert runs.read_position(pipeline.engine, "archives") == ""
    assert archived(pipeline, superseded=True) == ["one"] * len(ids)
    assert {doc_id for (doc_id,) in pipeline.sql("SELECT doc_id FROM tidied_documents")} == set(ids)


def test_unchanged_archive_is_not_read_again(edited: ArchivePipeline) -> None:
    tidied(edited)

    def fail() -> None:
        raise AssertionError("it was read")

    assert not tidy_with(edited, fail, 0)


@pytest.mark.slow
def test_archives_in_minio_with_the_documents_in_mysql(
    mysql: Engine, milvus_server: MilvusServer, minio_server: MinioServer
) -> None:
    with pipeline_on_servers(mysql, milvus_server, minio_server) as pipeline:
        edit(pipeline)
        ran(mysql, Archives(mysql, pipeline.store, DAYS))
        assert archived(pipeline, superseded=True) == ["one", "three"]
        assert ran(mysql, Archives(mysql, pipeline.store, -1)).removed == 2  # as if a day were over
        assert (archived(pipeline, superseded=False), archived(pipeline, superseded=True)) == (["four", "two"], [])
        assert_whole(pipeline)
        delete(pipeline)
        archive.write(pipeline.store, "a", 1, 1, [])
        assert ran(mysql, Archives(mysql, pipeline.store, DAYS)).removed == 1, "a process that died left it"
        assert archive.keys(pipeline.store, "a") == []
