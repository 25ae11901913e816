"""The loops call refill after each batch and when idle, over ports in memory, without a network or threads."""

import threading
from collections.abc import Callable, Collection

import pytest
from sqlalchemy import Engine, text

from consumers.applier import Applier
from consumers.refill import Refill, mark_all_absent
from consumers.sinks import PluginMarks
from producer import Writer
from relays.direct import DirectRelay
from schema import archive
from schema.events.events import DocumentUpserted, decode
from schema.failures import Retryable, StoreMissing
from schema.object_store.directory import DirectoryStore
from tests.support.consumer_loop import Loop, ScriptedApplier, append, committed
from tests.support.inline_executor import InlineExecutor
from tests.support.memory_outbox import MemoryOutbox
from tests.support.memory_sink import MemorySink
from tests.support.memory_subscription import MemoryTopic
from tests.support.pipeline import MODEL, document

pytestmark = pytest.mark.unit


@pytest.fixture
def group() -> MemoryTopic:
    return MemoryTopic()


class ScriptedRefill:
    """Notes the lanes of each round; a step of `script` is called in the round, and dropped."""

    def __init__(self, *script: Callable[[], int]) -> None:
        self.script = list(script)
        self.rounds: list[set[int] | None] = []
        self.due = True
        self.marked = 0

    def is_due(self) -> bool:
        return self.due

    def mark_written(self) -> None:
        self.marked += 1

    def run_round(self, lanes: Collection[int] | None = None) -> int:
        self.rounds.append(None if lanes is None else set(lanes))
        return self.script.pop(0)() if self.script else 0


def fail() -> int:
    raise Retryable("the sink is down")


def turn(loop: Loop) -> None:
    loop.turn()
    loop.refill()


def test_each_consumer_refills_the_lanes_of_its_partitions(group: MemoryTopic) -> None:
    refills = [ScriptedRefill(), ScriptedRefill()]
    first, second = (Loop(group, ScriptedApplier(), refill=refill) for refill in refills)
    for loop in (first, second, first, second):
        turn(loop)
    assert [refill.rounds[-1] for refill in refills] == [{0, 2}, {1, 3}]


def test_consumer_without_partitions_refills_nothing(group: MemoryTopic) -> None:
    refill = ScriptedRefill()
    Loop(group, ScriptedApplier(), refill=refill).refill()
    assert refill.rounds == []


def test_consumer_that_lost_its_last_lane_marks_what_it_refilled(group: MemoryTopic) -> None:
    refill = ScriptedRefill(fail)
    loop = Loop(group, ScriptedApplier(), refill=refill)
    turn(loop)
    loop.clock.pass_time(100.0)
    loop.subscription.owned = set()
    loop.refill()
    assert (len(refill.rounds), refill.marked) == (1, 1)


def test_left_consumer_marks_what_it_refilled_before_it_joins(group: MemoryTopic) -> None:
    refill = ScriptedRefill()
    loop = Loop(group, ScriptedApplier(), refill=refill)
    loop.leave()
    loop.rejoin()
    assert refill.marked == 1


def test_refill_runs_after_each_batch_and_when_idle_if_it_is_due(group: MemoryTopic) -> None:
    refill = ScriptedRefill(lambda: committed(group))
    loop = Loop(group, ScriptedApplier(), refill=refill)
    append(group, 3)
    turn(loop)
    turn(loop)
    assert (committed(group), refill.rounds) == (3, [{0, 1, 2, 3}] * 2)
    refill.due = False
    turn(loop)
    assert len(refill.rounds) == 2


def test_failing_refill_is_repeated_with_backoff_while_events_are_applied(group: MemoryTopic) -> None:
    refill, applier = ScriptedRefill(fail, fail), ScriptedApplier()
    loop = Loop(group, applier, refill=refill)
    turn(loop)
    loop.refill()
    assert len(refill.rounds) == 1, "0.1 seconds have not passed"
    append(group, 3)
    loop.clock.pass_time(0.1)
    turn(loop)
    assert (committed(group), len(refill.rounds)) == (3, 2)
    loop.clock.pass_time(0.2)
    turn(loop)
    assert len(refill.rounds) == 3
    assert not loop.subscription.paused


def test_lost_store_stops_the_consumer(group: MemoryTopic) -> None:
    def lose() -> int:
        raise StoreMissing("the memory is lost")

    loop = Loop(group, ScriptedApplier(), refill=ScriptedRefill(lose))
    with pytest.raises(StoreMissing):
        loop.run(threading.Event())


def test_missing_store_stops_the_loop_without_a_dead_letter(group: MemoryTopic) -> None:
    def lose() -> int:
        raise StoreMissing("the memory is lost")

    loop = Loop(group, ScriptedApplier(lose))
    append(group, 1)
    with pytest.raises(StoreMissing):
        loop.turn()
    loop.commit()
    assert (committed(group), loop.dead_letters.stored) == (0, [])


def test_absent_documents_return_through_the_loop(engine: Engine, group: MemoryTopic, store: DirectoryStore) -> None:
    sink = MemorySink()
    sink.create()
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO sinks (name, required, takes_vectors, takes_files) VALUES ('memory',0,1,1)")
        )
        Writer(MODEL).upsert_many(connection, [document(f"d{number}", "one", "two") for number in range(5)])
        rows = connection.execute(text("SELECT payload, aggregate_id, event_type, content_type FROM outbox")).all()
    for row in rows:
        headers = {"ce_type": row.event_type, "ce_sequence": "1", "content-type": row.content_type}
        message = group.append(row.aggregate_id, row.payload, list(headers.items()))
        event = decode(message.envelope)
        assert isinstance(event, DocumentUpserted)
        archive.write(store, event.doc_id, 1, 1, event.chunks)
    applier = Applier(engine, sink, PluginMarks("memory"), new_executor=InlineExecutor)
    clock = 0.0
    loop = Loop(group, applier, refill=Refill(engine, sink, PluginMarks("memory"), store, clock=lambda: clock))
    turn(loop)
    held = dict(sink.store())
    assert [sorted(items.values()) for items in held.values()] == [["one", "two"]] * 5
    sink.documents = None
    mark_all_absent(engine, "memory", "lost")
    sink.create()
    sink.apply([])
    sink.store()["d1"]["ghost"] = "ghost"
    clock += 10
    turn(loop)
    assert sink.store() == held
    with engine.connect() as connection:
        states = connection.execute(
            text("SELECT DISTINCT state, applied_version FROM sink_states WHERE sink = 'memory'")
        )
        assert [tuple(row) for row in states] == [("applied", 1)]


def relay(outbox: MemoryOutbox, applier: ScriptedApplier, refill: ScriptedRefill) -> DirectRelay:
    return DirectRelay(outbox, [applier], executor=InlineExecutor(), refill=refill.run_round)


def test_direct_relay_refills_after_each_batch_and_until_nothing_is_left() -> None:
    outbox, refill = MemoryOutbox(), ScriptedRefill(lambda: 2, lambda: 1, fail)
    outbox.append("a")
    relay(outbox, ScriptedApplier(), refill).run(threading.Event(), until_idle=True)
    assert len(refill.rounds) == 4, "after the batch, then until a round finds nothing; a failed one is repeated"


def test_direct_relay_stops_when_a_store_is_lost() -> None:
    def lose() -> int:
        raise StoreMissing("the memory is lost")

    outbox = MemoryOutbox()
    outbox.append("a")
    with pytest.raises(StoreMissing):
        relay(outbox, ScriptedApplier(lose), ScriptedRefill()).run(threading.Event(), until_idle=True)
    assert (len(outbox.rows), outbox.dead) == (1, {})
