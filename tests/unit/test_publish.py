"""Transactional calls have a timeout, even if they never return; only an event at fault is refused."""

import threading
from typing import cast

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from relays.ports import Published, Refused, Undone
from relays.publisher import KafkaPublisher, call_with_timeout
from schema.kafka.names import Names

pytestmark = pytest.mark.unit


def test_timeout_is_fatal_for_the_producer() -> None:
    never = threading.Event()
    with pytest.raises(KafkaException) as raised:
        call_with_timeout(never.wait, seconds=0.01)
    never.set()
    error: KafkaError = raised.value.args[0]
    assert (error.code(), error.fatal(), error.retriable()) == (KafkaError._TIMED_OUT, True, True)


def test_error_of_the_call_is_raised() -> None:
    def refused() -> None:
        raise KafkaException(KafkaError(KafkaError.INVALID_TXN_STATE))

    with pytest.raises(KafkaException) as raised:
        call_with_timeout(refused, seconds=10)
    assert raised.value.args[0].code() == KafkaError.INVALID_TXN_STATE
    call_with_timeout(lambda: None, seconds=10)


class Aborts:
    """A producer that aborts every transaction."""

    def abort_transaction(self, _seconds: float) -> None: ...


class Accepts(Aborts):
    """A producer whose every call succeeds, and takes `call_seconds` of the clock."""

    def __init__(self, call_seconds: float) -> None:
        self.now = 0.0
        self._call_seconds = call_seconds

    def begin_transaction(self) -> None: ...

    def poll(self, _seconds: float) -> None: ...

    def send_offsets_to_transaction(self, *_: object) -> None: ...

    def flush(self, _seconds: float) -> int:
        return 0

    def commit_transaction(self, _seconds: float) -> None:
        self.now += self._call_seconds


@pytest.mark.parametrize("commits", [True, False])
def test_slow_settle_within_a_transaction_leaves_the_batch_size(commits: bool) -> None:
    """The relay waits for the database between `send` and `commit`: that is not Kafka's fault."""
    producer = Accepts(call_seconds=0.0)
    publisher = KafkaPublisher(Names("rag", "system"), {}, lanes=1, clock=lambda: producer.now)
    most = publisher.batch_bytes
    for _ in range(10):
        publisher._producer = cast(Producer, producer)
        assert publisher.send([]) is None
        producer.now += 60.0
        if commits:
            assert publisher.commit([], "member") == Published()
        else:
            assert publisher.abort("late") == Undone("late", in_doubt=False)
    assert publisher.batch_bytes == most


def test_slow_commit_that_fails_halves_the_batch() -> None:
    class Fails(Accepts):
        def commit_transaction(self, seconds: float) -> None:
            super().commit_transaction(seconds)
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    producer = Fails(call_seconds=10.0)
    publisher = KafkaPublisher(Names("rag", "system"), {}, lanes=1, clock=lambda: producer.now)
    most = publisher.batch_bytes
    publisher._producer = cast(Producer, producer)
    assert publisher.send([]) is None
    assert isinstance(publisher.commit([], "member"), Undone)
    assert publisher.batch_bytes < most


def outcome_of(code: int) -> object:
    publisher = KafkaPublisher(Names("rag", "system"), {}, lanes=1)
    return publisher._abort(cast(Producer, Aborts()), KafkaError(code))


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.THROTTLING_QUOTA_EXCEEDED,
        KafkaError.POLICY_VIOLATION,
        KafkaError.INVALID_MSG,  # damaged on its way
    ],
)
def test_clock_right_quota_and_policy_refuse_no_event(code: int) -> None:
    assert isinstance(outcome_of(code), Undone)


@pytest.mark.parametrize("code", [KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD])
def test_event_at_fault_is_refused(code: int) -> None:
    assert isinstance(outcome_of(code), Refused)
