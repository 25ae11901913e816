"""A lock between processes; the kernel releases it when its holder dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compose.native.output import say


@contextmanager
def hold(path: Path, name: str, waiting_for: str) -> Iterator[None]:
    """Hold the lock file `path`. If another process has it, say that `name` waits for `waiting_for`, and wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(name, f"waiting for {waiting_for} to end ({path})")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
