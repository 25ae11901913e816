"""Wait for a condition with a deadline: the one place where a test sleeps."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_PAUSE_SECONDS = (0.01, 0.5)
_PAUSE_PER_LOOK = 20  # a slow look must not take the CPU from the work that it waits for


def wait_for(look: Callable[[], T], what: str, *, timeout_seconds: float = 60.0) -> T:
    """Wait until `look` returns a true value, and return it. On timeout, an AssertionError names `what`."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        began = time.monotonic()
        if seen := look():
            return seen
        ended = time.monotonic()
        assert ended < deadline, f"waited {timeout_seconds:g} seconds for {what}"
        shortest, longest = _PAUSE_SECONDS
        time.sleep(min(max(shortest, _PAUSE_PER_LOOK * (ended - began)), longest))
