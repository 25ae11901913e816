"""The one retry policy of every loop: which errors are worth another attempt, and how long to wait before it.

The waits have full jitter, so that processes that failed together do not retry together.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.exc import DBAPIError
from tenacity import RetryCallState, Retrying, retry_if_exception

from schema.database import connection
from schema.failures import DatabaseAway, Retryable

T = TypeVar("T")


@dataclass(frozen=True)
class Backoff:
    """Waits of up to `first_seconds`, doubled with each attempt, up to `most_seconds`.

    `uniform(low, high)` is the random source.
    """

    first_seconds: float = 0.1
    most_seconds: float = 10.0
    uniform: Callable[[float, float], float] = random.uniform

    def seconds(self, attempt: int) -> float:
        """The wait after failed attempt `attempt`, counted from 1."""
        return self.uniform(0.0, min(self.most_seconds, self.first_seconds * 2.0 ** min(attempt - 1, 32)))


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed later: a store that is down or busy, a deadlock, a lost connection."""
    return isinstance(error, Retryable) or connection.is_transient(error)


def is_database_away(error: BaseException) -> bool:
    """Whether the metadata database could not be reached, translated or not."""
    return isinstance(error, DatabaseAway) or connection.is_away(error)


@contextmanager
def translate_transient() -> Iterator[None]:
    """Raise a transient error of the metadata database as Retryable, without the statement in its message.

    Raises DatabaseAway when the server cannot be reached.
    """
    try:
        yield
    except DBAPIError as error:
        if connection.is_transient(error):
            kind = DatabaseAway if connection.is_away(error) else Retryable
            raise kind(f"metadata database: {error.orig}") from error
        raise


def call_with_retry(
    work: Callable[[], T],
    *,
    retry_on: Callable[[BaseException], bool] = is_transient,
    backoff: Backoff = Backoff(),  # frozen
    attempts: int | None = None,
    seconds: float | None = None,
    stop: threading.Event | None = None,
    clock: Callable[[], float] = time.monotonic,
    report: Callable[[BaseException, float], None] = lambda _error, _seconds: None,
) -> T:
    """Return what `work` returns. Raises its last error after `attempts`, after `seconds`, or once `stop` is set.

    `report` is called before each further attempt, with the error and the seconds until that attempt. A simulation
    passes its own `clock`, and a `stop` that does the waiting.
    """

    def report_attempt(state: RetryCallState) -> None:
        error = None if state.outcome is None else state.outcome.exception()
        if error is not None and state.next_action is not None:
            report(error, state.next_action.sleep)

    def pause(seconds: float) -> None:
        if stop is None:
            time.sleep(seconds)
        else:
            stop.wait(seconds)

    def is_over(state: RetryCallState) -> bool:
        return (
            (stop is not None and stop.is_set())
            or (attempts is not None and state.attempt_number >= attempts)
            or (seconds is not None and clock() - started >= seconds)
        )

    started = clock()
    return Retrying(
        retry=retry_if_exception(retry_on),
        wait=lambda state: backoff.seconds(state.attempt_number),
        stop=is_over,
        sleep=pause,
        before_sleep=report_attempt,
        reraise=True,
    )(work)
