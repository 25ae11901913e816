"""Outages of a dependency: what is logged of them, and when a member of a group must leave it because of one."""

import logging
import threading
import time
from collections.abc import Callable

from schema.retry import is_database_away

_REPEAT_SECONDS = 60.0
LEAVE_AFTER_SECONDS = 60.0
_STAY_SECONDS = 300.0  # after a member left: when the database is away for all, leaving helps nobody

_log = logging.getLogger(__name__)


class Outage:
    """Reports a failure at once, then once per minute, and its end. Any thread may note what happens.

    `failing` is called with the reason and the seconds since the first failure, `recovered` with these seconds.
    """

    def __init__(
        self,
        failing: Callable[[object, float], None],
        recovered: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failing = failing
        self._recovered = recovered
        self._clock = clock
        self._lock = threading.Lock()
        self._since: float | None = None
        self._repeat_at = 0.0

    @property
    def seconds(self) -> float:
        """Since the outage began; 0.0 when there is none."""
        since = self._since
        return 0.0 if since is None else max(self._clock() - since, 0.0)

    def note_failure(self, reason: object, *, since: float | None = None) -> None:
        """`since`: when the attempt began, by the clock of this outage."""
        now = self._clock()
        with self._lock:
            if self._since is None:
                self._since = now if since is None else since
                self._repeat_at = now
            if now < self._repeat_at:
                return
            self._repeat_at = now + _REPEAT_SECONDS
            seconds = now - self._since
        self._failing(reason, seconds)

    def note_success(self) -> None:
        with self._lock:
            since, self._since = self._since, None
        if since is not None:
            self._recovered(self._clock() - since)


def make_logged_outage(
    log: logging.Logger, failing: str, recovered: str, of: str, clock: Callable[[], float] = time.monotonic
) -> Outage:
    """An outage that `log` gets as the events `failing` and `recovered`; `of` is their first field: `sink=milvus`."""
    return Outage(
        lambda reason, seconds: log.warning("%s %s seconds=%.0f reason=%s", failing, of, seconds, reason),
        lambda seconds: log.warning("%s %s seconds=%.1f", recovered, of, seconds),
        clock,
    )


class DatabaseOutage(Outage):
    """The metadata database as one member of a group sees it."""

    def __init__(
        self, leave_after_seconds: float = LEAVE_AFTER_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(_log_failing, _log_recovered, clock)
        self._leave_after_seconds = leave_after_seconds
        self._stay_until = 0.0

    def note(self, error: BaseException, began: float) -> None:
        """Note the error of an attempt on the database that began at `began`."""
        if is_database_away(error):
            self.note_failure(getattr(error, "orig", None) or error, since=began)
        else:
            self.note_success()

    @property
    def must_leave(self) -> bool:
        """Whether others should take over what this member owns."""
        return self.seconds >= self._leave_after_seconds and self._clock() >= self._stay_until

    def note_leave(self) -> None:
        self._stay_until = self._clock() + _STAY_SECONDS


def _log_failing(reason: object, seconds: float) -> None:
    _log.warning("database_failing seconds=%.0f reason=%s", seconds, reason)


def _log_recovered(seconds: float) -> None:
    _log.warning("database_recovered seconds=%.1f", seconds)
