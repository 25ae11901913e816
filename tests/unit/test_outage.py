"""Outages: what is reported of them, and when a member leaves its group."""

import pytest
from sqlalchemy.exc import OperationalError

from schema.failures import DatabaseAway, Retryable
from schema.outage import DatabaseOutage, Outage
from tests.support.consumer_loop import Clock

pytestmark = pytest.mark.unit

SILENT = OperationalError("SELECT 1", {}, Exception(2013, "Lost connection (timed out)"))
DEADLOCK = OperationalError("SELECT 1", {}, Exception(1213, "Deadlock found"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_failure_is_reported_at_once_and_once_per_minute(clock: Clock) -> None:
    reported: list[tuple[object, float]] = []
    outage = Outage(lambda *what: reported.append(what), lambda seconds: reported.append(("over", seconds)), clock)
    outage.note_success()
    for second in range(130):
        clock.milliseconds = 1_000 * second
        outage.note_failure(f"failed at {second}")
    outage.note_success()
    outage.note_success()
    outage.note_failure("failed again")
    assert reported == [
        ("failed at 0", 0.0),
        ("failed at 60", 60.0),
        ("failed at 120", 120.0),
        ("over", 129.0),
        ("failed again", 0.0),
    ]


def test_outage_begins_with_the_attempt_that_failed(clock: Clock) -> None:
    outage = DatabaseOutage(60.0, clock)
    clock.pass_time(30.0)
    outage.note(SILENT, 0.0)
    assert (outage.seconds, outage.must_leave) == (30.0, False)
    clock.pass_time(30.0)
    assert outage.must_leave


@pytest.mark.parametrize("error", [DEADLOCK, Retryable("the store is away")])
def test_answer_of_the_database_ends_its_outage(clock: Clock, error: Exception) -> None:
    outage = DatabaseOutage(60.0, clock)
    outage.note(DatabaseAway("no answer"), 0.0)
    outage.note(error, 0.0)
    clock.pass_time(100.0)
    assert (outage.seconds, outage.must_leave) == (0.0, False)


def test_member_leaves_at_most_once_in_five_minutes(clock: Clock) -> None:
    outage = DatabaseOutage(60.0, clock)
    outage.note(SILENT, 0.0)
    clock.pass_time(60.0)
    assert outage.must_leave
    outage.note_leave()
    clock.pass_time(299.0)
    assert not outage.must_leave
    clock.pass_time(1.0)
    assert outage.must_leave
