"""Transactional calls have a timeout, even if they never return."""

import threading

import pytest
from confluent_kafka import KafkaError, KafkaException

from relays.publisher import call_with_timeout

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
