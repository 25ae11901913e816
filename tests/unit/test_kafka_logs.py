"""librdkafka's messages go through Python's logging, and repeat at most once per minute."""

import logging

import pytest
from confluent_kafka import Consumer

from schema.kafka.clients import for_consumer
from schema.kafka.logs import NAME, Collapse, logger
from tests.support.consumer_loop import Clock
from tests.support.waiting import wait_for

pytestmark = pytest.mark.unit


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord(NAME, logging.ERROR, "", 0, message, (), None)


def test_repeated_message_passes_once_per_minute_with_its_count() -> None:
    clock = Clock()
    collapse = Collapse(clock)
    passed = []
    for number in range(241):
        one = record(f"broker/1: Connect to 127.0.0.1:9092 failed (after {number}ms)")
        if collapse.filter(one):
            passed.append(one.getMessage().partition("(and")[2])
        clock.pass_time(0.5)
    assert passed == ["", " 119 more)", " 119 more)"]


def test_other_messages_pass_at_once() -> None:
    collapse = Collapse(Clock())
    assert [collapse.filter(record(text)) for text in ("connect failed", "fenced", "connect failed")] == [
        True,
        True,
        False,
    ]


def test_client_without_a_broker_writes_a_few_lines_to_the_log_only(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for one in logger().filters[:]:
        logger().removeFilter(one)  # what an earlier test logged would be remembered
    failures = 0

    def count(_error: object) -> None:
        nonlocal failures
        failures += 1

    consumer = Consumer(
        {**for_consumer({"bootstrap.servers": "127.0.0.1:1"}), "group.id": "g", "logger": logger(), "error_cb": count}
    )
    wait_for(lambda: consumer.poll(0.05) is None and failures > 10, "repeated failures")
    consumer.close()
    assert capfd.readouterr().err == ""
    lines = [one.getMessage() for one in caplog.records if one.name == NAME]
    assert 0 < len(lines) <= 3, lines
    assert "Connection refused" in lines[0]
