"""The loop of the embedded relay, on an outbox in memory, in one thread."""

import threading
from collections.abc import Callable, Sequence

import pytest

from relays.direct import DirectRelay
from schema.events.events import Envelope
from schema.failures import DeadLetter, Retryable, SomeFail, TooManyDeadLetters
from schema.retry import Backoff
from tests.support.consumer_loop import Clock
from tests.support.inline_executor import InlineExecutor
from tests.support.memory_outbox import MemoryOutbox

pytestmark = pytest.mark.unit


class Sink:
    """Fails `failures` times, and refuses the documents in `refused`."""

    name = "sink"

    def __init__(self, failures: int = 0, refused: Sequence[str] = ()) -> None:
        self.applied: list[str] = []
        self._failures = failures
        self._refused = refused

    def apply(self, envelopes: Sequence[Envelope], /) -> list[DeadLetter]:
        if self._failures:
            self._failures -= 1
            raise Retryable("the sink is away")
        self.applied += [one.doc_id for one in envelopes if one.doc_id not in self._refused]
        return [DeadLetter(self.name, one, "refused") for one in envelopes if one.doc_id in self._refused]


class Waits(threading.Event):
    """Waiting takes no time."""

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


def run(outbox: MemoryOutbox, sink: Sink, stop: threading.Event, patience_seconds: float | None = None) -> list[object]:
    """Relay until the outbox is empty; returns what the relay reported."""
    reported: list[object] = []
    relay = DirectRelay(
        outbox,
        [sink],
        executor=InlineExecutor(),
        backoff=Backoff(uniform=lambda _low, high: high),
        report=lambda rows, _dead: reported.append(len(rows)),
        failing=lambda reason, seconds: reported.append((reason, seconds)),
    )
    try:
        relay.run(stop, until_idle=True, patience_seconds=patience_seconds)
    finally:
        relay.close()
    return reported


@pytest.fixture
def outbox() -> MemoryOutbox:
    outbox = MemoryOutbox()
    for doc_id in ("a", "b", "c"):
        outbox.append(doc_id)
    return outbox


def test_rows_are_applied_settled_and_reported(outbox: MemoryOutbox) -> None:
    sink = Sink(refused=["b"])
    assert run(outbox, sink, Waits()) == [3]
    assert sink.applied == ["a", "c"]
    assert outbox.rows == {}
    assert [letter.envelope.doc_id for letter in outbox.dead.values()] == ["b"]


def test_flood_of_dead_letters_stops_at_the_limit(outbox: MemoryOutbox) -> None:
    """In one batch, too; a restart goes on once the letters are closed."""
    refused = [f"bad{number}" for number in range(150)]
    for doc_id in refused:
        outbox.append(doc_id)
    outbox.append("z")
    for _ in range(2):
        with pytest.raises(TooManyDeadLetters, match=r"^100 of the last 1000 events became dead letters; stopped$"):
            run(outbox, Sink(refused=refused), Waits())
        assert [len(outbox.dead), len(outbox.rows)] == [100, 51]
    outbox.dead.clear()
    run(outbox, Sink(refused=refused), Waits())
    assert [len(outbox.dead), len(outbox.rows)] == [50, 0]


def test_failing_sink_is_retried_with_backoff(outbox: MemoryOutbox) -> None:
    away = "the sink is away"
    assert run(outbox, Sink(failures=3), Waits()) == [(away, 0.1), (away, 0.2), (away, 0.4), 3]


def test_failing_sink_keeps_the_rows_when_patience_ends(outbox: MemoryOutbox) -> None:
    with pytest.raises(Retryable):
        run(outbox, Sink(failures=1), Waits(), patience_seconds=0)
    assert len(outbox.rows) == 3


def test_stop_while_a_sink_fails_keeps_the_rows(outbox: MemoryOutbox) -> None:
    class StopAtFirstWait(Waits):
        def wait(self, timeout: float | None = None) -> bool:
            self.set()
            return True

    assert run(outbox, Sink(failures=9), StopAtFirstWait()) == [("the sink is away", 0.1)]
    assert len(outbox.rows) == 3


