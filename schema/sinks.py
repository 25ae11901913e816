"""The sinks: stores that consumers keep up to date. A document is completed when each required one holds its version.

A sink is an instance of a kind. There may be several of the kind `milvus`: the first is called `milvus`, those that a
rebuild adds `milvus-2`, `milvus-3` … The one that is required *serves*: searches use it, and `chunks.milvus_synced` and
the tombstones of chunks are its marks. Of every other kind there is one, with the name of the kind.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from schema.events.events import Envelope
from schema.failures import DeadLetter

MILVUS = "milvus"
MINIO = "minio"
SINKS = (MILVUS, MINIO)
_INSTANCE = re.compile(rf"{MILVUS}-([2-9]|[1-9][0-9]+)")


def kind_of(name: str) -> str:
    """The kind of a sink of this name."""
    return MILVUS if _INSTANCE.fullmatch(name) else name


def number_of(name: str) -> int:
    """The number of an instance: 1 for `milvus`, 2 for `milvus-2`."""
    found = _INSTANCE.fullmatch(name)
    return int(found[1]) if found else 1


def next_instance(names: Iterable[str]) -> str:
    """The name of the next instance of Milvus; `names` are those in use."""
    return f"{MILVUS}-{1 + max((number_of(name) for name in names if kind_of(name) == MILVUS), default=1)}"


@dataclass(frozen=True, slots=True, order=True)
class RegisteredSink:
    """A row of the table `sinks`; `state` is "active", "joining" or "leaving"."""

    name: str
    required: bool
    takes_vectors: bool
    takes_files: bool
    state: str = "active"

    @property
    def kind(self) -> str:
        return kind_of(self.name)

    @property
    def is_serving(self) -> bool:
        """Whether searches use this sink: the required instance of Milvus."""
        return self.kind == MILVUS and self.required

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
