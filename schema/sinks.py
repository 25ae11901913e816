"""The sinks: stores that consumers keep up to date. A document is completed when each of them holds its version."""

from collections.abc import Sequence
from typing import Protocol

from schema.events.events import Envelope
from schema.failures import DeadLetter

MILVUS = "milvus"
MINIO = "minio"
SINKS = (MILVUS, MINIO)


class Applier(Protocol):
    """Keeps one sink up to date and marks what it applied; relays and consumer loops call it."""

    @property
    def name(self) -> str:
        """The sink's name."""

    def apply(self, envelopes: Sequence[Envelope], /) -> list[DeadLetter]:
        """Apply events in order; returns those that the sink refuses for good.

        On return the sink holds, and the marks show, everything but the dead letters. Raises Retryable: call it again
        with all of the events.
        """
