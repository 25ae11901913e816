"""The sinks of a system: the rows of the table `sinks`, with their factories, their stores and their progress."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, func, select

from operations.errors import OperationError
from operations.wiring import System
from schema.collection import name_of
from schema.database.connection import reading
from schema.database.history import read_identity
from schema.database.tables import SINK_STATES, sink_states, sinks
from schema.failures import ModelAway, StoreMissing
from schema.sinks import MILVUS, MINIO, RegisteredSink, number_of

if TYPE_CHECKING:
    from pymilvus import MilvusClient

    from consumers.marks import SinkMarks
    from consumers.milvus.sink import MilvusSink
    from consumers.sink import Sink
    from producer.processing.embed.port import Embedder


class UnknownSink(OperationError):
    """Raised for a sink that is not in the table `sinks`, or that no installed package provides."""


@dataclass(frozen=True)
class SinkSummary:
    """A row of `sinks`, and its documents per state."""

    name: str
    required: bool
    state: str
    documents: dict[str, int]


def read_all(system: System) -> tuple[RegisteredSink, ...]:
    """The rows of the table `sinks` as they are now, in the order of their names."""
    with reading(system.engine) as connection:
        return read_identity(connection).sinks


def names(system: System) -> list[str]:
    """The sinks that consumers keep up to date, in the order of their names."""
    return [one.name for one in read_all(system) if one.state != "leaving"]


def names_of_kind(system: System, kind: str) -> list[str]:
    """The instances of this kind that consumers keep up to date."""
    return [one.name for one in read_all(system) if one.state != "leaving" and one.kind == kind]


def names_in_use(found: Iterable[RegisteredSink]) -> list[str]:
    """The sinks that are not leaving; of the instances of Milvus, only the one that serves."""
    return [one.name for one in found if one.state != "leaving" and (one.kind != MILVUS or one.is_serving)]


def find_serving(system: System) -> RegisteredSink:
    """The instance of Milvus that searches use."""
    [serving] = [one for one in read_all(system) if one.is_serving]
    return serving


def require_registered(found: Iterable[RegisteredSink], name: str) -> RegisteredSink:
    """The row of this sink. Raises UnknownSink."""
    by_name = {one.name: one for one in found}
    if name not in by_name:
        raise UnknownSink(f"there is no sink {name!r} in the table sinks; there are: {', '.join(by_name)}")
    return by_name[name]


def read_options(system: System, name: str) -> dict[str, Any]:
    """What a re-creation of the sink's store needs: for Milvus, the `index` of its vectors, and their `model`."""
    with reading(system.engine) as connection:
        found = connection.execute(select(sinks.c.options).where(sinks.c.name == name)).scalar_one_or_none()
    return dict(found or {})


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


def open_sink(system: System, name: str, progress: Callable[[], None] = lambda: None) -> "tuple[Sink, SinkMarks]":
    """Make a sink and its marks, and import only this sink's client. `progress` is called while it embeds texts.

    Raises UnknownSink.
    """
    found = require_registered((one for one in read_all(system) if one.state != "leaving"), name)
    if found.kind == MILVUS:
        from consumers.milvus.marks import MilvusMarks

        return _open_instance(system, name, progress), MilvusMarks(name)
    if name == MINIO:
        from consumers.minio.marks import MinioMarks
        from consumers.minio.sink import MinioSink

        return MinioSink(system.store, system.identity.system_id), MinioMarks()
    from consumers.sinks import PluginMarks

    return make_plugin(system, name), PluginMarks(name)


def _open_instance(system: System, name: str, progress: Callable[[], None]) -> "Sink":
    from operations.embedding_sink import EmbeddingSink
    from operations.milvus_lite.restarting_sink import RestartingMilvusSink

    model, dimension = read_model(system.engine, name)
    sink = RestartingMilvusSink(system, name, dimension)
    return EmbeddingSink(sink, model, dimension, lambda: _load_embedder(system, name, model), progress)


