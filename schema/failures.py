"""A failure is either retried, or its event becomes a dead letter with the reason.

Invariant 11: nothing is swallowed.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from schema.events.events import Envelope


class Retryable(Exception):
    """Raised when the same call may succeed later: a store is down, slow, full or busy."""


class DatabaseAway(Retryable):
    """Raised when the metadata database cannot be reached: another process may still reach it."""


class ModelAway(Retryable):
    """Raised when the embedding model that a sink needs cannot work now: no document is at fault."""


class Permanent(Exception):
    """Raised when the same call can never succeed: the event is at fault."""


class SourceGone(Permanent):
    """Raised when an object that the event names is gone. If the document has a newer version, skip the event."""


class DocumentLost(Permanent):
    """Raised when a sink lost what an event builds on: the document becomes absent there, and a refill brings it."""


class StoreMissing(Exception):
    """Raised when the store of a sink is not there: the process stops, no event is at fault, and `init` creates it."""


@dataclass(frozen=True)
class DeadLetter:
    """An event that a stage (the relay, or a sink) refused, and why."""

    stage: str
    envelope: Envelope
    reason: str


class SomeFail(Retryable):
    """Raised when a sink fails on some documents and took all others: apply the events of these again.

    `dead`: events of other documents that the sink refuses for good.
    """

    def __init__(self, reason: str, doc_ids: Collection[str], dead: Sequence[DeadLetter]) -> None:
        super().__init__(reason)
        self.doc_ids = frozenset(doc_ids)
        self.dead = dead


class TooManyDeadLetters(Exception):
    """Raised when too many events are refused: the cause is hardly in them. Stop the process; the rest is kept."""


class DeadLetterLimit:
    """Limits the dead letters among the last events of a stage, in all its processes and starts.

    `count_stored` returns how many open dead letters all processes of the stage have stored in the last
    WITHIN_SECONDS; it is called only when an event is about to become one. While this process has seen fewer than AMONG
    events, the dead letters of the others count as the events before: a restart does not begin at 0, and a long run of
    good events outweighs them.

    Of what is stored, those of the others are all but as many as this process stored in that time. One of its own that
    a person has closed since is not in `count_stored`: then one letter of the others is missed, for at most that time.
    """

    AT_MOST = 100
    AMONG = 1_000  # events
    WITHIN_SECONDS = 3_600

    def __init__(self, count_stored: Callable[[], int], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._count_stored = count_stored
        self._clock = clock
        self._recent: deque[bool] = deque(maxlen=self.AMONG)
        self._own: deque[tuple[float, int]] = deque()  # when this process stored how many

    def count_room(self) -> int:
        """How many more dead letters may be stored."""
        return max(0, self.AT_MOST - self._count())

    def check(self) -> None:
        """Raises TooManyDeadLetters when AT_MOST are stored already."""
        found = self._count()
        if found >= self.AT_MOST:
            raise TooManyDeadLetters(f"{found} of the last {self.AMONG} events became dead letters; stopped")

    def note(self, events: int, dead: int) -> None:
        """Count events that are done with; the dead letters among them are stored."""
        self._recent.extend([False] * min(events - dead, self.AMONG) + [True] * min(dead, self.AMONG))
        if dead:
            self._drop_old()
            self._own.append((self._clock(), dead))

    def _count(self) -> int:
        self._drop_old()
        others = max(0, self._count_stored() - sum(dead for _, dead in self._own))
        return sum(self._recent) + min(others, self.AMONG - len(self._recent))

    def _drop_old(self) -> None:
        since = self._clock() - self.WITHIN_SECONDS
        while self._own and self._own[0][0] <= since:
            self._own.popleft()
