"""`rag-outbox init`: create tables, collection, bucket and topics, and store the embedding model. May be repeated."""

from operations import sinks, wiring
from operations.settings import Settings
from schema.database import migrate
from schema.database.history import create_system
from schema.database.tables import LANES
from schema.kafka import topics


def init(settings: Settings) -> list[str]:
    """Create what is missing. Returns a line per store that was lost, and per topic that differs harmlessly.

    Raises WrongModel if the system has another embedding model, TopicDiffers if a topic cannot be used.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with wiring.open_system(settings, initialised=False) as system:
        migrate.upgrade(system.engine)
        with system.engine.begin() as connection:
            create_system(
                connection,
                embedding_model=settings.embedding_model,
                dimension=settings.vector_dimension,
                lanes=LANES,
            )
    with wiring.open_system(settings) as system:
        lines = sinks.create_stores(system)
    return lines if settings.kafka is None else [*lines, *topics.ensure(settings.kafka, settings.names)]
