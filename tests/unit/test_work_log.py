"""The line per minute of work: events, rate and lag; nothing when idle."""

import logging

import pytest

from operations.monitoring.work_log import WorkLog
from tests.support.consumer_loop import Clock

pytestmark = pytest.mark.unit


def test_minute_of_work_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    log = WorkLog("applied", lambda: "pending=7", clock)
    for _ in range(7):
        log.count(10)
        clock.pass_time(10.0)
    clock.pass_time(3600.0)
    assert caplog.messages == ["applied events=70 rate=1.2/s pending=7"]
    log.count(1)
    assert len(caplog.messages) == 1, "a new minute begins with the first event after the idle hour"
