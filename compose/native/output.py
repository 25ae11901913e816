"""Progress for a person on stderr, results on stdout."""

import sys
import threading
import time

_began = time.monotonic()
_lock = threading.Lock()


def say(name: str, message: str) -> None:
    """Print one line of progress: seconds since the start, the server, and the message."""
    with _lock:
        sys.stderr.write(f"{time.monotonic() - _began:6.1f}s  {name:<14} {message}\n")
        sys.stderr.flush()


def result(text: str) -> None:
    """Print a result on stdout."""
    sys.stdout.write(text + "\n")
