"""The consumer loop over ports in memory: no network, no threads, virtual time."""

import threading
from collections.abc import Sequence

import pytest
from sqlalchemy import Connection, Engine, text

from consumers.applier import Applier
from consumers.sink import Change
from consumers.subscription import Message
from producer import Writer
from schema.database.outbox_rows import envelope_of
from schema.events.events import Envelope
from schema.failures import DeadLetter, Retryable, TooManyDeadLetters
from tests.support.consumer_loop import Loop, ScriptedApplier, append, committed, fail
from tests.support.inline_executor import InlineExecutor
from tests.support.memory_dead_letters import MemoryDeadLetters
from tests.support.memory_subscription import MemorySubscription, MemoryTopic
from tests.support.pipeline import MODEL, document

pytestmark = pytest.mark.unit


@pytest.fixture
def group() -> MemoryTopic:
    return MemoryTopic()


def test_batch_is_applied_then_marked_then_committed(engine: Engine, group: MemoryTopic) -> None:
    journal: list[tuple[str, int, int]] = []

    def note(step: str) -> None:
        with engine.connect() as connection:
            applied = connection.execute(text("SELECT sum(applied_version) FROM sink_states")).scalar_one()
        journal.append((step, applied, committed(group)))

    class Sink:
        name = "milvus"
        takes_vectors, takes_files = True, False

        def create(self) -> None: ...

        def ensure(self) -> None: ...

        def apply(self, changes: Sequence[Change]) -> None:
            assert [change.doc_id for change in changes] == ["d1"]
            note("apply")

        def close(self) -> None: ...

    class Marks:
        def mark_applied(self, connection: Connection, changes: Sequence[Change]) -> None:
            assert [(change.doc_id, change.version) for change in changes] == [("d1", 1)]

        def complete_removals(self, connection: Connection, changes: Sequence[Change]) -> list[Change]:
            raise AssertionError("every event is whole")

    with engine.begin() as connection:
        Writer(MODEL).upsert(connection, document("d1", "one"))
        [row] = connection.execute(text("SELECT * FROM outbox")).all()
    event = envelope_of(row)
    headers = {"ce_type": event.event_type, "ce_sequence": "1", "content-type": event.content_type}
    group.append("d1", event.payload, list(headers.items()))
    answered: list[int] = []

    def note_database() -> None:
        answered.append(len(journal))

    loop = Loop(group, Applier(engine, Sink(), Marks(), new_executor=InlineExecutor, note_database=note_database))
    loop.turn()
    note("commit")
    assert journal == [("apply", 0, 0), ("commit", 1, 1)]
    assert answered == [0], "before a write to the sink that may take long"


def test_sequence_that_no_version_can_have_is_read_as_zero() -> None:
    def read(sequence: str) -> int:
        return Message(("topic", 0), 0, b"d1", b"", [("ce_sequence", sequence)]).envelope.version

    assert [read(sequence) for sequence in ("7", "9" * 5_000, "-1", "")] == [7, 0, 0, 0]


def test_batch_is_bounded_in_rows_and_bytes(group: MemoryTopic) -> None:
    append(group, 1_203)
    applier = ScriptedApplier()
    loop = Loop(group, applier)
    for _ in range(3):
        loop.turn()
    assert [len(batch) for batch in applier.batches] == [500, 500, 203]
    for number in range(80):
        group.append(f"d{number}", b"x" * 512 * 1024)
    applier.batches.clear()
    loop.turn()
    assert [len(batch) for batch in applier.batches] == [51], "16 MiB, and what one poll brings"


def test_positions_are_stored_only_while_no_message_is_in_flight(group: MemoryTopic) -> None:
    stored: list[int] = []

    class Watched(MemorySubscription):
        def store_positions(self) -> None:
            stored.append(len(loop._batch))
            super().store_positions()

    loop = Loop(group, ScriptedApplier())
    loop.subscription.__class__ = Watched
    loop.turn()
    append(group, 3)
    loop.poll_batch()
    loop.poll_batch()
    assert stored == [0]
    loop.apply()
    loop.turn()
    assert stored == [0, 0]


def test_failing_batch_is_paused_and_applied_again_with_backoff(group: MemoryTopic) -> None:
    seen: list[tuple[bool, int, int]] = []

    def look_and_fail() -> None:
        seen.append((loop.subscription.paused, loop.clock.milliseconds - began, committed(group)))
        fail()

    append(group, 10)
    applier = ScriptedApplier(*[look_and_fail] * 3)
    loop = Loop(group, applier)
    loop.poll_batch()
    began = loop.clock.milliseconds
    loop.apply()
    assert len(applier.batches) == 4
    assert all(sorted(batch) == sorted(applier.batches[0]) for batch in applier.batches)
    paused, times, commits = zip(*seen, strict=True)
    assert (paused, commits) == ((False, True, True), (0, 0, 0))
    assert times == (0, pytest.approx(100, abs=50), pytest.approx(300, abs=100)), "up to one turn of serving late, each"
    assert not loop.subscription.paused
    loop.commit()
    assert committed(group) == 10


