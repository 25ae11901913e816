"""The consumer loop while partitions pause, move and are lost."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from consumers import background
from tests.support.consumer_loop import Loop, ScriptedApplier, append, committed, fail
from tests.support.inline_executor import InlineExecutor
from tests.support.memory_subscription import MemoryTopic

pytestmark = pytest.mark.unit


@pytest.fixture
def group() -> MemoryTopic:
    return MemoryTopic()


def test_slow_batch_pauses_its_partitions_until_it_ends(group: MemoryTopic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_PATIENCE_SECONDS", 0.0)

    class Slow(InlineExecutor):
        """Ends each piece of work once the group was served for a while."""

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()

            def pass_time(seconds: float) -> None:
                assert loop.subscription.paused
                if not future.done() and loop.clock() > 1.0:
                    future.set_result(fn(*args, **kwargs))
                loop.clock.pass_time(seconds)

            loop.subscription._pass_time = pass_time
            return future

    append(group, 10)
    loop = Loop(group, ScriptedApplier(), executor=Slow())
    loop.turn()
    assert loop.clock() > 1.0
    assert not loop.subscription.paused
    assert committed(group) == 10


def test_messages_of_a_revoked_partition_leave_the_batch(group: MemoryTopic) -> None:
    messages = append(group, 20)
    other_applier = ScriptedApplier()

    def let_another_join() -> None:
        others.append(Loop(group, other_applier))
        fail()

    others: list[Loop] = []
    applier = ScriptedApplier(let_another_join)
    loop = Loop(group, applier)
    loop.turn()
    kept = [message.envelope.doc_id for message in messages if message.partition in loop.subscription.owned]
    assert 0 < len(kept) < 20
    assert sorted(applier.batches[0]) == sorted(f"d{number}" for number in range(20))
    assert sorted(applier.batches[1]) == sorted(kept)
    assert committed(group) == len(kept)
    others[0].turn()
    assert sorted(other_applier.batches[0] + kept) == sorted(applier.batches[0])
    assert committed(group) == 20


def test_attempt_that_ends_before_a_revocation_is_committed(
    group: MemoryTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next owner has nothing to repeat."""
    monkeypatch.setattr(background, "_PATIENCE_SECONDS", 0.0)

    class Late(InlineExecutor):
        """Work seems to end only while the group is served."""

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            done = super().submit(fn, *args, **kwargs)
            answers = iter([False, False])  # before the partitions are paused, and before the group is served
            future = Future[Any]()
            monkeypatch.setattr(future, "done", lambda: next(answers, True))
            future.set_result(done.result())
            return future

    append(group, 20)
    other_applier = ScriptedApplier()
    others: list[Loop] = []
    loop = Loop(group, ScriptedApplier(lambda: others.append(Loop(group, other_applier))), executor=Late())
    loop.turn()
    assert len(loop.subscription.owned) == 2
    assert committed(group) == 20
    others[0].turn()
    assert other_applier.batches == []


def test_lost_partition_is_dropped_and_not_committed(group: MemoryTopic) -> None:
    append(group, 20)
    applier = ScriptedApplier()

    def lose_all() -> None:
        group.expire(loop.subscription)
        fail()

    applier.script = [lose_all]
    loop = Loop(group, applier)
    loop.turn()
    assert len(applier.batches) == 2
    assert applier.batches[1] == [], "what the failed attempt wrote is marked, although its partitions are lost"
    assert committed(group) == 0
    loop.turn()
    assert sorted(applier.batches[2]) == sorted(applier.batches[0])
    assert committed(group) == 20