def test_batch_is_noted_before_the_sinks_get_it(outbox: MemoryOutbox) -> None:
    with pytest.raises(Retryable):
        run(outbox, Sink(failures=1), Waits(), patience_seconds=0)
    assert outbox.relayed == 3


def test_history_starts_before_the_first_claim(outbox: MemoryOutbox, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    def note(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object) -> object:
            steps.append(name)
            return real(*given)

        return call

    for name in ("start_history", "claim_oldest", "note_relayed"):
        monkeypatch.setattr(outbox, name, note(name, getattr(outbox, name)))
    run(outbox, Sink(), Waits())
    assert steps == ["start_history", "claim_oldest", "note_relayed", "claim_oldest"]


class PartlyFailing:
    """A sink that fails on the documents in `failing`: on all of a batch without any other."""

    name = "sink"

    def __init__(self, clock: Clock, *failing: str) -> None:
        self.failing = set(failing)
        self.batches: list[list[str]] = []
        self._clock = clock

    def apply(self, envelopes: Sequence[Envelope], /) -> list[DeadLetter]:
        self._clock.pass_time(0.1)
        doc_ids = [one.doc_id for one in envelopes]
        self.batches.append(doc_ids)
        failing = self.failing & set(doc_ids)
        if failing and failing == set(doc_ids):
            raise Retryable("denied")
        if failing:
            raise SomeFail("denied", failing, [])
        return []


class PassTime(Waits):
    """Waits pass virtual time; `step` is called in each."""

    def __init__(self, clock: Clock, step: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._clock, self._step = clock, step

    def wait(self, timeout: float | None = None) -> bool:
        self._clock.pass_time(timeout or 0.0)
        self._step()
        return self.is_set()


def run_with(
    outbox: MemoryOutbox, sink: PartlyFailing, clock: Clock, stop: threading.Event, patience_seconds: float | None
) -> None:
    backoff = Backoff(uniform=lambda _low, high: high)
    relay = DirectRelay(outbox, [sink], executor=InlineExecutor(), backoff=backoff, clock=clock)
    relay.run(stop, until_idle=True, patience_seconds=patience_seconds)


def test_failing_document_holds_up_no_row_behind_it(outbox: MemoryOutbox) -> None:
    clock = Clock()
    sink = PartlyFailing(clock, "a")

    def write_then_heal() -> None:
        if clock() < 30.0:
            outbox.append(f"new{clock.milliseconds}")
        else:
            sink.failing.clear()
        waiting.append(len(outbox.rows))

    waiting: list[int] = []
    run_with(outbox, sink, clock, PassTime(clock, write_then_heal), None)
    assert outbox.rows == {}
    assert len(waiting) > 30
    assert max(waiting) <= 2, "the failing row, and the one that was just written"


def test_failing_document_alone_lets_new_rows_join(outbox: MemoryOutbox) -> None:
    outbox.rows.clear()
    outbox.append("a")
    clock = Clock()
    sink = PartlyFailing(clock, "a")
    run_with(outbox, sink, clock, PassTime(clock, sink.failing.clear), None)
    assert outbox.rows == {}


def test_later_rows_of_a_failing_document_stay_behind_it(outbox: MemoryOutbox) -> None:
    clock = Clock()
    sink = PartlyFailing(clock, "a")
    outbox.append("a", version=2)

    def heal() -> None:
        if clock() > 5.0:
            sink.failing.clear()

    run_with(outbox, sink, clock, PassTime(clock, heal), None)
    assert {batch.count("a") for batch in sink.batches} <= {0, 2}
    assert outbox.rows == {}


def test_documents_held_back_end_the_patience(outbox: MemoryOutbox) -> None:
    clock = Clock()
    with pytest.raises(Retryable, match="denied"):
        run_with(outbox, PartlyFailing(clock, "a"), clock, PassTime(clock), 30.0)
    assert 30.0 <= clock() < 60.0
    assert [row.envelope.doc_id for row in outbox.rows.values()] == ["a"]
