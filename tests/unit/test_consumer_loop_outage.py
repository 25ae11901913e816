"""The consumer loop while its database, or its sink, does not answer."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from consumers import background
from schema.failures import DatabaseAway
from schema.outage import DatabaseOutage
from schema.threads import DRAIN_SECONDS
from tests.support.consumer_loop import Loop, ScriptedApplier, append, committed, fail
from tests.support.inline_executor import InlineExecutor
from tests.support.memory_subscription import MemoryTopic

pytestmark = pytest.mark.unit

LEAVE_SECONDS = 60.0


class StopWhen(threading.Event):
    """Set as soon as a condition holds; waiting takes no time."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        super().__init__()
        self._condition = condition

    def is_set(self) -> bool:
        return super().is_set() or self._condition()

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


@pytest.fixture
def group() -> MemoryTopic:
    return MemoryTopic()


def lose_database() -> None:
    raise DatabaseAway("metadata database: timed out")


class HangingExecutor(InlineExecutor):
    """Starts no call while it hangs; calls that wait run when it goes on."""

    def __init__(self) -> None:
        self.hangs = True
        self._waiting: list[Callable[[], None]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if not self.hangs:
            return super().submit(fn, *args, **kwargs)
        future: Future[Any] = Future()
        self._waiting.append(lambda: future.set_result(fn(*args, **kwargs)))
        return future

    def go_on(self) -> None:
        self.hangs = False
        for call in self._waiting:
            call()


def test_consumer_without_database_leaves_marks_and_rejoins(group: MemoryTopic) -> None:
    probes: list[tuple[bool, int]] = []

    def probe() -> None:
        probes.append((loop.subscription in group.members, loop.clock.milliseconds))
        if len(probes) < 3:
            lose_database()

    append(group, 10)
    applier = ScriptedApplier(*[lose_database] * 1_000)
    loop = Loop(group, applier, probe=probe)
    group.members.clear()

    def heal() -> bool:
        if len(probes) == 3:
            applier.script.clear()
        return committed(group) == 10

    loop.run(StopWhen(heal))
    assert [is_member for is_member, _ in probes] == [False] * 3
    assert LEAVE_SECONDS <= probes[0][1] / 1_000 < LEAVE_SECONDS + 10
    assert applier.batches[-2] == [], "what was written is marked before the consumer joins again"
    assert sorted(applier.batches[-1]) == sorted(f"d{number}" for number in range(10))


def test_left_consumer_commits_nothing_of_its_batch(group: MemoryTopic) -> None:
    append(group, 10)
    loop = Loop(group, ScriptedApplier(*[lose_database] * 1_000))
    loop.poll_batch()
    loop.apply()
    loop.leave()
    assert (committed(group), group.members, group.owners) == (0, [], {})
    other = Loop(group, ScriptedApplier())
    other.turn()
    assert committed(group) == 10


def test_hung_attempt_is_left_behind_and_ends_before_the_next(group: MemoryTopic) -> None:
    append(group, 10)
    executor, applier = HangingExecutor(), ScriptedApplier()
    loop = Loop(group, applier, executor=executor)
    loop._database.note_failure("timed out", since=0.0)
    loop.poll_batch()
    loop.apply()
    assert loop.clock() >= LEAVE_SECONDS
    loop.leave()
    assert (committed(group), group.members) == (0, [])
    executor.go_on()
    loop.rejoin()
    assert [len(batch) for batch in applier.batches] == [10, 0]
    loop.turn()
    assert committed(group) == 10


def test_consumer_whose_sink_is_away_stays_in_its_group(group: MemoryTopic, caplog: pytest.LogCaptureFixture) -> None:
    append(group, 10)
    applier = ScriptedApplier(*[fail] * 20)
    loop = Loop(group, applier)
    loop.turn()
    assert loop.clock() > 2 * LEAVE_SECONDS
    assert committed(group) == 10
    lines = [record.getMessage() for record in caplog.records]
    assert [line.rpartition("seconds=")[0] for line in lines] == [
        *["sink_failing sink=milvus "] * 3,
        "sink_recovered sink=milvus ",
    ], lines


@pytest.mark.parametrize("hangs", [True, False])
def test_stop_abandons_a_batch_that_hangs(group: MemoryTopic, hangs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays in the group until its session ends: a late write must not follow that of the next owner."""
    monkeypatch.setattr(background, "_PATIENCE_SECONDS", 0.0)
    append(group, 10)
    executor, stop = HangingExecutor(), threading.Event()
    loop = Loop(group, ScriptedApplier(), executor=executor)
    group.members.clear()
    pass_time = loop.subscription._pass_time

    def stop_when_paused(seconds: float) -> None:
        pass_time(seconds)
        if loop.subscription.paused:
            stop.set()
            if not hangs:
                executor.go_on()

    loop.subscription._pass_time = stop_when_paused
    loop.run(stop)
    assert loop.clock() < 2 * DRAIN_SECONDS
    if hangs:
        assert (committed(group), group.members) == (0, [loop.subscription])
    else:
        assert (committed(group), group.members) == (10, [])


def test_stop_after_leaving_waits_for_the_attempt_left_behind(
    group: MemoryTopic, caplog: pytest.LogCaptureFixture
) -> None:
    for hangs in (False, True):
        caplog.clear()
        group.append(f"d{hangs}")
        executor, applier = HangingExecutor(), ScriptedApplier()
        loop = Loop(group, applier, executor=executor)
        loop._background._clock = iter(range(1_000)).__next__
        loop._database.note_failure("timed out", since=-LEAVE_SECONDS)
        loop.poll_batch()
        loop.apply()
        loop.leave()
        if not hangs:
            executor.go_on()
        loop.close()
        lines = [record.getMessage() for record in caplog.records]
        assert ("batch_abandoned sink=milvus" in lines) == hangs


def test_consumer_left_behind_stops_at_once(group: MemoryTopic) -> None:
    stop = threading.Event()

    def probe() -> None:
        stop.set()
        lose_database()

    append(group, 1)
    loop = Loop(
        group, ScriptedApplier(*[lose_database] * 1_000), probe=probe, database=DatabaseOutage(0.0, lambda: 0.0)
    )
    group.members.clear()
    loop.run(stop)
    assert (committed(group), group.members) == (0, [])
