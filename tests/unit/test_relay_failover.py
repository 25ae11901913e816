"""The loop of the relay to Kafka after a failover, and lanes that cannot be taken over yet; all in memory."""

import threading
from collections.abc import Sequence

import pytest

from relays.ports import LaneOffset, OutboxRow
from schema.failures import DeadLetter, Retryable
from tests.support.memory_kafka import Transaction
from tests.support.memory_outbox import MemoryOutbox
from tests.support.memory_relays import StopWhen, System

pytestmark = pytest.mark.unit


@pytest.fixture
def system() -> System:
    return System()


def test_row_with_a_reused_id_is_published_after_a_takeover(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    row = system.outbox.append("d", 1)
    relay = system.relay()
    monkeypatch.setattr(relay, "settle", lambda *_: relay._stop.set())
    relay.run(threading.Event())

    restored = MemoryOutbox()
    assert restored.append("d", 2).id == row.id
    system.outbox = restored
    system.relay_until_empty()
    system.assert_published_once_and_in_order([("d", 1), ("d", 2)])


def test_reused_id_is_claimed_at_once_after_everything_was_settled(system: System) -> None:
    relay = system.relay()
    lost = system.append(20)
    rounds = 0

    def fail_over_when_settled() -> bool:
        nonlocal rounds
        rounds += 1
        assert rounds < 20
        if rounds == 5:
            assert not system.outbox.rows
            system.outbox.fail_over()
            system.outbox.append("new", 1)
        return rounds > 5 and not system.outbox.rows

    relay.run(StopWhen(fail_over_when_settled))
    system.assert_published_once_and_in_order([*lost, ("new", 1)])


def test_failover_before_the_settle_keeps_rows_with_reused_ids(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = system.append(20)
    failures = iter(range(1))

    def settle(rows: Sequence[OutboxRow], dead: Sequence[DeadLetter] = ()) -> None:
        if next(failures, None) is not None:
            system.outbox.fail_over()
            system.outbox.append("new", 1)
            raise Retryable("the primary is gone")
        MemoryOutbox.settle(system.outbox, rows, dead)

    monkeypatch.setattr(system.outbox, "settle", settle)
    system.relay_until_empty()
    system.assert_published_once_and_in_order([*lost, ("new", 1)])


def test_lane_that_cannot_be_taken_over_delays_no_other(system: System) -> None:
    written = system.append(50)
    stuck = next(iter(system.outbox.rows.values()))
    transaction = Transaction(offsets=[LaneOffset(stuck.lane, 1, "")])
    system.broker.transactions.append(transaction)
    system.relay().run(StopWhen(lambda: all(row.lane == stuck.lane for row in system.outbox.rows.values())))
    assert system.outbox.rows
    system.broker.end(transaction, "aborted")
    system.relay_until_empty()
    system.assert_published_once_and_in_order(written)


def test_reused_id_in_flight_is_not_overtaken_by_a_later_version(system: System) -> None:
    relay = system.relay()
    relay.join(threading.Event())
    relay.take_over()
    system.outbox.append("d", 1)
    system.outbox.append("d", 2)
    in_flight = relay.claim()
    system.outbox.fail_over()
    for version in (1, 2, 3):
        system.outbox.append("d", version)
    assert relay._claimer.claim(in_flight) == [], "the rows with the ids in flight are others"
    assert [row.envelope.version for row in relay._claimer.claim([])] == [1, 2, 3]
