"""The port that every native server implements."""

from pathlib import Path
from typing import Protocol

from compose.native.process import Process


class Fetched(Protocol):
    """A program that is fetched once."""

    @property
    def name(self) -> str:
        """The name of the server, its record and its folder."""

    def fetch(self) -> None:
        """Fill the cache unless it is filled. Raises Unavailable."""


class Server(Fetched, Protocol):
    """One server program: `fetch` once, then `start`, `ready` and `stop` any number of times."""

    @property
    def version(self) -> str: ...

    @property
    def port_names(self) -> tuple[str, ...]:
        """The names of its ports; clients use the first."""

    @property
    def start_seconds(self) -> float:
        """The seconds within which it must be ready."""

    @property
    def log(self) -> Path:
        """The file with its output."""

    def start(self) -> Process:
        """Start it on the ports of its record, on the data of its last run."""

    def ready(self) -> str | None:
        """None if a real query succeeds, otherwise the reason; returns within a few seconds."""

    def stop(self, process: Process) -> bool:
        """Stop it. Returns False if it had to be killed."""

    def url(self) -> str:
        """Its URL, without credentials."""

    def environment(self) -> dict[str, str]:
        """The RAG_OUTBOX_… variables for its clients, credentials included."""
