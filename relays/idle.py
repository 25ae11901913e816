"""How long a relay waits while its outbox is empty."""

_FIRST_SECONDS = 0.005
_MOST_SECONDS = 0.25


class IdlePause:
    """A pause that doubles from 5 to 250 ms while there is nothing to do."""

    def __init__(self) -> None:
        self._seconds = _FIRST_SECONDS

    def next_seconds(self) -> float:
        """Return the next pause; the one after it is twice as long."""
        seconds, self._seconds = self._seconds, min(2 * self._seconds, _MOST_SECONDS)
        return seconds

    def reset(self) -> None:
        self._seconds = _FIRST_SECONDS
