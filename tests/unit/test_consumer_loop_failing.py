"""The consumer loop while its sink fails on some documents and takes others."""

import threading
from collections.abc import Callable, Sequence

import pytest

from consumers.batch import BATCH_ROWS, Batch
from consumers.isolation import REFUSED_SECONDS, Isolation
from consumers.sink import Change
from schema.events.events import Envelope
from schema.failures import DeadLetter, SomeFail
from tests.support.consumer_loop import Clock, Loop, ScriptedApplier, append, committed
from tests.support.memory_subscription import MemoryTopic
from tests.unit.test_isolation import FaultySink, changes

pytestmark = pytest.mark.unit


@pytest.fixture
def group() -> MemoryTopic:
    return MemoryTopic()


class IsolatingApplier:
    """The shipped isolation over a store that fails on some documents; a batch takes 10 ms. `done` is marked."""

    name = "milvus"

    def __init__(self, clock: Callable[[], float], fails: Callable[[str], bool]) -> None:
        self.sink = FaultySink(fails)
        self.isolation = Isolation(self.sink, clock=clock)
        self.done: list[tuple[str, int]] = []
        self.batches: list[list[str]] = []

    def apply(self, envelopes: Sequence[Envelope], /) -> list[DeadLetter]:
        self.batches.append([one.doc_id for one in envelopes])
        newest = {one.doc_id: one for one in envelopes if (one.doc_id, one.version) not in self.done}
        if not newest:
            return []
        self.isolation.begin()
        given = [Change(one.doc_id, one.version, changes(one.doc_id)[0].events) for one in newest.values()]
        outcome = self.isolation.apply(given)
        failing = {doc_id for doc_id, _ in outcome.failing}
        taken = [one for one in envelopes if one.doc_id not in failing]
        refused = {doc_id for doc_id, _ in outcome.refused}
        self.done += [(one.doc_id, one.version) for one in taken if one.doc_id not in refused]
        dead = [DeadLetter(self.name, one, "failed for long") for one in taken if one.doc_id in refused]
        if failing:
            raise SomeFail("denied", failing, dead)
        return dead


def failing_loop(group: MemoryTopic, fails: Callable[[str], bool]) -> tuple[Loop, IsolatingApplier]:
    clock = Clock()
    applier = IsolatingApplier(clock, fails)
    loop = Loop(group, applier, clock=clock)
    loop.clock = clock
    loop.subscription._pass_time = clock.pass_time
    return loop, applier


def put(group: MemoryTopic, doc_id: str, version: int) -> None:
    group.append(doc_id, b"", [("ce_sequence", str(version))])


def turn_for(loop: Loop, seconds: float) -> None:
    until = loop.clock() + seconds
    while loop.clock() < until:
        loop.turn()
        loop.clock.pass_time(0.01)


def test_failing_document_holds_up_no_document_behind_it(group: MemoryTopic) -> None:
    append(group, 500)
    loop, applier = failing_loop(group, lambda doc_id: doc_id == "d7")
    turn_for(loop, 5.0)
    assert len(applier.done) == 499
    for number in range(2_000):
        group.append(f"new{number}")
    turn_for(loop, 3.0)
    assert len(applier.done) == 2_499
    assert loop.dead_letters.stored == []


def test_offsets_stop_before_the_failing_message_of_their_partition(group: MemoryTopic) -> None:
    messages = append(group, 100)
    loop, applier = failing_loop(group, lambda doc_id: doc_id in {"d7", "d70"})
    turn_for(loop, 5.0)
    assert len(applier.done) == 98
    for partition, log in group.logs.items():
        bad = [one.offset for one in log if one.envelope.doc_id in {"d7", "d70"}]
        assert group.committed[partition] == min([*bad, len(log)])
    applier.sink.fails = lambda doc_id: doc_id == "d70"
    turn_for(loop, 20.0)
    last = messages[70]
    assert group.committed[last.partition] == last.offset
    applier.sink.fails = lambda _: False
    turn_for(loop, 20.0)
    assert committed(group) == 100


def test_later_events_of_a_failing_document_stay_behind_it(group: MemoryTopic) -> None:
    put(group, "a", 1)
    append(group, 10)
    loop, applier = failing_loop(group, lambda doc_id: doc_id == "a")
    turn_for(loop, 5.0)
    put(group, "a", 2)
    append(group, 20)
    applier.batches.clear()
    turn_for(loop, 20.0)
    with_a = [[one for one in batch if one == "a"] for batch in applier.batches if "a" in batch]
    assert {tuple(one) for one in with_a} == {("a", "a")}
    applier.sink.fails = lambda _: False
    turn_for(loop, 20.0)
    assert committed(group) == 32


