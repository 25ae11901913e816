"""The refill of a consumer loop: one round at a time, next to the batches, with its own backoff."""

from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any, Protocol

from consumers.background import Background
from consumers.outages import Outages
from schema.failures import Retryable
from schema.retry import Backoff


class Refill(Protocol):
    """Brings back documents that are absent from one sink, a bounded round at a time."""

    def is_due(self) -> bool:
        """Whether the next round may start."""

    def mark_written(self) -> None:
        """Mark what a round wrote before it failed. Raises Retryable: call again later."""

    def run_round(self, lanes: Collection[int] | None = None, /) -> int:
        """Refill documents of `lanes` (None: of all). Returns how many. Raises Retryable: call again later."""


class NoRefill:
    """The refill of a consumer that has none."""

    def is_due(self) -> bool:
        return False

    def mark_written(self) -> None:
        pass

    def run_round(self, _lanes: Collection[int] | None = None, /) -> int:
        return 0


class RefillRounds:
    """Runs the rounds of `refill` in the background. `clock` returns seconds."""

    def __init__(
        self, refill: Refill, background: Background, outages: Outages, backoff: Backoff, clock: Callable[[], float]
    ) -> None:
        self.running: Future[Any] | None = None
        self._refill = refill
        self._background = background
        self._outages = outages
        self._backoff = backoff
        self._clock = clock
        self._failures = 0
        self._next_at = 0.0

    def run(self, lanes: Collection[int]) -> bool:
        """Run a round if it is due. Returns whether one ended.

        Without lanes it only marks: what a failed round wrote must be marked, also when others own its lanes now.
        """
        if self._clock() < self._next_at or (lanes and not self._refill.is_due()):
            return False
        began = self._clock()
        if lanes:
            self.running = self._background.start(self._refill.run_round, lanes)
        else:
            self.running = self._background.start(self._refill.mark_written)
        if not self._background.wait(self.running):
            return False
        ended, self.running = self.running, None
        try:
            ended.result()
            self._failures = 0
            self._outages.note_success(self._outages.refill)
        except Retryable as error:
            self._failures += 1
            self._next_at = self._clock() + self._backoff.seconds(self._failures)
            self._outages.note_failure(self._outages.refill, error, began)
        return True
