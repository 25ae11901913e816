"""A failure is either retried, or its event becomes a dead letter with the reason.

Invariant 11: nothing is swallowed.
"""

from collections import deque
from dataclasses import dataclass

from schema.events.events import Envelope


class Retryable(Exception):
    """Raised when the same call may succeed later: a store is down, slow, full or busy."""


class Permanent(Exception):
    """Raised when the same call can never succeed: the event is at fault."""


class StoreMissing(Exception):
    """Raised when the store of a sink is not there: the process stops, no event is at fault, and `init` creates it."""


@dataclass(frozen=True)
class DeadLetter:
    """An event that a stage (the relay, or a sink) refused, and why."""

    stage: str
    envelope: Envelope
    reason: str


class TooManyDeadLetters(Exception):
    """Raised when too many events are refused: the cause is hardly in them. Stop the process; the rest is kept."""


class DeadLetterLimit:
    """Counts the dead letters among the last events of one process."""

    AT_MOST = 100
    AMONG = 1_000  # events

    def __init__(self) -> None:
        self._recent: deque[bool] = deque(maxlen=self.AMONG)

    def count(self, events: int, dead: int) -> None:
        """Raises TooManyDeadLetters when more than AT_MOST of the last AMONG events are dead."""
        self._recent.extend([False] * (events - dead) + [True] * dead)
        if (found := sum(self._recent)) > self.AT_MOST:
            raise TooManyDeadLetters(f"{found} of the last {self.AMONG} events became dead letters; stopped")
