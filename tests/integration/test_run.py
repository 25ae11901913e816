"""`producer.run`: the transaction runs again where that helps, and vectors come from outside it."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from producer import Chunk, Document, Receipt, VectorRequired, WriteConflict, Writer, WrongModel, run
from producer.processing.embed.port import EmbedError
from schema import archive
from schema.events.events import ChunkRow
from schema.retry import Backoff
from tests.support import written
from tests.support.pipeline import DIMENSION, MODEL, Pipeline, document, vector

pytestmark = [pytest.mark.integration, pytest.mark.both_databases]

SOON = Backoff(0.001, 0.01)


class CountingEmbedder:
    """Embeds as `tests.support.pipeline.vector` does; calls `watch` while it works."""

    model, dimension = MODEL, DIMENSION

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.open_transactions: list[int] = []
        self.transactions = 0

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.texts += texts
        self.open_transactions.append(self.transactions)
        return np.array([vector(content) for content in texts], dtype=np.float32)

    def watch(self, engine: Engine) -> None:
        event.listen(engine, "begin", lambda _: self._count(1))
        event.listen(engine, "commit", lambda _: self._count(-1))
        event.listen(engine, "rollback", lambda _: self._count(-1))

    def _count(self, by: int) -> None:
        self.transactions += by


def without_vectors(doc_id: str, *contents: str) -> Document:
    chunks = [Chunk(content=content) for content in contents]
    return Document(doc_id=doc_id, title=f"Title of {doc_id}", source_type="text", chunks=chunks)


def lose_milvus(pipeline: Pipeline, *doc_ids: str) -> None:
    for doc_id in doc_ids:
        where = "WHERE sink = 'milvus' AND doc_id = :doc_id"
        pipeline.execute(f"UPDATE sink_states SET state = 'failed' {where}", doc_id=doc_id)


def versions(engine: Engine) -> list[tuple[object, ...]]:
    return written.rows(engine, "SELECT doc_id, version FROM documents ORDER BY doc_id")


def test_work_commits_and_its_result_is_returned(pipeline: Pipeline, callers_engine: Engine) -> None:
    receipt = run(callers_engine, lambda connection: pipeline.writer.upsert(connection, document("a", "one")))
    assert (receipt.version, versions(pipeline.engine)) == (1, [("a", 1)])

    def write(session: Session) -> Receipt:
        return pipeline.writer.upsert(session, document("a", "two"))

    assert run(sessionmaker(callers_engine), write).version == 2
    with pytest.raises(ZeroDivisionError):
        run(callers_engine, lambda connection: (pipeline.writer.delete(connection, "a"), 1 // 0))
    assert versions(pipeline.engine) == [("a", 2)]


def test_work_runs_again_after_write_conflict(pipeline: Pipeline) -> None:
    attempts = []

    def work(connection: Connection) -> int:
        attempts.append(1)
        if len(attempts) < 3:
            raise WriteConflict("again")
        return pipeline.writer.upsert(connection, document("a", "one")).version

    assert run(pipeline.engine, work, backoff=SOON) == 1
    attempts.clear()
    with pytest.raises(WriteConflict):
        run(pipeline.engine, work, attempts=2, backoff=SOON)
    attempts.clear()
    with pytest.raises(WriteConflict):
        run(pipeline.engine, work, seconds=0, backoff=SOON)
    assert len(attempts) == 1


def test_deadlocked_transactions_both_commit(mysql: Engine) -> None:
    """Each writes one document and then that of the other."""
    writer = Writer(MODEL)
    run(mysql, lambda connection: writer.upsert_many(connection, [document("a", "0"), document("b", "0")]))
    together = threading.Barrier(2)
    outcomes: list[int] = []

    def write(first: str, second: str) -> None:
        attempts = 0

        def work(connection: Connection) -> None:
            nonlocal attempts
            attempts += 1
            writer.upsert(connection, document(first, f"first of {first}"))
            if attempts == 1:
                together.wait(30)
            writer.upsert(connection, document(second, f"second of {first}"))

        run(mysql, work, backoff=SOON)
        outcomes.append(attempts)

    threads = [threading.Thread(target=write, args=pair) for pair in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [1, 2]
    assert versions(mysql) == [("a", 3), ("b", 3)]


def test_connection_lost_before_commit_is_replaced(mysql: Engine) -> None:
    attempts = 0

    def work(connection: Connection) -> int:
        nonlocal attempts
        attempts += 1
        receipt = Writer(MODEL).upsert(connection, document("a", "one"))
        if attempts == 1:
            kill(mysql, connection)
        return receipt.version

    assert (run(mysql, work, backoff=SOON), attempts) == (1, 2)
    assert versions(mysql) == [("a", 1)]


def kill(engine: Engine, connection: Connection) -> None:
    victim = connection.scalar(text("SELECT CONNECTION_ID()"))
    with engine.connect() as other:
        other.execute(text(f"KILL {victim}"))


def test_commit_in_doubt_writes_no_second_version(mysql: Engine) -> None:
    """The commit took place, and its answer was lost."""
    own = create_engine(mysql.url)
    lost: list[bool] = []

    def lose_answer(connection: Connection) -> None:
        if not lost:
            lost.append(True)
            raw = connection.connection.dbapi_connection
            assert raw is not None
            raw.commit()
            kill(mysql, connection)

    event.listen(own, "commit", lose_answer)
    receipt = run(own, lambda connection: Writer(MODEL).upsert(connection, document("a", "one")), backoff=SOON)
    assert (receipt.version, receipt.changed, versions(mysql)) == (1, False, [("a", 1)])
    assert written.rows(mysql, "SELECT COUNT(*) FROM outbox") == [(1,)]
    own.dispose()


def test_busy_sqlite_file_is_tried_again(sqlite: Engine) -> None:
    impatient = create_engine(sqlite.url, connect_args={"timeout": 0})
    held = sqlite.connect()
    held.begin()
    failures = []

    def note(context: object) -> None:
        failures.append(context)
        held.close()

    event.listen(impatient, "handle_error", note)
    run(impatient, lambda connection: Writer(MODEL).upsert(connection, document("a", "one")), backoff=SOON)
    assert (len(failures), versions(sqlite)) == (1, [("a", 1)])
    impatient.dispose()


def test_other_errors_are_not_tried_again(mysql: Engine) -> None:
    attempts = []

    def work(connection: Connection) -> None:
        attempts.append(1)
        connection.execute(text("SELECT 1 FROM nowhere"))

    with pytest.raises(Exception, match="nowhere") as raised:
        run(mysql, work)
    assert not isinstance(raised.value, OperationalError)
    assert len(attempts) == 1


def test_archived_vectors_are_fetched_outside_the_transaction(pipeline: Pipeline, callers_engine: Engine) -> None:
    pipeline.upsert(document("a", "one", "two"), document("b", "three"))
    pipeline.run()
    lose_milvus(pipeline, "a", "b")
    states = [without_vectors("a", "one", "two"), without_vectors("b", "three")]

    with pytest.raises(VectorRequired) as refused:
        run(callers_engine, lambda connection: pipeline.writer.upsert_many(connection, states))
    assert refused.value.chunks == refused.value.archived == {"a": (0, 1), "b": (0,)}
    run(callers_engine, lambda connection: pipeline.writer.upsert_many(connection, states), store=pipeline.store)
    [event] = written.events(pipeline.engine, "a", 2)
    assert [np.frombuffer(row["vector"], "<f4").tolist() for row in event["chunks"]] == [
        np.array(vector(content), "<f4").tolist() for content in ("one", "two")
    ]
    sessions = sessionmaker(callers_engine)
    pipeline.run()
    lose_milvus(pipeline, "a")
    run(sessions, lambda session: pipeline.writer.resync(session, "a"), store=pipeline.store)
    pipeline.run()
    lose_milvus(pipeline, "a")
    run(sessions, lambda session: pipeline.writer.relabel(session, "a", title="New"), store=pipeline.store)
    assert versions(pipeline.engine) == [("a", 4), ("b", 2)]
    pipeline.run()
    pipeline.assert_in_step()


def test_newer_vector_of_another_service_outlives_an_archived_one(
    pipeline: Pipeline, callers_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another service embeds the chunk again while `run` reads the vector that was the stored one."""
    newer = [0.5] * DIMENSION
    pipeline.upsert(document("a", "one", "two"))
    pipeline.run()
    lose_milvus(pipeline, "a")
    read = archive.read_vectors
    reads: list[list[ChunkRow]] = []

    def embed_again(*arguments: Any) -> list[ChunkRow]:
        found = list(read(*arguments))
        if not reads:
            pipeline.upsert(document_of(newer))
        reads.append(found)
        return found

    monkeypatch.setattr(archive, "read_vectors", embed_again)

    def write(connection: Connection) -> Receipt:
        return pipeline.writer.upsert(connection, replace(without_vectors("a", "one", "two"), title="New"))

    with pytest.raises(VectorRequired) as refused:  # the archive does not have the newer vector yet
        run(callers_engine, write, store=pipeline.store)
    assert (refused.value.chunks, refused.value.archived, versions(pipeline.engine)) == ({"a": (0, 1)}, {}, [("a", 2)])
    pipeline.run()
    lose_milvus(pipeline, "a")
    assert run(callers_engine, write, store=pipeline.store).version == 3
    [sent] = written.events(pipeline.engine, "a", 3)
    assert np.frombuffer(sent["chunks"][0]["vector"], "<f4").tolist() == newer
    pipeline.run()
    assert {row["content"]: row["vector"] for row in pipeline.milvus_rows().values()}["one"] == newer


