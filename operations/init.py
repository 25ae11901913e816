"""`rag-outbox init`: create tables, collection, bucket and topics, and store the embedding model. May be repeated."""

from contextlib import closing

from consumers.milvus.sink import MilvusSink
from consumers.minio.sink import MinioSink
from operations import wiring
from operations.settings import Settings
from schema.database import migrate
from schema.database.history import create_system
from schema.database.tables import LANES
from schema.kafka import topics


def init(settings: Settings) -> list[str]:
    """Create what is missing. Returns a line per harmless difference between a topic and what init would create.

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
        system.with_milvus(lambda client: MilvusSink(client, settings.vector_dimension).ensure())
        with closing(MinioSink(system.store)) as sink:
            sink.ensure()
    return [] if settings.kafka is None else topics.ensure(settings.kafka, settings.names)
