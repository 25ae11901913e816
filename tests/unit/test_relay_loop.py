"""The loop of the relay to Kafka, on an outbox and a Kafka in memory, in one thread."""

import threading
from collections.abc import Sequence

import pytest

from relays import claim
from relays.ports import OutboxRow, Published, Refused
from schema.failures import DeadLetter, Retryable
from tests.support.memory_kafka import Fault
from tests.support.memory_outbox import MemoryOutbox
from tests.support.memory_relays import StopWhen, System

pytestmark = pytest.mark.unit


class Crash(Exception):
    """The process dies here."""


@pytest.fixture
def system() -> System:
    return System()


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of at most 160 rows, each claimed ahead."""
    monkeypatch.setattr(claim, "_BACKLOG_ROWS", 16)
    monkeypatch.setattr(claim, "_ROWS_PER_LANE", 10)


def test_claimed_rows_are_published_settled_and_reported(system: System) -> None:
    written = system.append(20, versions=3)
    system.relay_until_empty()
    system.assert_published_once_and_in_order(written)
    assert system.batches == [60]
    assert system.outbox.rows == {}


def test_backlog_is_claimed_ahead_without_repeats(system: System, small_batches: None) -> None:
    written = system.append(30, versions=20)
    system.relay_until_empty()
    system.assert_published_once_and_in_order(written)
    assert len(system.batches) > 3


def test_crash_between_commit_and_settle_repeats_nothing(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    written = system.append(20)

    def crash(*_: object) -> None:
        raise Crash

    relay = system.relay()
    with monkeypatch.context() as patch:
        patch.setattr(relay, "settle", crash)
        with pytest.raises(Crash):
            system.relay_until_empty(relay)
    assert len(system.outbox.rows) == 20
    written += [("d0", 2)]
    system.outbox.append("d0", 2)

    system.relay_until_empty()
    system.assert_published_once_and_in_order(written)


def test_fenced_batch_is_dropped_and_claimed_again(system: System, caplog: pytest.LogCaptureFixture) -> None:
    written = system.append(20)
    system.broker.before_commit.append(lambda: system.broker.expire("member-1"))
    system.relay_until_empty()
    system.assert_published_once_and_in_order(written)
    assert [record.getMessage().split()[0] for record in caplog.records] == ["batch_fenced"]
    assert len(system.broker.transactions) == 2


def test_twin_that_took_over_publishes_and_the_first_relay_nothing(system: System) -> None:
    written = system.append(20)

    def stand_still() -> None:
        system.broker.expire("member-1")
        system.relay_until_empty()

    system.broker.before_commit.append(stand_still)
    system.relay_until_empty()
    system.assert_published_once_and_in_order(written)
    assert [transaction.state for transaction in system.broker.transactions] == ["aborted", "committed"]


def test_twin_that_joins_gets_half_of_the_lanes(system: System) -> None:
    written = system.append(50)
    twin = system.broker.lanes()
    system.broker.before_commit.append(twin.join)
    relay = system.relay()
    relay.run(StopWhen(lambda: len(system.outbox.rows) < 50))
    assert {row.lane for row in system.outbox.rows.values()} & relay._lanes.owned == set()
    assert system.outbox.rows

    twin.close()
    system.relay_until_empty()
    system.assert_published_once_and_in_order(written)


def test_rows_claimed_ahead_of_lost_lanes_are_not_sent(
    system: System, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = system.append(30, versions=20)
    relay, twin = system.relay(), system.broker.lanes()
    real = relay._publisher.send

    def send(rows: Sequence[OutboxRow]) -> object:
        assert {row.lane for row in rows} <= relay._lanes.owned
        return real(rows)

    def join_after_the_first_batch() -> bool:
        if system.batches and not twin.member_id:
            twin.join()
        return len(system.batches) >= 3

    monkeypatch.setattr(relay._publisher, "send", send)
    relay.run(StopWhen(join_after_the_first_batch))
    twin.close()
    system.relay_until_empty()
    system.assert_published_once_and_in_order(written)


def test_rows_claimed_ahead_are_dropped_when_a_lane_came_back(system: System, small_batches: None) -> None:
    written = system.append(30, versions=20)
    relay = system.relay()

    def lose_lanes_and_get_them_back() -> bool:
        if len(system.batches) == 1:
            twin = system.relay()
            twin.join(threading.Event())
            relay._lanes.poll(0)
            twin.take_over()
            rows = twin.claim()
            assert rows
            outcome = twin.publish(rows)
            twin.settle(rows, outcome)
            twin.report(rows, outcome)
            twin.close()
            relay._lanes.poll(0)
        return not system.outbox.rows

    relay.run(StopWhen(lose_lanes_and_get_them_back))
    system.assert_published_once_and_in_order(written)


def test_refused_events_are_bisected_into_dead_letters(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "_BACKLOG_ROWS", 5)
    written = system.append(10, versions=4)
    refused = [("d3", 2), ("d7", 1)]
    system.broker.refuses = lambda row: (row.envelope.doc_id, row.envelope.version) in refused
    system.relay_until_empty()
    system.assert_published_once_and_in_order([one for one in written if one not in refused])
    assert {(dead.envelope.doc_id, dead.envelope.version) for dead in system.outbox.dead.values()} == set(refused)
    assert {(dead.stage, dead.reason) for dead in system.outbox.dead.values()} == {
        ("relay", "event d3-2 is refused"),
        ("relay", "event d7-1 is refused"),
    }


def test_halves_of_a_refused_batch_are_dropped_when_fenced(system: System) -> None:
    written = system.append(8)
    system.broker.refuses = lambda row: row.envelope.doc_id == "d5"
    system.broker.before_commit += [lambda: None, lambda: system.broker.expire("member-1")]
    system.relay_until_empty()
    system.assert_published_once_and_in_order([one for one in written if one != ("d5", 1)])


@pytest.mark.parametrize(("fault", "transactions"), [(Fault.COMMITTED, 1), (Fault.ABORTED, 2)])
def test_unknown_outcome_rereads_the_committed_offsets(system: System, fault: Fault, transactions: int) -> None:
    written = system.append(20)
    system.broker.faults.append(fault)
    system.relay_until_empty()
    system.assert_published_once_and_in_order(written)
    assert len(system.broker.transactions) == transactions


@pytest.mark.parametrize("state", ["committed", "aborted"])
def test_open_transaction_delays_the_takeover_until_it_ends(system: System, state: str) -> None:
    written = system.append(20)
    system.broker.faults.append(Fault.OPEN)
    rounds = 0

    def end_at_round_10() -> bool:
        nonlocal rounds
        rounds += 1
        if rounds == 10:
            assert len(system.broker.transactions) == 1
            system.broker.end(system.broker.transactions[0], state)
        return not system.outbox.rows

    system.relay().run(StopWhen(end_at_round_10))
    system.assert_published_once_and_in_order(written)


def test_silent_broker_neither_loses_nor_reorders_events(system: System, small_batches: None) -> None:
    written = system.append(30, versions=20)
    rounds = 0

    def fall_silent() -> bool:
        nonlocal rounds
        rounds += 1
        system.broker.silent = rounds == 2  # the second batch is undone, and the third claimed
        return not system.outbox.rows

    system.relay().run(StopWhen(fall_silent))
    system.assert_published_once_and_in_order(written)


def test_database_calls_are_retried_with_backoff(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    written = system.append(20)
    failures = iter(range(3))

    def settle(rows: Sequence[OutboxRow], dead: Sequence[DeadLetter] = ()) -> None:
        if next(failures, None) is not None:
            raise Retryable("the database is away")
        MemoryOutbox.settle(system.outbox, rows, dead)

    monkeypatch.setattr(system.outbox, "settle", settle)
    stop = StopWhen(lambda: not system.outbox.rows)
    system.relay().run(stop)
    system.assert_published_once_and_in_order(written)
    assert stop.waits == [0.1, 0.2, 0.4]


def test_settle_of_one_batch_ends_before_the_next_commits(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    relay = system.relay()
    for part, name in ((relay._publisher, "send"), (relay._publisher, "commit"), (relay._settler, "finish")):
        note_calls(monkeypatch, part, name, steps)
    relay.join(threading.Event())
    relay.take_over()
    for version in (1, 2):
        row = system.outbox.append("d", version)
        relay.settle([row], relay.publish([row]))
    assert steps == ["send", "finish", "commit"] * 2
    relay.close()


def note_calls(monkeypatch: pytest.MonkeyPatch, part: object, name: str, steps: list[str]) -> None:
    real = getattr(part, name)

    def note(*arguments: object) -> object:
        steps.append(name)
        return real(*arguments)

    monkeypatch.setattr(part, name, note)


def test_membership_is_read_before_rows_are_sent(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    relay = system.relay()
    note_calls(monkeypatch, relay._lanes, "membership", steps)
    note_calls(monkeypatch, relay._publisher, "send", steps)
    system.append(1)
    system.relay_until_empty(relay)
    assert steps == ["membership", "send"]


def test_outcome_is_returned_and_lanes_advance(system: System) -> None:
    relay = system.relay()
    relay.join(threading.Event())
    relay.take_over()
    row: OutboxRow = system.outbox.append("d", 1)
    assert relay.claim() == [row]
    assert relay.publish([row]) == Published()
    assert relay._lanes.next_offsets({row.lane: ""})[0].offset == 2
    system.broker.refuses = lambda _: True
    assert relay.publish([row]) == Refused("event d-1 is refused", in_doubt=False)
    assert relay._lanes.owned
    relay.close()