@pytest.mark.parametrize("name", ["relabel", "resync"])
def test_archived_vector_older_than_the_stored_one_is_read_again(
    pipeline: Pipeline, callers_engine: Engine, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    newer = [0.5] * DIMENSION
    pipeline.upsert(document("a", "one", "two"))
    pipeline.run()
    lose_milvus(pipeline, "a")
    read = archive.read_vectors
    reads: list[list[ChunkRow]] = []

    def embed_again(*arguments: Any) -> list[ChunkRow]:
        found = list(read(*arguments))
        if not reads:
            pipeline.upsert(document_of(newer))
            pipeline.run()
            lose_milvus(pipeline, "a")
        reads.append(found)
        return found

    monkeypatch.setattr(archive, "read_vectors", embed_again)
    options = {"title": "New"} if name == "relabel" else {}
    receipt = run(
        callers_engine,
        lambda connection: getattr(pipeline.writer, name)(connection, "a", **options),
        store=pipeline.store,
    )
    assert (receipt.version, len(reads)) == (3, 2)
    [sent] = written.events(pipeline.engine, "a", 3)
    assert np.frombuffer(sent["chunks"][0]["vector"], "<f4").tolist() == newer


def document_of(newer: Sequence[float]) -> Document:
    chunks = [Chunk(content="one", vector=newer), Chunk(content="two", vector=vector("two"))]
    return Document(doc_id="a", title="Title of a", source_type="text", chunks=chunks)


def test_vectors_that_nobody_has_are_named(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one"))
    pipeline.run()
    lose_milvus(pipeline, "a")
    with pytest.raises(VectorRequired) as refused:
        run(
            pipeline.engine,
            lambda connection: pipeline.writer.upsert(connection, without_vectors("a", "one", "new")),
            store=pipeline.store,
        )
    assert (refused.value.chunks, refused.value.archived) == ({"a": (1,)}, {})
    assert versions(pipeline.engine) == [("a", 1)]


def test_embedder_makes_needed_vectors_without_open_transaction(pipeline: Pipeline, callers_engine: Engine) -> None:
    embedder = CountingEmbedder()
    embedder.watch(callers_engine)

    def write(connection: Connection) -> Sequence[Receipt]:
        given = [without_vectors("a", "one", "two"), document("b", "three")]
        return pipeline.writer.upsert_many(connection, given, embedder=embedder)

    assert [receipt.version for receipt in run(callers_engine, write)] == [1, 1]
    assert (embedder.texts, embedder.open_transactions) == (["one", "two"], [0])
    pipeline.run()
    run(
        callers_engine,
        lambda connection: pipeline.writer.upsert(connection, without_vectors("a", "two", "new"), embedder=embedder),
    )
    assert embedder.texts == ["one", "two", "new"]
    pipeline.run()
    pipeline.assert_in_step()


def test_wrong_embedder_is_named_and_nothing_is_written(pipeline: Pipeline) -> None:
    class Short(CountingEmbedder):
        def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
            return super().embed(texts)[1:]

    given: list[tuple[Any, type[Exception], str]] = [
        (object(), TypeError, "embedder must have `model`, `dimension` and `embed`, is object"),
        (Short(), EmbedError, "the embedder returned 1 vectors for 2 texts"),
    ]
    for embedder, kind, message in given:
        with pytest.raises(kind, match=message), pipeline.engine.begin() as connection:
            pipeline.writer.upsert(connection, without_vectors("a", "one", "two"), embedder=embedder)
    assert versions(pipeline.engine) == []


def test_embedder_works_on_bare_connection_too(pipeline: Pipeline) -> None:
    embedder = CountingEmbedder()
    with pipeline.engine.begin() as connection:
        pipeline.writer.upsert(connection, without_vectors("a", "one"), embedder=embedder)
    pipeline.run()
    pipeline.assert_in_step()
    assert embedder.texts == ["one"]


def test_embedder_of_another_model_is_refused(pipeline: Pipeline) -> None:
    embedder = CountingEmbedder()
    embedder.dimension = 9
    with pipeline.engine.begin() as connection, pytest.raises(WrongModel, match=r"8 dimensions, the embedder's .* 9"):
        pipeline.writer.upsert(connection, without_vectors("a", "one"), embedder=embedder)
    embedder.dimension, embedder.model = DIMENSION, "other"
    with pipeline.engine.begin() as connection, pytest.raises(WrongModel, match="'other'"):
        pipeline.writer.upsert(connection, without_vectors("a", "one"), embedder=embedder)


def test_run_takes_only_engines_that_block(sqlite: Engine) -> None:
    with sqlite.connect() as connection, pytest.raises(TypeError, match="Engine or sessionmaker, not a Connection"):
        run(connection, lambda _: None)  # type: ignore[call-overload]
