"""A call of a Kafka transaction is waited for only so long."""

import threading

import pytest
from confluent_kafka import KafkaError, KafkaException

from relays.publisher import answered

pytestmark = pytest.mark.unit


def test_a_call_that_never_returns_is_given_up_with_its_producer() -> None:
    never = threading.Event()
    with pytest.raises(KafkaException) as raised:
        answered(never.wait, seconds=0.01)
    never.set()
    error: KafkaError = raised.value.args[0]
    assert (error.code(), error.fatal(), error.retriable()) == (KafkaError._TIMED_OUT, True, True)


def test_what_a_call_raises_is_raised() -> None:
    def refused() -> None:
        raise KafkaException(KafkaError(KafkaError.INVALID_TXN_STATE))

    with pytest.raises(KafkaException) as raised:
        answered(refused)
    assert raised.value.args[0].code() == KafkaError.INVALID_TXN_STATE
    answered(lambda: None)
