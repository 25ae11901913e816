"""A sink that fails on one document while it takes others: the others go on, and the one becomes a dead letter."""

import re
from collections.abc import Callable, Sequence

import pytest

from consumers.isolation import REFUSED_ATTEMPTS, REFUSED_SECONDS, WHOLE_ATTEMPTS, Isolation, Key, Outcome
from consumers.sink import Change
from schema.events.events import DocumentUpserted
from schema.failures import ModelAway, Permanent, Retryable
from tests.support.consumer_loop import Clock
from tests.support.memory_sink import MemorySink

pytestmark = pytest.mark.unit


class FaultySink(MemorySink):
    """`fails` says whether the store fails on a document; each call is noted."""

    def __init__(self, fails: Callable[[str], bool] = lambda _: False) -> None:
        super().__init__()
        self.fails = fails
        self.calls: list[list[str]] = []

    def apply(self, changes: Sequence[Change]) -> None:
        self.calls.append([change.doc_id for change in changes])
        for change in changes:
            if self.fails(change.doc_id):
                raise Retryable(f"access to {change.doc_id} is denied")


def changes(*doc_ids: str) -> list[Change]:
    def event(doc_id: str) -> DocumentUpserted:
        return DocumentUpserted(
            doc_id=doc_id,
            version=1,
            history_id="h",
            embedding_model="m",
            dimension=1,
            title="",
            source_type="text",
            chunk_count=0,
        )

    return [Change(doc_id, 1, (event(doc_id),)) for doc_id in doc_ids]


class Attempts:
    """The batch of an applier: what is done is not applied again."""

    def __init__(self, sink: FaultySink, *doc_ids: str, seconds: float = 10.0) -> None:
        self.clock = Clock()
        self.isolation = Isolation(sink, clock=self.clock)
        self.sink, self.seconds = sink, seconds
        self.left = {(change.doc_id, 1): change for change in changes(*doc_ids)}
        self.refused: dict[Key, Permanent] = {}

    def add(self, doc_id: str) -> None:
        self.left |= {(change.doc_id, 1): change for change in changes(doc_id)}

    def run(self) -> bool:
        """One attempt; returns whether the batch is done."""
        self.sink.calls.clear()
        self.isolation.begin()
        self.clock.pass_time(self.seconds)
        try:
            outcome = self.isolation.apply(list(self.left.values()))
        except Retryable:
            return False
        self.left = {key: change for key, change in self.left.items() if key in outcome.failing}
        self.refused |= outcome.refused
        return not self.left


def test_other_documents_go_on_after_three_attempts() -> None:
    attempts = Attempts(FaultySink(lambda doc_id: doc_id == "d7"), *(f"d{number}" for number in range(40)))
    for _ in range(WHOLE_ATTEMPTS):
        assert not attempts.run()
        assert len(attempts.left) == 40
        assert len(attempts.sink.calls) == 1
    assert not attempts.run()
    assert attempts.left.keys() == {("d7", 1)}
    assert len(attempts.sink.calls) <= 18


def test_document_that_fails_for_long_is_refused_with_its_reason() -> None:
    attempts = Attempts(FaultySink(lambda doc_id: doc_id in {"a", "b"}), "a", "b", "c", "d", seconds=50.0)
    count = 0
    while not attempts.run():
        attempts.add(f"new{count}")
        count += 1
        assert count < 30
    assert attempts.refused.keys() == {("a", 1), ("b", 1)}
    assert count >= WHOLE_ATTEMPTS + REFUSED_ATTEMPTS - 1
    assert attempts.clock() >= REFUSED_SECONDS
    reason = r"failed \d+ times while the sink took other documents: access to a is denied"
    assert re.fullmatch(reason, str(attempts.refused["a", 1]))


def test_many_quick_attempts_refuse_nothing_before_a_quarter_hour() -> None:
    attempts = Attempts(FaultySink(lambda doc_id: doc_id == "a"), "a", "b", seconds=1.0)
    for number in range(int(REFUSED_SECONDS)):
        assert not attempts.run()
        attempts.add(f"new{number}")
    assert attempts.refused == {}
    for number in range(10):
        attempts.add(f"late{number}")
        attempts.run()
    assert attempts.refused.keys() == {("a", 1)}


def test_store_that_takes_nothing_gets_few_calls_and_refuses_nothing() -> None:
    attempts = Attempts(FaultySink(lambda _: True), *(f"d{number}" for number in range(500)))
    for _ in range(50):
        assert not attempts.run()
        assert len(attempts.sink.calls) <= 3
        assert len(attempts.left) == 500
    assert attempts.refused == {}
    attempts.sink.fails = lambda _: False
    assert attempts.run()
    assert len(attempts.sink.calls) == 2, "one alone, then all others together"


