"""Wait for a condition with a deadline: the one place where a test sleeps."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_PAUSE_SECONDS = (0.01, 0.5)
_PAUSES_A_LOOK = 20  # what costs much to look at shall not take the machine from what is awaited


def wait_for(look: Callable[[], T], what: str, *, timeout_seconds: float = 60.0) -> T:
    """What `look` returns once that is true; an AssertionError that says `what` was awaited when the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        began = time.monotonic()
        if seen := look():
            return seen
        ended = time.monotonic()
        assert ended < deadline, f"waited {timeout_seconds:g} seconds for {what}"
        shortest, longest = _PAUSE_SECONDS
        time.sleep(min(max(shortest, _PAUSES_A_LOOK * (ended - began)), longest))
