"""The documents on which a sink keeps failing: when they are named, how often, and when forgotten."""

import pytest

from consumers.failing_documents import FAILING_SECONDS, SHOWN, FailingDocuments
from tests.support.consumer_loop import Clock
from tests.unit.test_isolation import Attempts, FaultySink

pytestmark = pytest.mark.unit


class Failing(FailingDocuments):
    """With a clock that a test moves."""

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(self.clock)

    def fail(self, *doc_ids: str, seconds: float) -> None:
        """Fail on each document every ten seconds."""
        for _ in range(int(seconds / 10)):
            for doc_id in doc_ids:
                self.note_failure(doc_id, "denied")
            self.clock.pass_time(10.0)


def test_document_is_reported_after_five_minutes_and_again_after_five_more() -> None:
    failing = Failing()
    failing.fail("a", seconds=FAILING_SECONDS)
    assert (failing.count(), failing.find_unreported()) == (0, [])
    failing.fail("a", seconds=10)
    [one] = failing.find_unreported()
    assert (one.doc_id, one.reason, failing.count()) == ("a", "denied", 1)
    failing.fail("a", seconds=FAILING_SECONDS - 10)
    assert failing.find_unreported() == []
    failing.fail("a", seconds=20)
    assert [one.doc_id for one in failing.find_unreported()] == ["a"]


def test_store_that_does_not_answer_clears_every_document() -> None:
    failing = Failing()
    failing.fail("a", seconds=FAILING_SECONDS)
    failing.note_store_away()
    failing.fail("a", seconds=FAILING_SECONDS)
    assert failing.count() == 0


def test_document_that_is_taken_or_not_tried_any_more_is_forgotten() -> None:
    failing = Failing()
    failing.fail("taken", "left", seconds=FAILING_SECONDS + 10)
    failing.note_taken("taken")
    assert failing.count() == 1
    failing.clock.pass_time(FAILING_SECONDS)
    assert (failing.count(), failing.find_unreported()) == (0, []), "another consumer owns it now"
    failing.fail("left", seconds=20)
    assert failing.count() == 0, "it begins again"


def test_many_failing_documents_are_counted_and_few_are_named() -> None:
    failing = Failing()
    failing.fail(*"abcdefgh", seconds=FAILING_SECONDS + 10)
    assert failing.count() == 8
    assert len(failing.find_unreported()) == SHOWN
    assert failing.find_unreported() == []


@pytest.mark.parametrize("others", [(), ("b", "c")])
def test_isolation_notes_what_fails_alone(others: tuple[str, ...]) -> None:
    attempts = Attempts(FaultySink(lambda doc_id: doc_id == "a"), "a", *others)
    while attempts.clock() < FAILING_SECONDS + 60:
        assert not attempts.run()
    assert attempts.isolation.failing.count() == 1
    attempts.sink.fails = lambda _: False
    assert attempts.run()
    assert attempts.isolation.failing.count() == 0


def test_isolation_notes_no_document_of_a_batch_that_fails_whole() -> None:
    attempts = Attempts(FaultySink(lambda _: True), *(f"d{number}" for number in range(500)))
    while attempts.clock() < 2 * FAILING_SECONDS:
        assert not attempts.run()
    assert attempts.isolation.failing.count() == 0, "each is tried alone too rarely"
