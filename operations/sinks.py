"""The sinks of a system: the rows of the table `sinks`, with their factories, their stores and their progress."""

from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from operations.errors import OperationError
from operations.wiring import System
from schema.database.connection import reading
from schema.database.tables import SINK_STATES, sink_states, sinks
from schema.failures import StoreMissing
from schema.sinks import MILVUS, MINIO

if TYPE_CHECKING:
    from pymilvus import MilvusClient

    from consumers.marks import SinkMarks
    from consumers.sink import Sink


class UnknownSink(OperationError):
    """Raised for a sink that is not in the table `sinks`, or that no installed package provides."""


@dataclass(frozen=True)
class SinkSummary:
    """A row of `sinks`, and its documents per state."""

    name: str
    required: bool
    state: str
    documents: dict[str, int]


def names(system: System) -> list[str]:
    """The sinks that consumers keep up to date, in the order of their names."""
    with reading(system.engine) as connection:
        statement = select(sinks.c.name).where(sinks.c.state != "leaving").order_by(sinks.c.name)
        return list(connection.execute(statement).scalars())


def summaries(system: System) -> list[SinkSummary]:
    with reading(system.engine) as connection:
        found = connection.execute(select(sinks).order_by(sinks.c.name)).all()
        counted = select(sink_states.c.sink, sink_states.c.state, func.count())
        rows = connection.execute(counted.group_by(sink_states.c.sink, sink_states.c.state)).all()
    counts = {(sink, state): count for sink, state, count in rows}
    return [
        SinkSummary(
            sink.name, sink.required, sink.state, {state: counts.get((sink.name, state), 0) for state in SINK_STATES}
        )
        for sink in found
    ]


def open_sink(system: System, name: str) -> "tuple[Sink, SinkMarks]":
    """Make a sink and its marks, and import only this sink's client. Raises UnknownSink."""
    known = names(system)
    if name not in known:
        raise UnknownSink(f"there is no sink {name!r} in the table sinks; there are: {', '.join(known)}")
    if name == MILVUS:
        from consumers.milvus.marks import MilvusMarks
        from operations.milvus_lite.restarting_sink import RestartingMilvusSink

        return RestartingMilvusSink(system), MilvusMarks()
    if name == MINIO:
        from consumers.minio.marks import MinioMarks
        from consumers.minio.sink import MinioSink

        return MinioSink(system.store, system.identity.system_id), MinioMarks()
    from consumers.sinks import GROUP, PluginMarks, load_factory

    try:
        factory = load_factory(name)
    except (ImportError, AttributeError) as error:
        raise UnknownSink(f"the sink {name!r} cannot be loaded: {error}") from error
    if factory is None:
        raise UnknownSink(f"no installed package has an entry point {name!r} in the group {GROUP}")
    return factory(system.settings, system.store), PluginMarks(name)


def create_stores(system: System) -> list[str]:
    """Create the stores that are missing. Returns a line per store whose documents a consumer has to refill.

    Raises OtherSystem, before it creates anything, if one of them belongs to another system.
    """
    system_id = system.identity.system_id
    with ExitStack() as stack:
        others = [open_sink(system, name)[0] for name in names(system) if name != MILVUS]
        for sink in others:
            stack.callback(sink.close)
            _check(sink)
        lines = [system.with_milvus(lambda client: _create_store(system, _milvus(system, client, system_id)))]
        lines += [_create_store(system, sink) for sink in others]
    return [line for line in lines if line is not None]


def refuse_other_systems(system: System, system_id: str) -> None:
    """Raises OtherSystem if the collection or the bucket exists and is not of the system with this id."""
    from consumers.minio.sink import MinioSink

    with closing(MinioSink(system.store, system_id)) as sink:
        _check(sink)
    lite = system.settings.milvus_lite
    if lite is None or lite.exists():
        system.with_milvus(lambda client: _check(_milvus(system, client, system_id)))


def _check(sink: "Sink") -> None:
    with suppress(StoreMissing):
        sink.ensure()


def _milvus(system: System, client: "MilvusClient", system_id: str) -> "Sink":
    from consumers.milvus.sink import MilvusSink

    settings = system.settings
    return MilvusSink(client, settings.vector_dimension, system_id, settings.collection_alias)


def _create_store(system: System, sink: "Sink") -> str | None:
    """Nothing that a new store holds counts, so every document becomes absent before it is created."""
    from consumers.refill import mark_all_absent

    marked = 0
    try:
        sink.ensure()
    except StoreMissing:
        marked = mark_all_absent(system.engine, sink.name, "the store was missing and is new")
    sink.create()
    return f"{sink.name}: the store was missing; {marked} documents wait for their refill" if marked else None
