"""A sink joins, and roles are swapped, while transactions of writers and consumers are under way on MySQL."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text

from consumers import marks
from consumers.applier import Applier
from consumers.milvus.marks import MilvusMarks
from consumers.milvus.sink import MilvusSink
from consumers.refill import Refill
from operations.rebuild.errors import NotPossible
from operations.rebuild.roles import activate, register
from operations.rebuild.states import add_states, is_behind, read_progress
from operations.rebuild.swap import count_behind, swap_roles
from producer import Writer
from schema.database.connection import reading
from schema.failures import Retryable
from schema.sinks import RegisteredSink, kind_of, next_instance, number_of
from tests.support.pipeline import DIMENSION, MODEL, SYSTEM_ID, Pipeline, document
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration

SECOND = "milvus-2"
JOINING = RegisteredSink(SECOND, required=False, takes_vectors=True, takes_files=False, state="joining")
STATES = (
    "SELECT sink, state, applied_version FROM sink_states WHERE doc_id = :doc_id AND sink LIKE 'milvus%' ORDER BY 1"
)
WAITS = "SELECT COUNT(*) FROM performance_schema.data_lock_waits"


@pytest.fixture
def engine(mysql: Engine) -> Engine:
    return mysql


@pytest.fixture
def second(pipeline: Pipeline) -> MilvusSink:
    """The second instance, which has joined and is empty."""
    sink = MilvusSink(pipeline.milvus, DIMENSION, SYSTEM_ID, name=SECOND, is_serving=False)
    sink.create()
    return sink


def join(pipeline: Pipeline) -> None:
    register(pipeline.engine, JOINING)
    add_states(pipeline.engine, SECOND)


def applier(pipeline: Pipeline, sink: MilvusSink) -> Applier:
    return Applier(pipeline.engine, sink, MilvusMarks(sink.name))


def refill(pipeline: Pipeline, sink: MilvusSink) -> int:
    return Refill(pipeline.engine, sink, MilvusMarks(sink.name), pipeline.store).run_round()


def states(pipeline: Pipeline, doc_id: str) -> dict[str, tuple[str, int]]:
    return {sink: (state, version) for sink, state, version in pipeline.sql(STATES, doc_id=doc_id)}


def synced(pipeline: Pipeline, doc_id: str) -> set[bool]:
    rows = pipeline.sql("SELECT milvus_synced FROM chunks WHERE doc_id = :doc_id", doc_id=doc_id)
    return {bool(one) for (one,) in rows}


def status(pipeline: Pipeline, doc_id: str) -> str:
    [(found,)] = pipeline.sql("SELECT status FROM documents WHERE doc_id = :doc_id", doc_id=doc_id)
    return str(found)


def contents(pipeline: Pipeline, name: str) -> set[str]:
    rows = pipeline.milvus.query(name, 'chunk_id != ""', ["content"], limit=1_000, consistency_level="Strong")
    return {row["content"] for row in rows}


def test_instances_are_named_by_their_number() -> None:
    assert [kind_of(name) for name in ("milvus", "milvus-2", "milvus-17", "milvus-1", "milvus-02", "other-2")] == [
        "milvus",
        "milvus",
        "milvus",
        "milvus-1",
        "milvus-02",
        "other-2",
    ]
    assert (number_of("milvus"), number_of("milvus-12")) == (1, 12)
    assert next_instance(["milvus", "minio"]) == "milvus-2"
    assert next_instance(["milvus-9", "other-11"]) == "milvus-10"


def test_join_waits_for_a_writer_under_way(pipeline: Pipeline, second: MilvusSink) -> None:
    """The writer has read the sinks without the new one; its document must not be forgotten."""
    with ThreadPoolExecutor(1) as pool:
        with pipeline.engine.begin() as connection:
            Writer(MODEL).upsert(connection, document("early", "one"))
            joining = pool.submit(register, pipeline.engine, JOINING)
            wait_for(lambda: pipeline.sql(WAITS)[0][0] > 0 or joining.done(), "the join to wait for the writer")
            assert not joining.done()
        joining.result(30)
    pipeline.upsert(document("late", "two"))
    assert states(pipeline, "early") == {"milvus": ("pending", 0)}
    assert states(pipeline, "late") == {"milvus": ("pending", 0), SECOND: ("pending", 0)}
    assert add_states(pipeline.engine, SECOND) == 1
    assert states(pipeline, "early")[SECOND] == ("absent", 0)
    assert add_states(pipeline.engine, SECOND) == 0, "it may be repeated"
    assert add_states(pipeline.engine, "milvus-3") == 0, "it is not registered"


def test_second_instance_marks_nothing_but_its_state(pipeline: Pipeline, second: MilvusSink) -> None:
    pipeline.upsert(document("a", "one", "two"))
    pipeline.run()
    join(pipeline)
    pipeline.upsert(document("a", "one", "three"), document("b", "four"))
    events = pipeline.pending()
    applier(pipeline, second).apply(events)
    assert states(pipeline, "a")[SECOND] == ("absent", 0)
    assert states(pipeline, "b") == {"milvus": ("pending", 0), SECOND: ("applied", 1)}
    assert synced(pipeline, "b") == {False}, "the one that serves has not applied it"
    assert pipeline.sql("SELECT COUNT(*) FROM chunk_tombstones") == [(1,)]
    pipeline.run()
    assert synced(pipeline, "a") == synced(pipeline, "b") == {True}
    assert pipeline.sql("SELECT COUNT(*) FROM chunk_tombstones") == [(0,)]
    assert is_behind(pipeline.engine, SECOND, "milvus", 0)
    assert refill(pipeline, second) == 1
    assert not is_behind(pipeline.engine, SECOND, "milvus", 0)
    assert contents(pipeline, "rag_vectors_2") == {"one", "three", "four"}
    assert read_progress(pipeline.engine, SECOND).applied == 2


def test_absent_document_of_an_instance_that_does_not_serve_keeps_its_status(
    pipeline: Pipeline, second: MilvusSink
) -> None:
    pipeline.upsert(document("a", "one"))
    pipeline.run()
    join(pipeline)
    with pipeline.engine.begin() as connection:
        marks.lock_documents(connection, ["a"])
        marks.mark_absent(connection, SECOND, {"a": "lost"})
    assert (status(pipeline, "a"), synced(pipeline, "a")) == ("completed", {True})


def test_swap_makes_every_mark_true_for_the_new_instance(pipeline: Pipeline, second: MilvusSink) -> None:
    pipeline.upsert(*(document(name, f"text of {name}", "old") for name in ("both", "only-old", "only-new", "lacking")))
    pipeline.run()
    join(pipeline)
    while refill(pipeline, second):
        pass
    pipeline.upsert(document("only-new", "text of only-new"), document("lacking", "text of lacking"))
    applier(pipeline, second).apply(pipeline.pending("only-new"))
    with pipeline.engine.begin() as connection:
        marks.lock_documents(connection, ["only-old"])
        marks.mark_absent(connection, SECOND, {"only-old": "damaged"})
    with reading(pipeline.engine) as connection:
        assert count_behind(connection, "milvus", SECOND) == 1
    pipeline.execute("DELETE FROM outbox WHERE aggregate_id <> 'lacking'")
    pipeline.execute(
        "UPDATE sink_states SET applied_version = 2, state = 'applied' WHERE doc_id = 'only-new' AND sink = 'minio'"
    )

    with pytest.raises(NotPossible, match="milvus-3 was removed"):
        swap_roles(pipeline.engine, "milvus", "milvus-3")
    assert swap_roles(pipeline.engine, "milvus", SECOND, most=2) is None, "three documents differ"
    assert dict(pipeline.sql("SELECT name, required FROM sinks")) == {"milvus": 1, "milvus-2": 0, "minio": 1}
    assert swap_roles(pipeline.engine, "milvus", SECOND) == 2
    assert swap_roles(pipeline.engine, "milvus", SECOND) == 0, "it may be repeated"
    assert dict(pipeline.sql("SELECT name, required FROM sinks")) == {"milvus": 0, "milvus-2": 1, "minio": 1}
    expected = {
        "both": ("completed", {True}, ("applied", 1)),
        "only-old": ("pending", {False}, ("absent", 0)),
        "only-new": ("completed", {True}, ("applied", 2)),
        "lacking": ("pending", {False}, ("absent", 0)),
    }
    for doc_id, (of_document, marked, state) in expected.items():
        found = (status(pipeline, doc_id), synced(pipeline, doc_id), states(pipeline, doc_id)[SECOND])
        assert found == (of_document, marked, state), doc_id
    tombstones = pipeline.sql("SELECT doc_id FROM chunk_tombstones")
    assert tombstones == [("lacking",)], "the new instance holds only-new at its version"

    pipeline.milvus_sink = second
    events = pipeline.pending()
    applier(pipeline, second).apply(events)
    assert states(pipeline, "lacking")[SECOND] == ("absent", 0), "an event does not end it"
    Applier(pipeline.engine, pipeline.minio_sink, _minio_marks()).apply(events)
    while refill(pipeline, second):
        pass
    for doc_id in expected:
        assert (status(pipeline, doc_id), synced(pipeline, doc_id)) == ("completed", {True}), doc_id
    assert pipeline.sql("SELECT COUNT(*) FROM chunk_tombstones") == [(0,)]


def _minio_marks() -> marks.SinkMarks:
    from consumers.minio.marks import MinioMarks

    return MinioMarks()


class SwapsBeforeMarking:
    """The real sink; the roles are swapped after it applied a change and before that is marked."""

    def __init__(self, sink: MilvusSink, pipeline: Pipeline, old: str, new: str) -> None:
        self.name, self.takes_vectors, self.takes_files = sink.name, sink.takes_vectors, sink.takes_files
        self.create, self.ensure, self.close = sink.create, sink.ensure, sink.close
        self._sink, self._pipeline, self._roles = sink, pipeline, (old, new)

    def apply(self, changes: object) -> None:
        self._sink.apply(changes)  # type: ignore[arg-type]
        swap_roles(self._pipeline.engine, *self._roles)


@pytest.mark.parametrize("which", ["old", "new"])
def test_consumer_that_applied_before_the_swap_marks_with_the_new_role(
    pipeline: Pipeline, second: MilvusSink, which: str
) -> None:
    pipeline.upsert(document("a", "one", "two"))
    pipeline.run()
    join(pipeline)
    assert refill(pipeline, second) == 1
    pipeline.upsert(document("a", "one", "three"))
    events = pipeline.pending()
    sink = pipeline.milvus_sink if which == "old" else second
    swapping = SwapsBeforeMarking(sink, pipeline, "milvus", SECOND)
    if which == "old":
        Applier(pipeline.engine, swapping, MilvusMarks(sink.name)).apply(events)
    else:
        with pytest.raises(Retryable, match="concurrently"):
            Applier(pipeline.engine, swapping, MilvusMarks(sink.name)).apply(events)
        applier(pipeline, second).apply(events)  # again, as a consumer does
    # Nothing of the new instance is marked before a refill has replaced the document there.
    assert states(pipeline, "a")[SECOND] == ("absent", 0)
    assert synced(pipeline, "a") == {False}
    assert pipeline.sql("SELECT COUNT(*) FROM chunk_tombstones") == [(1,)]
    assert states(pipeline, "a")["milvus"] == (("applied", 2) if which == "old" else ("pending", 1))
    assert status(pipeline, "a") == "pending"


def test_swap_waits_for_a_mark_under_way(pipeline: Pipeline, second: MilvusSink) -> None:
    pipeline.upsert(document("a", "one"))
    pipeline.run()
    join(pipeline)
    refill(pipeline, second)
    with ThreadPoolExecutor(1) as pool:
        with pipeline.engine.begin() as connection:
            marks.lock_documents(connection, ["a"])
            swapping = pool.submit(swap_roles, pipeline.engine, "milvus", SECOND)
            wait_for(lambda: pipeline.sql(WAITS)[0][0] > 0 or swapping.done(), "the swap to wait for the mark")
            assert not swapping.done()
            marks.mark_absent(connection, "milvus", {"a": "damaged"})
        assert swapping.result(30) == 0
    assert synced(pipeline, "a") == {True}, "the new instance holds it"
    assert status(pipeline, "a") == "completed"


def test_marks_and_swaps_do_not_deadlock(pipeline: Pipeline, second: MilvusSink) -> None:
    names = [f"d{number}" for number in range(20)]
    pipeline.upsert(*(document(name, name) for name in names))
    pipeline.run()
    join(pipeline)
    refill(pipeline, second)
    stop = threading.Event()

    def mark(sink: str) -> int:
        done = 0
        while not stop.is_set():
            with pipeline.engine.begin() as connection:
                marks.lock_documents(connection, names)
                marks.mark_absent(connection, sink, dict.fromkeys(names, "again"))
            done += 1
        return done

    with ThreadPoolExecutor(2) as pool:
        marking = [pool.submit(mark, sink) for sink in ("milvus", SECOND)]
        for _ in range(10):
            swap_roles(pipeline.engine, "milvus", SECOND)
            swap_roles(pipeline.engine, SECOND, "milvus")
        stop.set()
        assert all(one.result(60) > 0 for one in marking), "a deadlock would have raised"


def test_required_again_reopens_documents_and_optional_completes_them(pipeline: Pipeline, second: MilvusSink) -> None:
    """Of a sink of any kind: here an instance stands for it."""
    pipeline.upsert(document("a", "one"), document("b", "two"))
    pipeline.run()
    join(pipeline)
    assert activate(pipeline.engine, SECOND, required=True, most=1) == 2, "more than one is behind"
    assert dict(pipeline.sql("SELECT name, state FROM sinks"))[SECOND] == "joining"
    assert activate(pipeline.engine, SECOND, required=True) == 2
    assert [status(pipeline, doc_id) for doc_id in "ab"] == ["pending"] * 2
    activate(pipeline.engine, SECOND, required=False)
    assert [status(pipeline, doc_id) for doc_id in "ab"] == ["completed"] * 2


def test_statement_of_the_roles_takes_no_lock_of_sqlite(sqlite: Engine) -> None:
    with sqlite.begin() as connection:
        marks.lock_documents(connection, [])
        assert connection.execute(text("SELECT COUNT(*) FROM sinks")).scalar_one() == 2
