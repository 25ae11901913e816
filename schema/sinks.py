"""The sinks: stores that consumers keep up to date. A document is completed when each of them holds its version."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from schema.events.events import Envelope
from schema.failures import DeadLetter

MILVUS = "milvus"
MINIO = "minio"
SINKS = (MILVUS, MINIO)


@dataclass(frozen=True, slots=True, order=True)
class RegisteredSink:
    """A row of the table `sinks`; `state` is "active", "joining" or "leaving"."""

    name: str
    required: bool
    takes_vectors: bool
    takes_files: bool
    state: str = "active"

    @property
    def is_gating(self) -> bool:
        """Whether a document is completed only when this sink holds its version."""
        return self.required and self.state == "active"


class Applier(Protocol):
    """Keeps one sink up to date and marks what it applied; relays and consumer loops call it."""

    @property
    def name(self) -> str:
        """The sink's name."""

    def apply(self, envelopes: Sequence[Envelope], /) -> list[DeadLetter]:
        """Apply events in order; returns those that the sink refuses for good.

        On return the sink holds, and the marks show, everything but the dead letters. Raises SomeFail: call it again
        with the events of its documents; of all others the same is true. Raises Retryable: call it again with all.
        """
