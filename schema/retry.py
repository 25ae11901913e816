"""How long to wait before the next attempt. A policy only: it never sleeps."""

import random


def full_jitter(attempt: int, first_seconds: float = 0.1, most_seconds: float = 10.0) -> float:
    """Seconds before attempt `attempt` + 1: anything up to a limit that doubles with each attempt (from 1)."""
    return random.uniform(0.0, min(most_seconds, first_seconds * 2.0 ** min(attempt, 32)))
