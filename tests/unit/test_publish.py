"""Transactional calls have a timeout, even if they never return; only an event at fault is refused."""

import threading
from typing import cast

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from relays.ports import Refused, Undone
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
