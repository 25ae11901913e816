"""Ctrl-C: the last message of a command says what it has done until then."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Interrupted(BaseException):
    """Raised by the first Ctrl-C. Not a KeyboardInterrupt, since typer ends the process on that one by itself."""

    def __init__(self) -> None:
        super().__init__("interrupted")
        self.done: Mapping[str, Any] = {}  # the facts that go into the JSON object
        self.summary = ""  # the same for a person


@contextmanager
def telling(facts: Callable[[], Mapping[str, Any]], summary: Callable[[], str]) -> Iterator[None]:
    """On Ctrl-C inside the context, add what was done so far. A batch that is just being committed may be missing."""
    try:
        yield
    except Interrupted as interrupted:
        interrupted.done, interrupted.summary = facts(), summary()
        raise
