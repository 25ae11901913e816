"""The limit of dead letters counts those of the other processes, for as long as the database does."""

import pytest

from schema.failures import DeadLetterLimit, TooManyDeadLetters

pytestmark = pytest.mark.unit

HOUR = DeadLetterLimit.WITHIN_SECONDS


class Stage:
    """A limit with a clock, and the number that the database has of the last hour."""

    def __init__(self) -> None:
        self.now, self.stored = 0.0, 0
        self.limit = DeadLetterLimit(lambda: self.stored, clock=lambda: self.now)

    def refuse(self, events: int) -> None:
        self.limit.note(events, events)


def test_old_letters_of_this_process_hide_none_of_the_others() -> None:
    stage = Stage()
    stage.refuse(60)
    stage.now, stage.stored = 2.0 * HOUR, 90  # all of the others
    assert stage.limit.count_room() == 0
    with pytest.raises(TooManyDeadLetters, match=r"^150 of the last 1000 events"):
        stage.limit.check()


def test_recent_letters_of_this_process_count_once() -> None:
    stage = Stage()
    stage.refuse(20)
    stage.now = HOUR - 1.0
    stage.refuse(30)
    stage.stored = 50
    assert stage.limit.count_room() == 50
    stage.now, stage.stored = HOUR, 30  # the first 20 left the hour
    assert stage.limit.count_room() == 50


def test_closed_letters_of_this_process_never_count_below_zero() -> None:
    stage = Stage()
    stage.refuse(40)
    stage.stored = 10  # a person closed 30
    assert stage.limit.count_room() == 60
