"""`rag-outbox init`: create tables, collection, bucket and topics, and store the system's identity. May be repeated."""

from sqlalchemy import Engine

from operations import sinks, wiring
from operations.errors import OperationError
from operations.settings import Settings
from schema.database import migrate
from schema.database.history import NotInitialised, create_system, read_identity
from schema.database.tables import LANES
from schema.kafka import topics


class LanesDiffer(OperationError):
    """Raised when the system exists with another number of lanes; the message names both."""


def init(settings: Settings, lanes: int | None = None) -> list[str]:
    """Create what is missing. Returns a line per store that was lost, and per topic that differs harmlessly.

    A new system has `lanes` lanes. Raises LanesDiffer if the system has another number, WrongModel if it has another
    embedding model, TopicDiffers if a topic cannot be used.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with wiring.open_system(settings, initialised=False) as system:
        migrate.upgrade(system.engine)
        _store_identity(system.engine, settings, lanes)
    with wiring.open_system(settings) as system:
        lines = sinks.create_stores(system)
        if settings.kafka is not None:
            lines += topics.ensure(settings.kafka, settings.names, system.identity.lanes, sinks.names(system))
        return lines


def _store_identity(engine: Engine, settings: Settings, lanes: int | None) -> None:
    with engine.begin() as connection:
        try:
            found = read_identity(connection).lanes
        except NotInitialised:
            given = lanes or LANES
            create_system(
                connection, embedding_model=settings.embedding_model, dimension=settings.vector_dimension, lanes=given
            )
            _set_lanes(engine, given)
            return
    if lanes not in (None, found):
        raise LanesDiffer(
            f"the system has {found} lanes, not {lanes}: their number is fixed when the system is created"
        )


def _set_lanes(engine: Engine, lanes: int) -> None:
    """Let MySQL compute this number of lanes. The outbox is not used yet: the identity is not committed."""
    if engine.dialect.name == "mysql":
        column = f"lane SMALLINT GENERATED ALWAYS AS (mod(crc32(aggregate_id), {lanes:d})) STORED NOT NULL"
        with engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE outbox MODIFY {column}")
