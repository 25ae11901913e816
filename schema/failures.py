"""How a failure is told apart: to be retried, or to become a dead letter with its reason.

Invariant 11: nothing is swallowed.
"""

from dataclasses import dataclass

from schema.events import Envelope


class Retryable(Exception):
    """Raised when the same call may succeed later: a store is down, slow, full or busy."""


class Permanent(Exception):
    """Raised when the same call can never succeed: the event is at fault."""


@dataclass(frozen=True)
class DeadLetter:
    """An event that a stage (the relay, or a sink) gave up, and why."""

    stage: str
    envelope: Envelope
    reason: str