def test_dead_letter_is_stored_before_its_offset_is_committed(group: MemoryTopic) -> None:
    class Watched(MemoryDeadLetters):
        def send(self, letters: Sequence[tuple[Message, DeadLetter]]) -> None:
            assert committed(group) == 0
            super().send(letters)

    append(group, 3)
    refused = group.append("bad", b"refused", [("ce_id", b"e")])
    loop = Loop(group, ScriptedApplier(), Watched())
    loop.turn()
    [stored] = loop.dead_letters.stored
    assert (stored.key, stored.value, stored.offset) == (b"bad", b"refused", refused.offset)
    assert dict(stored.headers)["dead_letter_reason"] == "bad"
    assert committed(group) == 4


def test_batch_is_applied_again_until_its_dead_letters_are_stored(group: MemoryTopic) -> None:
    class Failing(MemoryDeadLetters):
        left = 2

        def send(self, letters: Sequence[tuple[Message, DeadLetter]]) -> None:
            self.left -= 1
            assert committed(group) == 0
            if self.left >= 0:
                raise Retryable("Kafka does not take the dead letters")
            super().send(letters)

    group.append("bad", b"refused")
    applier = ScriptedApplier()
    loop = Loop(group, applier, Failing())
    loop.turn()
    assert len(applier.batches) == 3
    assert len(loop.dead_letters.stored) == 1
    assert committed(group) == 1


def test_flood_of_dead_letters_stops_the_loop_at_the_limit(group: MemoryTopic) -> None:
    """In one batch, too: it stops at 100, and everything before the next refused event is committed."""
    append(group, 10)
    refuse(group, 99)
    first = Loop(group, ScriptedApplier())
    first.turn()
    first.close()
    refuse(group, 200)
    loop = Loop(group, ScriptedApplier(), first.dead_letters)
    group.members.clear()
    with pytest.raises(TooManyDeadLetters, match=r"^100 of the last 1000 events became dead letters; stopped$"):
        loop.run(threading.Event())
    assert len(loop.dead_letters.stored) == 100
    assert committed(group) == 110
    assert group.members == []


def test_events_before_a_letter_too_many_are_committed(group: MemoryTopic) -> None:
    for value, count in ((b"refused", 100), (b"", 10), (b"refused", 1), (b"", 10)):
        for _ in range(count):
            group.append("d", value)
    loop = Loop(group, ScriptedApplier())
    with pytest.raises(TooManyDeadLetters):
        loop.turn()
    assert (len(loop.dead_letters.stored), committed(group)) == (100, 110)


def test_restarted_loop_stops_before_it_stores_more_dead_letters(group: MemoryTopic) -> None:
    refuse(group, 100)
    first = Loop(group, ScriptedApplier())
    first.turn()
    first.close()
    refuse(group, 50)
    for _ in range(2):
        restarted = Loop(group, ScriptedApplier(), first.dead_letters)
        with pytest.raises(TooManyDeadLetters, match=r"^100 of the last 1000 events became dead letters; stopped$"):
            restarted.turn()
        restarted.close()
    assert len(first.dead_letters.stored) == committed(group) == 100


def test_good_events_outweigh_the_dead_letters_before_a_restart(group: MemoryTopic) -> None:
    refuse(group, 100)
    first = Loop(group, ScriptedApplier())
    first.turn()
    first.close()
    append(group, 1_000)
    restarted = Loop(group, ScriptedApplier(), first.dead_letters)
    while committed(group) < 1_100:
        restarted.turn()
    refuse(group, 1)
    restarted.turn()
    assert len(first.dead_letters.stored) == 101


def test_loop_goes_on_once_a_person_closed_letters(group: MemoryTopic) -> None:
    """The limit counts what is open in the database at that moment."""

    class Closing(MemoryDeadLetters):
        def count_stored(self) -> int:
            return max(0, len(self.stored) - 100)

    refuse(group, 150)
    restarted = Loop(group, ScriptedApplier(), Closing())
    with pytest.raises(TooManyDeadLetters):
        restarted.turn()
    restarted.close()
    again = Loop(group, ScriptedApplier(), restarted.dead_letters)
    again.turn()
    assert len(again.dead_letters.stored) == committed(group) == 150


def refuse(group: MemoryTopic, count: int) -> None:
    """Append events that the sink refuses."""
    for number in range(count):
        group.append(f"bad{number}", b"refused")


def test_stop_while_the_sink_fails_leaves_the_batch_to_the_next_owner(group: MemoryTopic) -> None:
    stop = threading.Event()

    def stop_and_fail() -> None:
        stop.set()
        fail()

    append(group, 5)
    applier = ScriptedApplier(stop_and_fail)
    loop = Loop(group, applier)
    group.members.clear()
    loop.run(stop)
    assert len(applier.batches) == 1
    assert (committed(group), group.members, group.owners) == (0, [], {})


def test_run_commits_what_it_reported_and_leaves_the_group(group: MemoryTopic) -> None:
    stop = threading.Event()
    reported: list[str] = []

    def report(applied: Sequence[Envelope], dead: Sequence[DeadLetter]) -> None:
        reported.extend(envelope.doc_id for envelope in applied)
        assert [letter.envelope.doc_id for letter in dead] == ["bad"]
        stop.set()

    append(group, 5)
    group.append("bad", b"refused")
    loop = Loop(group, ScriptedApplier(), report=report)
    group.members.clear()
    loop.run(stop)
    assert sorted(reported) == ["bad", "d0", "d1", "d2", "d3", "d4"]
    assert (committed(group), group.members, group.owners) == (6, [], {})
