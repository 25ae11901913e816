"""Sinks of other distributions: an entry point of the group `rag_outbox.sinks` names the factory of each."""

from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final, Protocol, cast

from sqlalchemy import Connection

from consumers.sink import Change, Sink
from schema.object_store.port import ObjectStore

GROUP: Final = "rag_outbox.sinks"


class SinkSettings(Protocol):
    """The settings that a factory may read; `operations.settings.Settings` has them and more."""

    @property
    def data_dir(self) -> Path: ...
    @property
    def embedding_model(self) -> str: ...
    @property
    def vector_dimension(self) -> int: ...


class SinkFactory(Protocol):
    def __call__(self, settings: SinkSettings, store: ObjectStore, /) -> Sink:
        """Make the sink without connecting. `store` has the files that events name by a staged key."""


class UnmarkedRows:
    """The marks of a sink whose rows have no marks of their own: `sink_states` says what it holds."""

    def mark_applied(self, connection: Connection, changes: Sequence[Change]) -> None:
        """Nothing to mark."""


def load_factory(name: str) -> SinkFactory | None:
    """The factory of an installed sink; None if there is none. Raises ImportError or AttributeError if it is broken."""
    found = list(entry_points(group=GROUP, name=name))
    if len({entry.value for entry in found}) > 1:
        raise ImportError(f"several distributions have a sink {name!r}: {sorted(entry.value for entry in found)}")
    return cast(SinkFactory, found[0].load()) if found else None
