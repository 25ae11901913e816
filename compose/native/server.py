"""What every server here can do."""

from pathlib import Path
from typing import Protocol

from compose.native.process import Process


class Server(Protocol):
    """One server program: `fetch` once, then `start`, `ready` and `stop` as often as wanted."""

    @property
    def name(self) -> str:
        """Of the server, its record and its folder."""

    @property
    def version(self) -> str: ...

    @property
    def port_names(self) -> tuple[str, ...]:
        """What it listens on; the first is the one that clients use."""

    @property
    def start_seconds(self) -> float:
        """Within which it must be ready."""

    @property
    def log(self) -> Path:
        """What it prints."""

    def fetch(self) -> None:
        """Fill the cache if it is not filled; raises Unavailable when this machine cannot."""

    def start(self) -> Process:
        """Start it on the ports of its record, with its data where an earlier run left them."""

    def ready(self) -> str | None:
        """None once a real query succeeds, otherwise why not; returns within a few seconds."""

    def stop(self, process: Process) -> bool:
        """End it; False when it had to be killed."""

    def url(self) -> str:
        """Where it is, without credentials."""

    def environment(self) -> dict[str, str]:
        """The RAG_OUTBOX_… variables that lead to it, credentials included."""
