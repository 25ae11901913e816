"""What librdkafka says, through Python's logging: a client without a broker repeats itself several times per second."""

import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError

NAME = "librdkafka"
_REPEAT_SECONDS = 60.0
_KINDS = 1_000  # of messages that are remembered
_DETAIL = re.compile(r"0x[0-9a-fA-F]+|\d+")


class Collapse(logging.Filter):
    """Lets a message pass once per minute, with the number of those like it that did not.

    Messages that differ only in numbers are alike. `clock` returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, int]] = {}  # kind of message → when it passed, how many came since

    def filter(self, record: logging.LogRecord) -> bool:
        kind, now = _DETAIL.sub("#", record.getMessage()), self._clock()
        with self._lock:
            passed_at, repeated = self._seen.get(kind, (None, 0))
            if passed_at is not None and now - passed_at < _REPEAT_SECONDS:
                self._seen[kind] = (passed_at, repeated + 1)
                return False
            if len(self._seen) >= _KINDS:
                self._seen.clear()
            self._seen[kind] = (now, 0)
        if repeated:
            record.msg, record.args = f"{record.getMessage()} (and {repeated} more)", ()
        return True


def logger() -> logging.Logger:
    """The logger of all clients."""
    found = logging.getLogger(NAME)
    if not any(isinstance(one, Collapse) for one in found.filters):
        found.addFilter(Collapse())
    return found


def for_polled() -> dict[str, Any]:
    """Properties of a client that is polled all the time: its messages wait for the next poll."""
    return {"logger": logger(), "error_cb": _log_error}


def for_rarely_polled() -> dict[str, Any]:
    """Properties of a client that is polled now and then: its messages would fill the memory. Its errors are raised."""
    return {"log_level": 0}


def _log_error(error: KafkaError) -> None:
    logger().warning("kafka_client_error code=%s reason=%s", error.name(), error.str())
