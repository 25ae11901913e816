"""`rag-outbox init`: create tables, collection, bucket and topics, and store the system's identity. May be repeated."""

import uuid
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from operations import server_checks, sinks, wiring
from operations.errors import OperationError
from operations.settings import PREFIX, Settings, SettingsError
from operations.wiring import System
from schema.database import migrate, revision
from schema.database.connection import reading
from schema.database.history import Identity, NotInitialised, create_system, read_identity
from schema.database.tables import LANES
from schema.kafka import topics


class LanesDiffer(OperationError):
    """Raised when the system exists with another number of lanes; the message names both."""


class SystemIdDiffers(OperationError):
    """Raised when the database has another system id than the given one; the message names both."""


@dataclass(frozen=True)
class Initialised:
    """`notes`: a line per store that was lost, per topic that differs harmlessly, and per weak setting of MySQL."""

    system_id: str
    notes: list[str]


def init(settings: Settings, lanes: int | None = None, system_id: str | None = None) -> Initialised:
    """Create what is missing.

    A new system has `lanes` lanes and the id `system_id`, a UUID. Raises LanesDiffer or SystemIdDiffers if the system
    has others, OtherSystem if a store belongs to another system, WrongModel if the system has another embedding model,
    TopicDiffers if a topic cannot be used, UnfitServer if a server cannot, SettingsError if a store is not set.
    """
    settings.require_all()
    if settings.services_since is None:
        _make_data_dir(settings)
    with wiring.open_system(settings, initialised=False, has_limit=False) as system:
        notes = server_checks.check_mysql(system.engine)
        server_checks.check_milvus(system)
        given = system_id or str(uuid.uuid4())
        has_tables = revision.current(system.engine) is not None
        if not has_tables:
            _require_new(system, given)  # before it creates anything
        migrate.upgrade(system.engine)
        found = _read_identity(system.engine)
        if found is None:
            if has_tables:
                _require_new(system, given)  # before it is stored: another id could not be given then
            found = _store_identity(system, lanes or LANES, given, has_past=system_id is not None)
        _require_same(found, lanes, system_id)
    with wiring.open_system(settings, has_limit=False) as system:
        notes += sinks.create_stores(system)
        if settings.kafka is not None:
            notes += topics.ensure(settings.kafka, system.names, system.identity.lanes, sinks.names(system))
        return Initialised(system.identity.system_id, notes)


def _require_new(system: System, system_id: str) -> None:
    """Raises SettingsError for a wrong dimension, OtherSystem if a store belongs to another system than `system_id`."""
    _require_dimension(system.settings)
    sinks.refuse_other_systems(system, system_id)


def _require_dimension(settings: Settings) -> None:
    """The dimension is stored for ever, and the embedder of this model has only one."""
    from producer.processing.embed.wordllama import WordLlamaEmbedder

    built_in = WordLlamaEmbedder
    if settings.embedding_model == built_in.model and settings.vector_dimension != built_in.dimension:
        raise SettingsError(
            f"{PREFIX}VECTOR_DIMENSION: {built_in.model} has {built_in.dimension} dimensions, "
            f"not {settings.vector_dimension}"
        )


def _make_data_dir(settings: Settings) -> None:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{PREFIX}DATA_DIR: cannot make {settings.data_dir}: {error.strerror}") from None


def _read_identity(engine: Engine) -> Identity | None:
    with reading(engine) as connection:
        try:
            return read_identity(connection)
        except NotInitialised:
            return None


def _require_same(found: Identity, lanes: int | None, system_id: str | None) -> None:
    if lanes not in (None, found.lanes):
        raise LanesDiffer(
            f"the system has {found.lanes} lanes, not {lanes}: their number is fixed when the system is created"
        )
    if system_id not in (None, found.system_id):
        raise SystemIdDiffers(
            f"the database is that of the system {found.system_id}, not {system_id}: a system keeps its id"
        )


def _store_identity(system: System, lanes: int, system_id: str, *, has_past: bool) -> Identity:
    """Returns what is stored: another `init` may have been faster."""
    try:
        return _insert_identity(system, lanes, system_id, has_past=has_past)
    except IntegrityError:
        with reading(system.engine) as connection:
            return read_identity(connection)


def _insert_identity(system: System, lanes: int, system_id: str, *, has_past: bool) -> Identity:
    settings = system.settings
    with system.engine.begin() as connection:
        with suppress(NotInitialised):
            return read_identity(connection)
        create_system(
            connection,
            embedding_model=settings.embedding_model,
            dimension=settings.vector_dimension,
            lanes=lanes,
            system_id=system_id,
            namespace=settings.namespace,
            has_past=has_past,
        )
        _set_lanes(system.engine, lanes)
        return read_identity(connection)


def _set_lanes(engine: Engine, lanes: int) -> None:
    """Let MySQL compute this number of lanes. The outbox is not used yet: the identity is not committed."""
    if engine.dialect.name == "mysql":
        column = f"lane SMALLINT GENERATED ALWAYS AS (mod(crc32(aggregate_id), {lanes:d})) STORED NOT NULL"
        with engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE outbox MODIFY {column}")
