"""Sinks of other distributions: an entry point of the group `rag_outbox.sinks` names the factory of each."""

from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final, Protocol, cast

from sqlalchemy import Connection

from consumers import marks
from consumers.removals import needs_earlier_parts
from consumers.sink import Change, Sink
from schema.object_store.port import ObjectStore

GROUP: Final = "rag_outbox.sinks"
_SKIPPED = "the sink skipped a version"
_IN_PARTS = "the parts of a version came one by one"


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


class PluginMarks:
    """The marks of a sink whose rows have none of their own: `sink_states` alone says what it holds.

    Tombstones are confirmed by Milvus and the object store, vectors by the required sinks. A sink that is behind them
    may skip the version, or a part of it, that named a tombstone or had a vector, or lose the removals of a version
    that comes in parts. Then the document is absent, and a refill replaces it.
    """

    def __init__(self, sink: str) -> None:
        self._sink = sink

    def mark_applied(self, connection: Connection, changes: Sequence[Change]) -> None:
        versions = {change.doc_id: change.version for change in changes if not change.replace}
        known = marks.load_known(connection, self._sink, versions)
        reasons = {doc_id: _SKIPPED for doc_id, one in known.items() if one.applied_version < versions[doc_id] - 1}
        ends = [change for change in changes if change.events[-1].part == change.events[-1].parts]
        reasons |= {change.doc_id: _IN_PARTS for change in ends if needs_earlier_parts(change)}
        marks.mark_absent(connection, self._sink, reasons)

    def complete_removals(self, connection: Connection, changes: Sequence[Change]) -> list[Change]:
        return list(changes)  # `mark_applied` makes them absent


def load_factory(name: str) -> SinkFactory | None:
    """The factory of an installed sink; None if there is none. Raises ImportError or AttributeError if it is broken."""
    found = list(entry_points(group=GROUP, name=name))
    if len({entry.value for entry in found}) > 1:
        raise ImportError(f"several distributions have a sink {name!r}: {sorted(entry.value for entry in found)}")
    return cast(SinkFactory, found[0].load()) if found else None
