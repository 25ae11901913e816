"""The retry policy: how long it waits, when it gives up, and what it reports."""

import threading

import pytest

from schema.failures import Permanent, Retryable
from schema.retry import Backoff, call_with_retry

pytestmark = pytest.mark.unit

NO_WAIT = Backoff(first_seconds=0.0)


class Work:
    """Raises the given errors, one per call, then returns "done"."""

    def __init__(self, *errors: Exception) -> None:
        self.calls = 0
        self._errors = errors

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= len(self._errors):
            raise self._errors[self.calls - 1]
        return "done"


@pytest.mark.parametrize(
    ("attempt", "longest"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 5.0), (6, 5.0), (100_000, 5.0)]
)
def test_wait_lies_between_zero_and_a_doubling_bound(attempt: int, longest: float) -> None:
    assert Backoff(0.5, 5.0, lambda low, _high: low).seconds(attempt) == 0.0
    assert Backoff(0.5, 5.0, lambda _low, high: high).seconds(attempt) == longest


def test_result_is_returned_after_transient_errors() -> None:
    work = Work(Retryable("one"), Retryable("two"))
    assert call_with_retry(work, backoff=NO_WAIT) == "done"
    assert work.calls == 3


def test_error_that_is_not_transient_is_raised_at_once() -> None:
    work = Work(Permanent("bad event"))
    with pytest.raises(Permanent, match=r"^bad event$"):
        call_with_retry(work, backoff=NO_WAIT)
    assert work.calls == 1


def test_last_error_is_raised_after_the_given_attempts() -> None:
    work = Work(*(Retryable(f"number {number}") for number in range(1, 6)))
    with pytest.raises(Retryable, match=r"^number 3$"):
        call_with_retry(work, backoff=NO_WAIT, attempts=3)
    assert work.calls == 3


def test_error_is_raised_once_the_seconds_are_over() -> None:
    work = Work(Retryable("down"))
    with pytest.raises(Retryable, match=r"^down$"):
        call_with_retry(work, backoff=NO_WAIT, attempts=100, seconds=0.0)
    assert work.calls == 1


def test_error_is_raised_once_stop_is_set() -> None:
    stop = threading.Event()

    def work() -> None:
        stop.set()
        raise Retryable("down")

    with pytest.raises(Retryable, match=r"^down$"):
        call_with_retry(work, backoff=NO_WAIT, stop=stop)


def test_stop_ends_a_wait_in_progress() -> None:
    stop = threading.Event()
    work = Work(Retryable("one"), Retryable("two"))
    an_hour = Backoff(3_600.0, 3_600.0)

    with pytest.raises(Retryable, match=r"^two$"):
        call_with_retry(work, backoff=an_hour, stop=stop, report=lambda _error, _seconds: stop.set())
    assert work.calls == 2


def test_report_gets_each_error_that_is_retried() -> None:
    errors = [Retryable("one"), Retryable("two"), Retryable("three")]
    reported: list[tuple[BaseException, float]] = []
    with pytest.raises(Retryable, match=r"^three$"):
        call_with_retry(
            Work(*errors),
            backoff=NO_WAIT,
            attempts=3,
            report=lambda error, seconds: reported.append((error, seconds)),
        )
    assert reported == [(errors[0], 0.0), (errors[1], 0.0)]


def test_given_clock_counts_the_seconds() -> None:
    now = iter(range(0, 100, 10))
    work = Work(*(Retryable("down") for _ in range(10)))
    with pytest.raises(Retryable):
        call_with_retry(work, backoff=NO_WAIT, seconds=30.0, clock=lambda: next(now))
    assert work.calls == 3  # after 10, 20 and 30 seconds
