"""Give changes to a sink, and find the ones at fault when it fails.

A change that the sink refuses is found by halving. After several failed attempts, so is one that makes the sink fail
while it takes other changes: a key that is forbidden, a row that the server cannot store. What decides is that the sink
takes another change after the failure, never the words of an error: else the store is down, and an attempt makes a few
calls only. `failing` has what fails alone, for a report.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from consumers.failing_documents import FailingDocuments
from consumers.sink import Change, Sink
from schema.failures import ModelAway, Permanent, Retryable

_log = logging.getLogger(__name__)

WHOLE_ATTEMPTS = 3  # of the whole batch, before changes are tried alone
_CALLS = 3  # that may fail in a row, before it is asked whether the store is down
_ATTEMPT_SECONDS = 60.0  # after which an attempt with failures begins no further call
REFUSED_ATTEMPTS = 10  # of a change alone, and ...
REFUSED_SECONDS = 900.0  # ... since the first of them, before it is refused: a part of a store may be away for minutes

Key = tuple[str, int]  # doc_id and version


@dataclass
class Outcome:
    """What the sink did not take; it holds all other changes. `failing`: try them again."""

    refused: dict[Key, Permanent] = field(default_factory=dict)
    failing: dict[Key, Retryable] = field(default_factory=dict)


@dataclass
class _Failing:
    """A change that failed alone, and how often the sink took another one after that; seconds of the clock."""

    since: float
    last: float
    attempts: int = 0


class Isolation:
    """One sink, as one applier uses it. `clock` returns seconds."""

    def __init__(self, sink: Sink, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sink = sink
        self._clock = clock
        self.failing = FailingDocuments(clock)
        self._failing: dict[Key, _Failing] = {}  # always tried alone
        self._failed_attempts = 0  # in a row
        self._has_failed = False  # in this attempt
        self._has_succeeded = False
        self._deadline = 0.0

    def begin(self) -> None:
        """Begin an attempt: the next calls of `apply` belong to it."""
        now = self._clock()
        self._failed_attempts = self._failed_attempts + 1 if self._has_failed else 0
        self._failing = {key: one for key, one in self._failing.items() if now - one.last < REFUSED_SECONDS}
        self._has_failed = self._has_succeeded = False
        self._deadline = now + _ATTEMPT_SECONDS

    def apply(self, changes: Sequence[Change]) -> Outcome:
        """Apply changes, at most one per document. Raises Retryable while the sink takes nothing in this attempt."""
        outcome = Outcome()
        self._taken: Change | None = None  # by this call, so it is not marked yet and may be applied again
        self._unproven: dict[Key, Retryable] = {}  # the sink took nothing after these failures
        self._failed_calls = 0  # in a row
        self._down: Retryable | None = None
        try:
            if self._is_isolating:
                changes = self._probe(changes, outcome)
            alone = [change for change in changes if _key_of(change) in self._failing]
            self._apply_halving([change for change in changes if _key_of(change) not in self._failing], outcome)
            for change in alone:
                self._apply_halving([change], outcome)
            if self._unproven:
                self._ask_whether_down([*self._unproven.values()][-1], outcome)
        except Retryable:
            self._has_failed = True
            raise
        outcome.failing |= self._unproven
        self._has_failed = self._has_failed or bool(outcome.failing)
        return outcome

    @property
    def _is_isolating(self) -> bool:
        return self._failed_attempts >= WHOLE_ATTEMPTS

    def _probe(self, changes: Sequence[Change], outcome: Outcome) -> list[Change]:
        """Try a few changes alone, other ones at each attempt, until the sink takes one. Returns those that are left.

        Raises the last Retryable if the sink took and refused nothing in this attempt.
        """
        first = self._failed_attempts % len(changes)
        left, failed = [*changes[first:], *changes[:first]], dict[Key, Retryable]()
        for _ in range(min(_CALLS, len(left))):
            change = left.pop(0)
            try:
                self._call([change], outcome)
                break
            except Permanent as error:  # no evidence: a sink may refuse without a request to its store
                outcome.refused[_key_of(change)] = error
            except Retryable as error:
                failed[_key_of(change)] = error
                if self._clock() >= self._deadline:
                    break
        if self._taken is not None:
            self._count(failed, outcome)
            return left
        if not failed:
            return left
        last = [*failed.values()][-1]
        if not (outcome.refused or self._has_succeeded):
            raise last
        outcome.failing |= failed | {_key_of(change): last for change in left}
        return []

    def _apply_halving(self, changes: Sequence[Change], outcome: Outcome) -> None:
        """Halve what the sink does not take, until only the changes at fault are left."""
        if not changes or self._give_up(changes, outcome):
            return
        try:
            self._call(changes, outcome)
        except (Permanent, Retryable) as error:
            if isinstance(error, Retryable):
                if not self._may_isolate(changes):
                    raise
                self._note_failure(changes, error, outcome)
            elif len(changes) == 1:
                outcome.refused[_key_of(changes[0])] = error
            if len(changes) > 1:
                middle = len(changes) // 2
                self._apply_halving(changes[:middle], outcome)
                self._apply_halving(changes[middle:], outcome)

    def _give_up(self, changes: Sequence[Change], outcome: Outcome) -> bool:
        """Leave changes to the next attempt if the store is down, or this attempt takes too long."""
        error = self._down
        if error is None and self._clock() >= self._deadline:
            error = next(iter((outcome.failing | self._unproven).values()), None)
        if error is None:
            return False
        outcome.failing |= {_key_of(change): error for change in changes}
        return True

    def _may_isolate(self, changes: Sequence[Change]) -> bool:
        is_known = all(_key_of(change) in self._failing for change in changes)
        return self._has_succeeded and (self._is_isolating or is_known)

    def _call(self, changes: Sequence[Change], outcome: Outcome) -> None:
        try:
            self._sink.apply(changes)
        except Retryable as error:
            if len(changes) == 1:
                self.failing.note_failure(changes[0].doc_id, error)
            raise
        except Permanent:
            if len(changes) == 1:
                self.failing.note_taken(changes[0].doc_id)
            raise
        self._has_succeeded = True
        self._failed_calls = 0
        self._taken = min(changes, key=lambda change: change.chunks)
        for change in changes:
            self._failing.pop(_key_of(change), None)
            self.failing.note_taken(change.doc_id)
        failed, self._unproven = self._unproven, {}
        self._count(failed, outcome)

    def _note_failure(self, changes: Sequence[Change], error: Retryable, outcome: Outcome) -> None:
        if len(changes) == 1:
            now, key = self._clock(), _key_of(changes[0])
            self._unproven[key] = error
            self._failing.setdefault(key, _Failing(now, now))
        self._failed_calls += 1
        if self._failed_calls >= _CALLS:
            self._failed_calls = 0
            self._ask_whether_down(error, outcome)

    def _ask_whether_down(self, error: Retryable, outcome: Outcome) -> None:
        """After this failure, give the sink a change again that it took in this call."""
        if self._taken is None:
            self._down = error
            return
        try:
            self._call([self._taken], outcome)
        except (Permanent, Retryable):
            self._down = error

    def _count(self, failed: dict[Key, Retryable], outcome: Outcome) -> None:
        """Count failures of changes alone after which the sink took another one; refuse what failed for too long.

        Another change may need no embedding: that the sink took it says nothing of a model that is away.
        """
        now = self._clock()
        for key, error in failed.items():
            if isinstance(error, ModelAway):
                outcome.failing[key] = error
                continue
            one = self._failing.setdefault(key, _Failing(now, now))
            if not one.attempts:
                one.since = now
                _log.warning("document_failing sink=%s doc_id=%s version=%d reason=%s", self._sink.name, *key, error)
            one.attempts, one.last = one.attempts + 1, now
            if one.attempts >= REFUSED_ATTEMPTS and now - one.since >= REFUSED_SECONDS:
                del self._failing[key]
                self.failing.note_taken(key[0])
                reason = f"failed {one.attempts} times while the sink took other documents: {error}"
                outcome.refused[key] = Permanent(reason)
            else:
                outcome.failing[key] = error


def _key_of(change: Change) -> Key:
    return change.doc_id, change.version
