"""A time limit for all that happens on a connection."""

import socket
import threading
from contextlib import suppress
from typing import Self


class Deadline:
    """Cuts the connection when the time is over.

    A server that sends a byte now and then would pass every limit that counts from the last byte.
    """

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._lock = threading.Lock()
        self._watched: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def watch(self, connected: socket.socket) -> None:
        """Cut this connection at the end. Raises TimeoutError if that has come."""
        with self._lock:
            self._watched = connected
            if self.is_over:
                raise TimeoutError

    def release(self) -> None:
        with self._lock:
            self._watched = None

    def _cut(self) -> None:
        with self._lock:
            self.is_over = True
            if self._watched is not None:
                with suppress(OSError):
                    socket.socket.shutdown(self._watched, socket.SHUT_RDWR)  # not that of TLS, which would not be safe
