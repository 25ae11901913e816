"""Wait for a condition with a deadline: the one place where a test sleeps."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.01


def wait_for(look: Callable[[], T], what: str, *, timeout_seconds: float = 60.0) -> T:
    """What `look` returns once that is true; an AssertionError that says `what` was awaited when the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"waited {timeout_seconds:g} seconds for {what}"
        time.sleep(_POLL_SECONDS)
    return seen