def test_document_alone_is_never_refused() -> None:
    attempts = Attempts(FaultySink(lambda _: True), "a")
    for _ in range(100):
        assert not attempts.run()
    assert attempts.refused == {}


def test_document_that_fails_for_a_while_is_applied() -> None:
    sink = FaultySink(lambda doc_id: doc_id == "a")
    attempts = Attempts(sink, "a", "b", "c")
    for _ in range(WHOLE_ATTEMPTS + 5):
        assert not attempts.run()
    assert attempts.left.keys() == {("a", 1)}
    sink.fails = lambda _: False
    assert attempts.run()
    assert attempts.refused == {}


def test_attempt_with_slow_failures_ends_in_bounded_time() -> None:
    """Each failing call takes 30 seconds: half of the documents are not tried in this attempt."""
    attempts = Attempts(FaultySink(), *(f"d{number}" for number in range(64)), seconds=0.0)

    def fails(doc_id: str) -> bool:
        if bad := int(doc_id[1:]) % 2 == 1:
            attempts.clock.pass_time(30.0)
        return bad

    attempts.sink.fails = fails
    for number in range(10):
        began = attempts.clock()
        attempts.run()
        assert attempts.clock() - began <= 150.0, f"attempt {number}"


def test_permanent_refusal_is_still_found_at_the_first_attempt() -> None:
    class Refusing(FaultySink):
        def apply(self, changes: Sequence[Change]) -> None:
            super().apply(changes)
            if any(change.doc_id == "a" for change in changes):
                raise Permanent("never")

    outcome: Outcome = Isolation(Refusing()).apply(changes("a", "b", "c"))
    assert {key: str(error) for key, error in outcome.refused.items()} == {("a", 1): "never"}
    assert outcome.failing == {}


def test_store_that_blinks_once_in_an_outage_refuses_nothing() -> None:
    """A rolling restart lets one call through: what failed before and after it is no evidence."""
    sink = FaultySink(lambda _: True)
    attempts = Attempts(sink, *(f"d{number}" for number in range(500)), seconds=45.0)
    for number in range(100):
        taken = iter([True] if number % 10 == 3 else [])
        sink.fails = lambda _, taken=taken: not next(taken, False)  # type: ignore[misc]
        assert not attempts.run()
        assert len(sink.calls) <= 8, "one success sends no 500 calls to a dead store"
    assert attempts.refused == {}
    assert len(attempts.left) == 490
    sink.fails = lambda _: False
    assert attempts.run()


def test_failure_counts_only_if_the_sink_takes_a_change_after_it() -> None:
    sink = FaultySink(lambda doc_id: doc_id == "a")
    attempts = Attempts(sink, "a", "b", seconds=50.0)
    for _ in range(WHOLE_ATTEMPTS + 1):
        assert not attempts.run()
    for number in range(4 * REFUSED_ATTEMPTS):
        attempts.add(f"new{number}")
        calls = iter([False])
        sink.fails = lambda _, calls=calls: next(calls, True)  # type: ignore[misc]
        assert not attempts.run(), "it takes one call, then goes down"
    assert attempts.refused == {}


def test_part_of_a_store_that_is_away_for_minutes_refuses_nothing() -> None:
    sink = FaultySink(lambda doc_id: doc_id.endswith("1"))
    attempts = Attempts(sink, *(f"d{number}" for number in range(100)))
    while attempts.clock() < 600.0:
        attempts.run()
        attempts.add(f"new{attempts.clock.milliseconds}")
    sink.fails = lambda _: False
    attempts.run()
    assert (attempts.left, attempts.refused) == ({}, {})


def test_known_failing_change_does_not_hold_up_the_attempts_after_a_success() -> None:
    sink = FaultySink(lambda doc_id: doc_id == "a")
    attempts = Attempts(sink, "a", "b")
    while len(attempts.left) == 2:
        attempts.run()
    failing = attempts.left.pop(("a", 1))
    for doc_id in ("c", "d"):
        attempts.add(doc_id)
        assert attempts.run()
    attempts.left["a", 1] = failing
    attempts.add("e")
    attempts.run()
    assert attempts.left.keys() == {("a", 1)}


def test_model_that_is_away_refuses_nothing_while_the_sink_takes_others() -> None:
    """Deletes and labels need no embedding."""

    class Embedding(FaultySink):
        def apply(self, changes: Sequence[Change]) -> None:
            try:
                super().apply(changes)
            except Retryable as error:
                raise ModelAway("the model is away") from error

    attempts = Attempts(Embedding(lambda doc_id: doc_id == "a"), "a", "b", seconds=50.0)
    for number in range(5 * REFUSED_ATTEMPTS):
        assert not attempts.run()
        attempts.add(f"new{number}")
    assert (attempts.refused, len(attempts.left)) == ({}, 2)
    attempts.sink.fails = lambda _: False
    assert attempts.run()
