"""The relay to Kafka while its database does not answer: it leaves its group, and nothing is lost or doubled."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from relays import kafka
from relays.kafka import KafkaRelay
from relays.ports import OutboxRow
from schema.failures import DatabaseAway, DeadLetter
from schema.outage import DatabaseOutage
from schema.retry import Backoff
from schema.threads import start_in_thread
from tests.support.memory_kafka import MemoryBroker, MemoryPublisher
from tests.support.memory_outbox import MemoryOutbox
from tests.support.waiting import wait_for

pytestmark = pytest.mark.unit

LEAVE_SECONDS = 0.2


class SilentOutbox(MemoryOutbox):
    """While it is silent, no call of it answers. With `settle_hangs` the next settle waits for `release`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_silent = False
        self.settle_hangs = False
        self.release = threading.Event()
        self.late = threading.Event()

    def probe(self) -> None:
        self._answer()

    def claim_lanes(self, *given: object) -> list[OutboxRow]:
        self._answer()
        return super().claim_lanes(*given)  # type: ignore[arg-type]

    def settle(self, rows: Sequence[OutboxRow], dead: Sequence[DeadLetter] = ()) -> None:
        if self.settle_hangs:
            self.settle_hangs = False
            self.release.wait()
            super().settle(rows, dead)
            self.late.set()
            return
        self._answer()
        super().settle(rows, dead)

    def _answer(self) -> None:
        if self.is_silent:
            raise DatabaseAway("timed out")


class System:
    def __init__(self) -> None:
        self.outbox = SilentOutbox()
        self.broker = MemoryBroker()
        self.lanes = self.broker.lanes()
        self.stop = threading.Event()
        self.relay = KafkaRelay(
            self.outbox,
            self.lanes,
            self.broker.publisher(),
            backoff=Backoff(0.01, 0.02),
            outage=DatabaseOutage(LEAVE_SECONDS),
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        ended = start_in_thread(lambda: self.relay.run(self.stop), "relay")
        wait_for(lambda: self.lanes.owned, "lanes")
        yield
        self.stop.set()
        ended.result(30)

    def wait_until_left(self) -> None:
        wait_for(lambda: not self.broker._members, "the relay to leave", timeout_seconds=10)

    def wait_until_published(self) -> None:
        wait_for(lambda: not self.outbox.rows, "an empty outbox", timeout_seconds=10)

    def published(self) -> list[str]:
        return sorted(envelope.event_id for envelope in self.broker.read())


@pytest.fixture
def system() -> System:
    return System()


def test_relay_without_database_leaves_and_rejoins(system: System, caplog: pytest.LogCaptureFixture) -> None:
    with system.running():
        system.outbox.is_silent = True
        system.wait_until_left()
        system.outbox.append("a")
        assert not system.lanes.owned
        assert not system.relay.is_member
        system.outbox.is_silent = False
        system.wait_until_published()
    assert system.published() == ["a-1"]
    events = [record.getMessage().split()[0] for record in caplog.records]
    assert events == ["database_failing", "group_left", "database_recovered", "group_rejoined"]


def test_settle_that_hangs_is_done_by_the_next_owner(system: System) -> None:
    system.outbox.settle_hangs = True
    with system.running():
        system.outbox.append("a")
        wait_for(system.published, "the event to be published")
        system.outbox.is_silent = True
        system.wait_until_left()
        system.outbox.is_silent = False
        system.wait_until_published()  # the committed offset names the row
        system.outbox.append("b")
        system.wait_until_published()
        system.outbox.release.set()
        wait_for(system.outbox.late.is_set, "the late settle")
        system.outbox.append("c")
        system.wait_until_published()
    assert system.published() == ["a-1", "b-1", "c-1"]


def test_relay_leaves_once_while_the_database_comes_and_goes(system: System, caplog: pytest.LogCaptureFixture) -> None:
    with system.running():
        system.outbox.is_silent = True
        system.wait_until_left()
        system.outbox.is_silent = False
        wait_for(lambda: system.lanes.owned, "lanes to come back")
        system.outbox.is_silent = True
        wait_for(lambda: system.relay._outage.seconds > 3 * LEAVE_SECONDS, "a second outage")
        assert system.lanes.owned
        system.outbox.is_silent = False
    assert sum(record.getMessage().startswith("group_left") for record in caplog.records) == 1


def test_stop_abandons_a_settle_that_hangs(
    system: System, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kafka, "DRAIN_SECONDS", 0.1)
    system.outbox.settle_hangs = True
    with system.running():
        system.outbox.append("a")
        wait_for(system.published, "the event to be published")
    assert system.outbox.rows
    assert not system.broker._members
    assert [record.getMessage() for record in caplog.records] == ["batch_abandoned group=relays"]
    next_relay = KafkaRelay(
        system.outbox, system.broker.lanes(), system.broker.publisher(), backoff=Backoff(0.01, 0.02)
    )
    stop = threading.Event()
    ended = start_in_thread(lambda: next_relay.run(stop), "relay")
    system.wait_until_published()
    stop.set()
    ended.result(30)
    assert system.published() == ["a-1"]


def test_slow_settle_aborts_the_next_transaction_before_its_time_is_over(
    system: System, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction is not left to Kafka's time limit, and no offset is in doubt."""
    monkeypatch.setattr(MemoryPublisher, "wait_seconds", 0.05)
    system.outbox.settle_hangs = True
    with system.running():
        system.outbox.append("a")
        wait_for(system.published, "the first batch")
        system.outbox.append("b")
        wait_for(lambda: "batch_undone" in caplog.text, "the second transaction to be aborted")
        system.outbox.release.set()
        system.wait_until_published()
    assert system.published() == ["a-1", "b-1"]
    assert {one.state for one in system.broker.transactions} == {"committed", "aborted"}
    assert "still in the outbox" in caplog.text
