"""Give changes to a sink, and find the ones at fault when it fails.

A change that the sink refuses is found by halving. After several failed attempts, so is one that makes the sink fail
while it takes other changes: a key that is forbidden, a row that the server cannot store. What decides is that others
succeeded, never the words of an error. While nothing succeeds the store is down, and an attempt makes a few calls only.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from consumers.sink import Change, Sink
from schema.failures import Permanent, Retryable

WHOLE_ATTEMPTS = 3  # of the whole batch, before changes are tried alone
_PROBES = 3  # changes that are tried alone, to see whether the store takes anything
_ATTEMPT_SECONDS = 60.0  # after which an attempt with failures begins no further call
REFUSED_ATTEMPTS = 10  # of a change alone, and ...
REFUSED_SECONDS = 60.0  # ... since the first of them, before it is refused: part of a cluster may be down for a moment

Key = tuple[str, int]  # doc_id and version


@dataclass
class Outcome:
    """What the sink did not take; it holds all other changes. `failing`: try them again."""

    refused: dict[Key, Permanent] = field(default_factory=dict)
    failing: dict[Key, Retryable] = field(default_factory=dict)


@dataclass
class _Suspect:
    """A change that failed alone while the sink took another one."""

    since: float
    attempts: int = 0


class Isolation:
    """One sink, as one applier uses it. `clock` returns seconds."""

    def __init__(self, sink: Sink, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sink = sink
        self._clock = clock
        self._suspects: dict[Key, _Suspect] = {}
        self._failed_attempts = 0  # in a row
        self._has_failed = False  # in this attempt
        self._has_succeeded = False
        self._deadline = 0.0

    def begin(self) -> None:
        """Begin an attempt: the next calls of `apply` belong to it."""
        self._failed_attempts = self._failed_attempts + 1 if self._has_failed else 0
        if not self._failed_attempts:
            self._suspects.clear()
        self._has_failed = self._has_succeeded = False
        self._deadline = self._clock() + _ATTEMPT_SECONDS

    def apply(self, changes: Sequence[Change]) -> Outcome:
        """Apply changes, at most one per document. Raises Retryable while the sink takes none of them."""
        outcome = Outcome()
        try:
            if self._failed_attempts >= WHOLE_ATTEMPTS and not self._has_succeeded:
                changes = self._probe(changes, outcome)
            self._apply_apart(changes, outcome)
        except Retryable:
            self._has_failed = True
            raise
        self._has_failed = self._has_failed or bool(outcome.failing)
        return outcome

    def _probe(self, changes: Sequence[Change], outcome: Outcome) -> list[Change]:
        """Try a few changes alone, other ones at each attempt, until the sink takes one. Returns those that are left.

        Raises the last Retryable if the sink takes none and refuses none.
        """
        first = self._failed_attempts % len(changes)
        left, failed = [*changes[first:], *changes[:first]], dict[Key, Retryable]()
        for _ in range(min(_PROBES, len(left))):
            change = left.pop(0)
            try:
                self._call([change])
                break
            except Permanent as error:  # no evidence: a sink may refuse without a request to its store
                outcome.refused[_key_of(change)] = error
            except Retryable as error:
                failed[_key_of(change)] = error
                if self._clock() >= self._deadline:
                    break
        if self._has_succeeded or not failed:
            self._note_failures(failed, outcome)
            return left
        self._note_failures({key: error for key, error in failed.items() if key in self._suspects}, outcome)
        last = [*failed.values()][-1]
        if not outcome.refused:
            raise last
        outcome.failing |= {key: error for key, error in failed.items() if key not in outcome.refused}
        outcome.failing |= {_key_of(change): last for change in left}
        return []

    def _apply_apart(self, changes: Sequence[Change], outcome: Outcome) -> None:
        """Suspects alone, all others together."""
        suspects = [change for change in changes if _key_of(change) in self._suspects]
        self._apply_halving([change for change in changes if _key_of(change) not in self._suspects], outcome)
        for change in suspects:
            self._apply_halving([change], outcome)

    def _apply_halving(self, changes: Sequence[Change], outcome: Outcome) -> None:
        """Halve what the sink does not take, until only the changes at fault are left."""
        if not changes:
            return
        if outcome.failing and self._clock() >= self._deadline:
            late = next(iter(outcome.failing.values()))
            outcome.failing |= {_key_of(change): late for change in changes}
            return
        try:
            self._call(changes)
        except (Permanent, Retryable) as error:
            if isinstance(error, Retryable) and not (self._has_succeeded and self._is_isolating):
                raise
            if len(changes) > 1:
                middle = len(changes) // 2
                self._apply_halving(changes[:middle], outcome)
                self._apply_halving(changes[middle:], outcome)
            elif isinstance(error, Permanent):
                outcome.refused[_key_of(changes[0])] = error
            else:
                self._note_failures({_key_of(changes[0]): error}, outcome)

    @property
    def _is_isolating(self) -> bool:
        return self._failed_attempts >= WHOLE_ATTEMPTS

    def _call(self, changes: Sequence[Change]) -> None:
        self._sink.apply(changes)
        self._has_succeeded = True
        for change in changes:
            self._suspects.pop(_key_of(change), None)

    def _note_failures(self, failed: Mapping[Key, Retryable], outcome: Outcome) -> None:
        """Count failures of changes that were tried alone; refuse what failed for too long."""
        now = self._clock()
        for key, error in failed.items():
            suspect = self._suspects.setdefault(key, _Suspect(now))
            suspect.attempts += 1
            if suspect.attempts >= REFUSED_ATTEMPTS and now - suspect.since >= REFUSED_SECONDS:
                del self._suspects[key]
                reason = f"failed {suspect.attempts} times while the sink took other documents: {error}"
                outcome.refused[key] = Permanent(reason)
            else:
                outcome.failing[key] = error


def _key_of(change: Change) -> Key:
    return change.doc_id, change.version