def read_model(engine: Engine, name: str) -> tuple[str, int]:
    """The name and the dimension of the model of an instance of Milvus."""
    with reading(engine) as connection:
        identity = read_identity(connection)
        options = connection.execute(select(sinks.c.options).where(sinks.c.name == name)).scalar_one_or_none()
    if options and (found := options.get("model")):
        return found["embedding_model"], found["vector_dimension"]
    return identity.embedding_model, identity.dimension


def _load_embedder(system: System, name: str, model: str) -> "Embedder | None":
    """What makes vectors of the model of this instance; None if the system's model never changed.

    Raises ModelAway: settings can be corrected.
    """
    from operations.embedders import make_embedder
    from operations.instance_model import apply_model

    found = read_options(system, name).get("model")
    if found is None:
        return None
    embedder = make_embedder(apply_model(system.settings, found), system.engine, lambda: system.store)
    if embedder is None or embedder.model != model:
        raise ModelAway(f"{name} needs vectors of {model!r}, and nothing here makes them")
    return embedder


def make_plugin(system: System, name: str) -> "Sink":
    """The sink of another package, registered or not. Raises UnknownSink."""
    from consumers.sinks import GROUP, load_factory

    try:
        factory = load_factory(name)
    except (ImportError, AttributeError) as error:
        raise UnknownSink(f"the sink {name!r} cannot be loaded: {error}") from error
    if factory is None:
        raise UnknownSink(f"no installed package has an entry point {name!r} in the group {GROUP}")
    return factory(system.settings, system.store)


def create_stores(system: System) -> list[str]:
    """Create the stores that are missing. Returns a line per store whose documents a consumer has to refill.

    Raises OtherSystem, before it creates anything, if one of them belongs to another system.
    """
    found = [one for one in read_all(system) if one.state != "leaving"]
    instances = [one for one in found if one.kind == MILVUS]
    with ExitStack() as stack:
        others = [open_sink(system, one.name)[0] for one in found if one.kind != MILVUS]
        for sink in others:
            stack.callback(sink.close)
            _check(sink)
        lines = [system.with_milvus(lambda client: _create_instance(system, client, one)) for one in instances]  # noqa: B023
        lines += [_create_store(system, sink) for sink in others]
    return [line for line in lines if line is not None]


def milvus_sink(
    system: System, client: "MilvusClient", instance: RegisteredSink, options: Mapping[str, Any]
) -> "MilvusSink":
    """The sink of an instance with these options: the index of its vectors, and their model."""
    from consumers.milvus.sink import MilvusSink

    settings, model = system.settings, options.get("model")
    return MilvusSink(
        client,
        model["vector_dimension"] if model else system.identity.dimension,
        system.identity.system_id,
        settings.collection_alias,
        name=instance.name,
        is_serving=instance.is_serving,
        index=options.get("index"),
        timeout_seconds=settings.store_timeout_seconds,
    )


def _create_instance(system: System, client: "MilvusClient", instance: RegisteredSink) -> str | None:
    options = read_options(system, instance.name)
    return _create_store(system, milvus_sink(system, client, instance, options))


def refuse_other_systems(system: System, system_id: str) -> None:
    """Raises OtherSystem if the collection or the bucket exists and is not of the system with this id."""
    from consumers.minio.sink import MinioSink

    with closing(MinioSink(system.store, system_id)) as sink:
        _check(sink)
    lite = system.settings.milvus_lite
    if lite is None or lite.exists():
        system.with_milvus(lambda client: _refuse_other_collection(system, client, system_id))


def _check(sink: "Sink") -> None:
    with suppress(StoreMissing):
        sink.ensure()


def _refuse_other_collection(system: System, client: "MilvusClient", system_id: str) -> None:
    """The alias of a lost system may point to another instance than the first."""
    from consumers.milvus.collection import require_own

    alias = system.settings.collection_alias
    for name in (alias, name_of(alias, number_of(MILVUS))):
        with suppress(StoreMissing):
            require_own(client, name, system_id)


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
