"""How many bytes a batch may have, so that a slow Kafka takes it before its transaction times out.

A quota of the broker or a slow network must not make the same batch time out for ever.
"""

import logging

_log = logging.getLogger(__name__)

MOST_BYTES = 32 * 1024 * 1024
LEAST_BYTES = 64 * 1024
_TOO_LONG = 0.9  # of the transaction's time limit
_QUICK = 0.25
_QUICK_BATCHES = 5  # in a row, before the size is doubled


class BatchSize:
    """Halved after a batch that took too long, doubled after some quick ones."""

    def __init__(self) -> None:
        self.bytes = MOST_BYTES
        self._quick = 0

    def note_published(self, size_bytes: int, seconds: float, limit_seconds: float) -> None:
        """A batch is committed. A batch far below the limit says nothing about a larger one."""
        is_quick = seconds < _QUICK * limit_seconds and 2 * size_bytes >= self.bytes
        self._quick = self._quick + 1 if is_quick else 0
        if self._quick >= _QUICK_BATCHES and self.bytes < MOST_BYTES:
            self.bytes, self._quick = min(2 * self.bytes, MOST_BYTES), 0

    def note_failed(self, size_bytes: int, seconds: float, limit_seconds: float) -> None:
        """A batch is not committed, for any reason."""
        self._quick = 0
        if seconds >= _TOO_LONG * limit_seconds and self.bytes > LEAST_BYTES:
            self.bytes = max(LEAST_BYTES, min(size_bytes, self.bytes) // 2)
            _log.warning("batch_too_slow bytes=%d seconds=%.1f next_bytes=%d", size_bytes, seconds, self.bytes)