def test_document_that_fails_alone_at_first_holds_up_nothing(group: MemoryTopic) -> None:
    group.append("a")
    loop, applier = failing_loop(group, lambda doc_id: doc_id == "a")
    loop.poll_batch()
    pass_time = loop.clock.pass_time

    def add_later(seconds: float) -> None:
        pass_time(seconds)
        if loop.clock() > 1.0 and len(group.logs[("rag.documents", 0)]) == 0:
            append(group, 50)

    loop.subscription._pass_time = add_later
    turn_for(loop, 10.0)
    assert len(applier.done) == 50


def test_failing_document_becomes_a_dead_letter_after_a_quarter_hour(group: MemoryTopic) -> None:
    append(group, 20)
    loop, _ = failing_loop(group, lambda doc_id: doc_id == "d7")
    turn_for(loop, 5.0)
    number = 0
    while not loop.dead_letters.stored:
        group.append(f"new{number}")
        number += 1
        turn_for(loop, 5.0)
        assert loop.clock() < 2 * REFUSED_SECONDS
    assert loop.clock() >= REFUSED_SECONDS
    loop.turn()
    assert committed(group) == 20 + number


def test_store_that_is_down_is_not_polled_for_and_refuses_nothing(group: MemoryTopic) -> None:
    append(group, 2 * BATCH_ROWS)
    loop, applier = failing_loop(group, lambda _: True)
    stop = threading.Event()
    loop._background.stop = stop
    pass_time = loop.clock.pass_time

    def stop_later(seconds: float) -> None:
        pass_time(seconds)
        if loop.clock() > 2 * REFUSED_SECONDS:
            stop.set()

    loop.subscription._pass_time = stop_later
    loop.turn()
    assert {len(batch) for batch in applier.batches} == {BATCH_ROWS}
    assert all(len(one) in (1, BATCH_ROWS) for one in applier.sink.calls)
    assert (committed(group), loop.dead_letters.stored) == (0, [])


def test_write_on_a_failing_document_is_marked_after_its_partition_moved(group: MemoryTopic) -> None:
    append(group, 20)
    loop, applier = failing_loop(group, lambda doc_id: doc_id == "d7")
    turn_for(loop, 5.0)
    group.expire(loop.subscription)
    loop.subscription.topic.owners.clear()
    applier.batches.clear()
    while not applier.batches:
        loop.subscription._rebalance()
        loop._batch.drop(loop._batch.partitions)
        loop.apply()
    assert applier.batches[0] == []


def test_too_many_failing_documents_wait_while_the_group_is_served(group: MemoryTopic) -> None:
    append(group, 2 * BATCH_ROWS)

    class MostFail(ScriptedApplier):
        def apply(self, envelopes: Sequence[Envelope], /) -> list[DeadLetter]:
            raise SomeFail("denied", {one.doc_id for one in envelopes if not one.doc_id.endswith("7")}, [])

    loop = Loop(group, MostFail())
    served = 0
    pass_time = loop.clock.pass_time

    def count(seconds: float) -> None:
        nonlocal served
        served += 1
        pass_time(seconds)

    loop.subscription._pass_time = count
    while not loop._batch.is_full or len(loop._batch.select(also_held=False)) > 0:
        loop.turn()
    served, began = 0, loop.clock()
    for _ in range(3):
        loop.turn()
    assert served * 0.05 == pytest.approx(loop.clock() - began, abs=0.5)
    assert len(loop._batch) == BATCH_ROWS


def test_position_before_an_unread_place_is_not_stored() -> None:
    topic = MemoryTopic(1)
    first, second, third = (topic.append(f"d{number}") for number in range(3))
    batch = Batch()
    batch.add([first, second, third])
    assert batch.finish([second]) == []
    assert [one.offset for one in batch.finish([first])] == [1]
    assert [one.offset for one in batch.finish([third])] == [2]
    fourth, fifth = (topic.append(f"d{number}") for number in range(3, 5))
    batch.add([fourth, fifth])
    assert batch.finish([fifth]) == []
    assert [one.offset for one in batch.finish([fourth])] == [4]
