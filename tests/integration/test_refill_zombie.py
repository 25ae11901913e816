"""A consumer that was paused inside a refill past its session: another one owns the lane and has gone on."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import pytest

from consumers import whole_document
from consumers.isolation import WHOLE_ATTEMPTS
from consumers.refill import Refill, mark_all_absent
from consumers.sink import Change, Sink
from consumers.whole_document import Whole
from schema.failures import Retryable
from schema.sinks import MILVUS, MINIO
from tests.support.pipeline import Pipeline, document
from tests.support.refill import During, errors, refill_of, sink_of, states

pytestmark = [pytest.mark.integration, pytest.mark.parametrize("name", [MILVUS, MINIO])]


class PausedBefore(During):
    """The real sink; `step` runs before it applies a change, and `after` before that is marked."""

    def __init__(self, sink: Sink, step: Callable[[], None], after: Callable[[], None] = lambda: None) -> None:
        super().__init__(sink, after)
        self._before = step

    def apply(self, changes: Sequence[Change]) -> None:
        self._before()
        super().apply(changes)


def prepare(pipeline: Pipeline, name: str) -> None:
    """A document of version 1 is absent in the sink."""
    pipeline.upsert(document("a", "one", "two", file=b"first"))
    pipeline.run()
    mark_all_absent(pipeline.engine, name, "lost")


def go_on(pipeline: Pipeline, name: str) -> None:
    """The owner of the lane refills version 1 and applies version 2."""
    assert refill_of(pipeline, sink_of(pipeline, name)).run_round() == 1
    pipeline.upsert(document("a", "two", "three", file=b"first"))
    pipeline.run()
    pipeline.assert_in_step()


def run_paused_after_building(pipeline: Pipeline, refill: Refill, step: Callable[[], None]) -> int:
    build = whole_document.build

    def pause(*given: object) -> Whole:
        built = build(*given)  # type: ignore[arg-type]
        with patch.object(whole_document, "build", build):
            step()
        return built

    with patch.object(whole_document, "build", pause):
        return refill.run_round()


def test_zombie_paused_before_applying_leaves_newer_rows(pipeline: Pipeline, name: str) -> None:
    prepare(pipeline, name)
    sink = During(sink_of(pipeline, name), lambda: None)
    refill = refill_of(pipeline, sink)
    assert run_paused_after_building(pipeline, refill, lambda: go_on(pipeline, name)) == 0
    assert sink.applied == []
    pipeline.assert_in_step()


def test_zombie_that_removed_newer_rows_is_noticed_and_healed(pipeline: Pipeline, name: str) -> None:
    prepare(pipeline, name)
    sink = PausedBefore(sink_of(pipeline, name), lambda: go_on(pipeline, name))
    assert refill_of(pipeline, sink).run_round() == 0
    assert len(sink.applied) == 1
    assert states(pipeline, name) == {"a": ("absent", 0)}
    assert errors(pipeline, name) == ["another consumer applied the document during a refill"]
    assert refill_of(pipeline, sink_of(pipeline, name)).run_round() == 1
    pipeline.assert_in_step()


def test_zombie_whose_round_failed_after_its_write_is_noticed(pipeline: Pipeline, name: str) -> None:
    prepare(pipeline, name)
    failures = [Retryable("the sink does not answer any more")]

    def go_on_once() -> None:
        if failures:
            go_on(pipeline, name)

    def fail_once() -> None:
        if failures:
            raise failures.pop()

    refill = refill_of(pipeline, PausedBefore(sink_of(pipeline, name), go_on_once, fail_once))
    with pytest.raises(Retryable):
        refill.run_round()
    assert states(pipeline, name) == {"a": ("applied", 2)}, "the owner of the lane marked it before"
    assert refill.run_round() == 1
    pipeline.assert_in_step()


def test_zombie_that_writes_during_a_newer_refill_is_noticed(pipeline: Pipeline, name: str) -> None:
    prepare(pipeline, name)
    is_reading, may_write = threading.Event(), threading.Event()

    def wait() -> None:
        is_reading.set()
        assert may_write.wait(30)

    zombie = refill_of(pipeline, PausedBefore(sink_of(pipeline, name), wait))
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(zombie.run_round)
        assert is_reading.wait(30)
        pipeline.upsert(document("a", "two", file=b"first"))  # the archive has its vector

        def let_the_zombie_write() -> None:
            may_write.set()
            assert late.result(30) == 0

        owner = During(sink_of(pipeline, name), let_the_zombie_write)
        assert refill_of(pipeline, owner).run_round() == 0, "the sink has version 1"
        assert len(owner.applied) == 1
    assert states(pipeline, name) == {"a": ("absent", 0)}
    pipeline.run()
    assert refill_of(pipeline, sink_of(pipeline, name)).run_round() == 1
    pipeline.assert_in_step()


def test_late_write_of_a_failing_document_is_noticed(pipeline: Pipeline, name: str) -> None:
    """The call did not answer in time, others of the round did; what it wrote lands after the new owner's version."""
    pipeline.upsert(*(document(doc_id, "one", "two", file=b"first") for doc_id in ("a", "b", "c")))
    pipeline.run()
    mark_all_absent(pipeline.engine, name, "lost")
    real, is_late = sink_of(pipeline, name), False

    class Late(During):
        def apply(self, changes: Sequence[Change]) -> None:
            nonlocal is_late
            if is_late or not any(change.doc_id == "b" for change in changes):
                super().apply(changes)
            elif len(changes) > 1 or not refill._isolation._failed_attempts:
                raise Retryable("no answer in time")
            else:
                is_late = True
                assert refill_of(pipeline, real).run_round() >= 1
                pipeline.upsert(document("b", "two", "three", file=b"first"))
                pipeline.run()
                pipeline.assert_in_step()
                super().apply(changes)
                raise Retryable("no answer in time")

    refill = refill_of(pipeline, Late(real, lambda: None))
    for _ in range(WHOLE_ATTEMPTS):
        with pytest.raises(Retryable):
            refill.run_round()
    refill.run_round()
    assert is_late
    refill.mark_written()
    for one in (refill, refill_of(pipeline, real)):
        one.run_round()
    pipeline.run()
    pipeline.assert_in_step()
